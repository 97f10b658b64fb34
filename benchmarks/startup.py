"""What a start costs: seconds from the command to its first meta-step, and from a killed worker to one at work again.

    python benchmarks/startup.py [--steps 300] [--rounds 1] [--omniglot FOLDER] [--json FILE] [KEY=VALUE ...]

Every run is a fresh process of the command line, as a user starts it: in process, on one Ray worker and on two.
``cold`` is the first run with an empty cache of its own (``DISTMETA_CACHE``), in which data, kernels and compiled code
are made; ``warm`` is the same command again. ``first step`` ends when the run has logged its first meta-step, ``whole
command`` when it has exited, the meta-test of 600 tasks included. ``over bare`` is that over the time in which the bare
engine computes the same meta-gradients by the same plan, measured before and after it: plain processes, one a core for
two workers, without Ray, learner, logging, or each other. ``least share`` is that of a worker in the shards of the cold
run. ``killed`` is a further warm run, of which one worker is killed (SIGKILL) after its third meta-step: the seconds
until a step is logged with as many workers as before.

The network is that of Omniglot 5-way 1-shot on the built-in glyph tasks, so that no data is needed; with ``--omniglot``
on Omniglot itself. Figures are medians over rounds, in which the three take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from common import show, write
from overhead import Processes

from distmeta.core.plan import Plan
from distmeta.loading import load_config
from distmeta.runs import checkpoint
from distmeta.tasks import prepare_family

SETTINGS: dict[str, Any] = {
    "name": "startup",
    "tasks": {"kind": "glyphs", "ways": 5, "shots": 1, "queries": 1},
    "model": {"kind": "conv4", "filters": 64},
    "algorithm": {"name": "maml", "inner_lr": 0.4, "inner_steps": 1},
    "run": {"meta_batch": 32, "tasks_per_shard": 8, "device": "cpu", "log_every": 1},
    "evaluation": {"queries": 1, "inner_steps": 3},  # as configs/omniglot_5w1s_maml.yaml
}
WORKERS = {"in process": 0, "1 Ray worker": 1, "2 Ray workers": 2}
FIGURES = (
    "cold first step",
    "least share",
    "cold whole command",
    "warm first step",
    "warm whole command",
    "over bare",
    "killed",
)
LOOK = 0.02
"""Seconds between looks at a run's log."""

BARE = 240
"""Shards by which the bare engine is measured."""

LONGEST = 900.0
"""Seconds after which a run is given up."""


class Run:
    """One command, from its start on; its files lie in a folder of its own."""

    def __init__(self, folder: Path, cache: Path, workers: int, steps: int, settings: list[str]) -> None:
        config = folder / "config.yaml"
        config.write_text(yaml.safe_dump(SETTINGS))
        self._log = folder / "run" / "metrics.jsonl"
        environment = {name: value for name, value in os.environ.items() if name != "TORCHINDUCTOR_CACHE_DIR"}
        arguments = [*settings, f"run.steps={steps}", f"cluster.workers={workers}", "--run-dir", str(folder / "run")]
        self._said = (folder / "said.txt").open("w+")
        self.began = time.perf_counter()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "distmeta", "train", str(config), *arguments],
            env={**environment, "DISTMETA_CACHE": str(cache)},
            stdout=subprocess.DEVNULL,
            stderr=self._said,
        )

    def until(self, there: Callable[[list[Mapping[str, Any]]], bool]) -> float:
        """Seconds since the start at which the records that are logged are such."""
        while not there(self._records()):
            if self.process.poll() is not None and not there(self._records()):
                raise SystemExit(f"a run has ended before it should: {self._words()}")
            self._check_time()
            time.sleep(LOOK)
        return time.perf_counter() - self.began

    def wait(self) -> float:
        """Seconds of the whole command."""
        if self.process.wait(LONGEST):
            raise SystemExit(f"a run has failed: {self._words()}")
        return time.perf_counter() - self.began

    def result(self) -> Any:
        """The content of ``result.json``."""
        return json.loads(self._log.with_name("result.json").read_text())

    def plan(self) -> Plan:
        """How it has computed."""
        return Plan.from_dict(checkpoint.resolve(self._log.parent)[0].plan)

    def workers(self) -> list[int]:
        """Process ids of the run's Ray workers."""
        return [pid for pid in descendants(self.process.pid) if _read(pid, "cmdline").startswith(b"ray::RayWorker")]

    def close(self) -> None:
        """End the run."""
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(60)
        self._said.close()

    def _records(self) -> list[Mapping[str, Any]]:
        if not self._log.exists():
            return []
        *whole, _ = self._log.read_text().split("\n")  # the last line may be half written
        return [json.loads(line) for line in whole]

    def _check_time(self) -> None:
        if time.perf_counter() - self.began > LONGEST:
            raise SystemExit(f"a run takes more than {LONGEST:.0f} s: {self._words()}")

    def _words(self) -> str:
        self._said.seek(0)
        return self._said.read()[-2000:]


def descendants(pid: int) -> list[int]:
    """Processes that a process has started, and theirs."""
    processes = [path.name for path in Path("/proc").iterdir() if path.name.isdigit()]
    parents = {int(each): _read(int(each), "stat").rpartition(b")")[2].split()[1:2] for each in processes}
    found = [pid]
    for parent in found:  # grows as it goes
        found += [each for each, its in parents.items() if its == [str(parent).encode()]]
    return found[1:]


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:  # it has ended
        return b""


@contextmanager
def running(cache: Path, workers: int, steps: int, settings: list[str]) -> Iterator[Run]:
    """A run in a folder that is deleted afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="distmeta-startup-"))
    run = Run(folder, cache, workers, steps, settings)
    try:
        yield run
    finally:
        run.close()
        shutil.rmtree(folder, ignore_errors=True)


def measure(workers: int, steps: int, settings: list[str]) -> dict[str, float]:
    """The seconds of one round."""
    taken: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="distmeta-startup-", ignore_cleanup_errors=True) as cache:
        with running(Path(cache), workers, steps, settings) as run:
            taken |= seconds("cold", run)
            shards, plan = run.result()["workers"]["shards_each"], run.plan()
            if workers > 1:
                taken["least share"] = min(shards) / sum(shards)
        before = bare(plan, max(1, workers), steps)
        with running(Path(cache), workers, steps, settings) as run:
            taken |= seconds("warm", run)
        after = bare(plan, max(1, workers), steps)  # twice: the machine's own rate changes from minute to minute
        taken["over bare"] = taken["warm whole command"] / statistics.mean((before, after))
        if workers:
            with running(Path(cache), workers, steps, settings) as run:
                taken["killed"] = revival(run, workers)
    return taken


def seconds(how: str, run: Run) -> dict[str, float]:
    """Those of a run until it ends."""
    return {f"{how} first step": run.until(bool), f"{how} whole command": run.wait()}


def bare(plan: Plan, processes: int, steps: int) -> float:
    """Seconds in which so many plain processes compute the run's shards."""
    config = load_config(SETTINGS)
    prepare_family(config)
    plain = Processes(plan)
    try:
        return steps * plain.seconds(processes, BARE // processes)
    finally:
        plain.close()


def revival(run: Run, workers: int) -> float:
    """Seconds from a worker's death until a meta-step is logged with as many workers as before."""
    run.until(lambda records: len(records) >= 3)
    victim = run.workers()[0]
    os.kill(victim, signal.SIGKILL)
    killed = time.perf_counter() - run.began
    back = run.until(lambda records: records[-1]["workers"] == workers and records[-1]["faults/workers_lost"] == 1)
    return back - killed


def main() -> None:
    """Start, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300, help="meta-steps of a run")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--workers", type=int, nargs="+", choices=WORKERS.values(), default=list(WORKERS.values()))
    parser.add_argument("--omniglot", metavar="FOLDER", help="folder or URI with Omniglot's archives")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("settings", metavar="KEY=VALUE", nargs="*", help="changes to the configuration")
    options = parser.parse_args()
    data = ["tasks.kind=omniglot", f"tasks.root={options.omniglot}"] if options.omniglot else []
    chosen = {name: count for name, count in WORKERS.items() if count in options.workers}
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in chosen}
    for _ in range(options.rounds):
        for name, count in chosen.items():
            rounds[name].append(measure(count, options.steps, [*data, *options.settings]))
    rows: list[dict[str, Any]] = []
    for name, taken in rounds.items():
        medians = {
            kind: statistics.median(each[kind] for each in taken) if kind in taken[0] else "" for kind in FIGURES
        }
        rows.append({"": name, **medians})
    show(f"seconds of a run of {options.steps} meta-steps", rows)
    write(options.json, "startup", {"steps": options.steps, "rounds": rounds})


if __name__ == "__main__":
    main()
