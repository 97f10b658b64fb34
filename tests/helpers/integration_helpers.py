"""Configurations, runs, and the real command line, for the tests of whole runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from task_helpers import NEEDED
from torch import Tensor
from typer.testing import CliRunner

import distmeta
from distmeta.cli.main import app
from distmeta.config.schema import Config
from distmeta.core.records import StepRecord
from distmeta.runs import checkpoint
from distmeta.runs.checkpoint import Snapshot
from distmeta.storage.files import Storage

CLI = Path(sys.executable).parent / "distmeta"
STEPS = 20

RUN = {
    "steps": STEPS,
    "meta_batch": 10,
    "tasks_per_shard": 2,  # five shards, which neither two nor three workers share evenly
    "validate_every": 5,
    "checkpoint_every": 3,
    "log_every": 1,
}
TIMED = (
    "seconds",
    "tasks_per_second",
    "workers",
    *(f"share/{name}" for name in ("compute", "data", "aggregation", "waiting")),
    "faults/shards_duplicated",  # a worker was late
)
"""What time decides, of a logged line."""
EVALUATION = {"tasks": 10, "validation_tasks": 4}

GLYPHS: dict[str, Any] = {
    "name": "glyphs",
    "tasks": {"kind": "glyphs", "ways": 3, "shots": 1, "queries": 2},
    "model": {"kind": "conv4", "filters": 8},
    "algorithm": {"name": "maml", "inner_lr": 0.1},
    "run": RUN,
    "evaluation": EVALUATION,
}
NAVIGATION: dict[str, Any] = {
    "name": "navigation",
    "tasks": {"kind": "navigation", "episodes": 4, "horizon": 9},
    "model": {"kind": "mlp", "hidden": [8], "activation": "tanh", "weights": "xavier"},
    "algorithm": {"name": "maml_trpo", "inner_lr": 0.3},
    "run": RUN,
    "evaluation": EVALUATION,
}
HALF_CHEETAH: dict[str, Any] = {
    **NAVIGATION,
    "name": "half_cheetah",
    "tasks": {"kind": "half_cheetah_dir", "episodes": 2, "horizon": 5},
    "algorithm": {"name": "maml_trpo", "inner_lr": 0.1},
}
BANDITS: dict[str, Any] = {
    **NAVIGATION,
    "name": "bandits",
    "tasks": {"kind": "bandits", "arms": 3, "episodes": 2, "horizon": 5},
    "model": {"kind": "gru", "width": 8},
    "algorithm": {"name": "rl2"},
}
SINUSOID: dict[str, Any] = {
    "name": "sinusoid",
    "tasks": {"kind": "sinusoid"},
    "model": {"kind": "mlp"},
    "algorithm": {"name": "maml"},
    "run": RUN,
    "evaluation": EVALUATION,
}
UMTRA: dict[str, Any] = {
    **GLYPHS,
    "name": "umtra",
    "model": {"kind": "mlp", "hidden": [16]},
    "tasks": {
        "kind": "unlabelled",
        "source": {"kind": "glyphs"},
        "augment": {"rotation": 20, "shift": 3, "dropout": 0.1},
        **{name: size for name, size in GLYPHS["tasks"].items() if name != "kind"},
    },
}
TABLE: dict[str, Any] = {**SINUSOID, "name": "table", "tasks": {"kind": "table", **NEEDED["table"]}}
DRAWN: dict[str, Any] = {
    **GLYPHS,
    "name": "drawn",
    "tasks": {
        "kind": "glyphs",
        "ways": {"min": 2, "max": 4},
        "shots": {"min": 1, "max": 2},
        "examples": 4,
        "metrics": ["auroc", "f1"],
    },
    "model": {"kind": "mlp", "hidden": [8]},
    "algorithm": {"name": "protonet"},
    "evaluation": {**EVALUATION, "ways": 3, "shots": 1},
}
FAMILIES = {"glyphs": GLYPHS, "sinusoid": SINUSOID, "table": TABLE, "drawn": DRAWN}


def configure(base: Mapping[str, Any], *overrides: str) -> Config:
    return distmeta.load_config(base, overrides)


def drain(steps: Iterator[StepRecord]) -> dict[str, Any]:
    """Run to the end; gives the run's result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: dict[str, Any] = end.value
            return result


def train(folder: str | Path, base: Mapping[str, Any], *overrides: str, resume: bool = False) -> dict[str, Any]:
    """A whole run; gives its result."""
    return drain(distmeta.train(configure(base, *overrides), folder, resume=resume))


def train_until(step: int, folder: str | Path, base: Mapping[str, Any], *overrides: str) -> None:
    """A run whose consumer stops listening after this step."""
    for record in distmeta.train(configure(base, *overrides), folder):
        if record.step == step:
            break


# What a run leaves behind -----------------------------------------------------------------------------------------


def snapshot(folder: str | Path) -> Snapshot:
    """The newest checkpoint of a run."""
    found, damaged = checkpoint.latest(Storage.at(folder))
    assert found is not None
    assert not damaged
    return found


def parameters(folder: str | Path, step: int = STEPS) -> dict[str, Tensor]:
    """All meta-parameters in a run's newest checkpoint, which should be this step's."""
    found = snapshot(folder)
    assert found.step == step
    return found.meta


def assert_same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Bit-identical."""
    assert found.keys() == expected.keys()
    different = [name for name in expected if not torch.equal(found[name], expected[name])]
    assert not different


def checkpoint_names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def logged(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def logged_steps(folder: Path) -> list[int]:
    return [line["step"] for line in logged(folder)]


def untimed(folder: Path) -> list[dict[str, Any]]:
    """The logged lines without what time decides."""
    return [{key: value for key, value in line.items() if key not in TIMED} for line in logged(folder)]


def result_of(folder: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return result


def flip_a_byte(file: Path) -> None:
    """Damage that leaves the file's size as it was."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0xFF
    file.write_bytes(data)


# The command line -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Finished:
    """A command that has ended."""

    code: int
    out: str
    err: str

    def succeeded(self) -> Finished:
        assert self.code == 0, self.err
        return self

    def refused(self, *words: str, code: int = 1) -> str:
        """It failed with one clear message, which names these things; gives the message."""
        assert self.code == code, self.out + self.err
        assert "Traceback" not in self.out + self.err, self.err
        assert self.err.count("error: ") == 1, self.err
        message = self.err.partition("error: ")[2]
        for word in words:
            assert word in message
        return message


def write_config(folder: Path, base: Mapping[str, Any]) -> Path:
    file = folder / f"{base['name']}.yaml"
    file.write_text(yaml.safe_dump(dict(base)))
    return file


def invoke(*arguments: str | Path) -> Finished:
    """The command line in this process: quick, but for signals and processes of its own."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    trace = ""
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        trace = "".join(traceback.format_exception(result.exception))
    return Finished(result.exit_code, result.stdout, result.stderr + trace)


def command(*arguments: str | Path) -> Finished:
    """The console script, to its end."""
    done = subprocess.run([CLI, *arguments], capture_output=True, text=True, timeout=120, check=False)
    return Finished(done.returncode, done.stdout, done.stderr)


class Command:
    """The console script, running, in a process group of its own as under a shell.

    ``mark`` stands in the environment of the process and of all that it starts, wherever these end up.
    """

    def __init__(self, *arguments: str | Path) -> None:
        self._variable = f"DISTMETA_TEST_MARK={time.monotonic_ns()}-{os.getpid()}"
        name, _, value = self._variable.partition("=")
        self._process = subprocess.Popen(
            [CLI, *arguments],
            env={**os.environ, name: value},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        """Without a word; nobody waits for it here, as nobody does elsewhere."""
        self._process.send_signal(signal.SIGKILL)
        assert poll(lambda: _state(self.pid), lambda state: state in "Z", 10) == "Z"

    def reach(self, step: int, folder: Path) -> bool:
        """Wait until this step is logged; false where the command ended before."""
        while self._process.poll() is None:
            if _last_logged(folder) >= step:
                return True
            time.sleep(0.005)
        return False

    def interrupt(self, number: signal.Signals) -> None:
        """Ctrl-C reaches the whole process group, other signals the process alone."""
        send = os.killpg if number == signal.SIGINT else os.kill
        send(self._process.pid, number)

    def end(self) -> Finished:
        out, err = self._process.communicate(timeout=120)
        return Finished(self._process.returncode, out, err)

    def left_behind(self, patience: float = 5.0) -> list[str]:
        """Processes that it started and that still run after a moment."""
        return poll(lambda: _marked(self._variable), lambda names: not names, patience)

    def __enter__(self) -> Command:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)  # stopped ones too
        self._process.communicate()


def _last_logged(folder: Path) -> int:
    try:
        lines = (folder / "metrics.jsonl").read_bytes().splitlines()
        return int(json.loads(lines[-1])["step"]) if lines else 0
    except (OSError, ValueError):  # not there yet, or half written
        return 0


# Processes --------------------------------------------------------------------------------------------------------


def poll(look: Callable[[], Any], good: Callable[[Any], bool], patience: float) -> Any:
    """What is seen as soon as it is good, else at last."""
    end = time.monotonic() + patience
    while not good(seen := look()) and time.monotonic() < end:
        time.sleep(0.02)
    return seen


def ray_workers() -> list[int]:
    """Process ids of the Ray workers that this process has started, and nobody else on this machine."""
    parents = {pid: _parent(pid) for pid in _pids()}
    mine = {os.getpid()}
    while found := {pid for pid, parent in parents.items() if parent in mine} - mine:
        mine |= found
    return sorted(pid for pid in mine if _read(pid, "cmdline").startswith(b"ray::RayWorker"))


def _pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _state(pid: int) -> str:
    stat = _read(pid, "stat")
    return stat.rpartition(b")")[2].split()[0].decode() if stat else ""


def _parent(pid: int) -> int:
    stat = _read(pid, "stat")
    return int(stat.rpartition(b")")[2].split()[1]) if stat else 0


def _marked(variable: str) -> list[str]:
    pids = [pid for pid in _pids() if variable.encode() in _read(pid, "environ").split(b"\0")]
    return [_read(pid, "cmdline").replace(b"\0", b" ").decode()[:80] for pid in pids]


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:  # it has ended
        return b""
