"""Real Ray heads as README.md starts them, and the real command line."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from typer.testing import CliRunner

from distmeta.cli.main import app

BIN = Path(sys.executable).parent
SINUSOID: dict[str, Any] = {
    "name": "sinusoid",
    "tasks": {"kind": "sinusoid"},
    "model": {"kind": "mlp", "hidden": [4]},
    "algorithm": {"name": "maml"},
    "run": {"steps": 3, "meta_batch": 4, "log_every": 1},
    "evaluation": {"tasks": 8},
    "engine": {"compile": "none"},
}
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_SCHEDULER_EVENTS": "0"}


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    code: int
    out: str
    err: str

    def succeeded(self) -> Ended:
        assert self.code == 0, self.out + self.err
        return self

    def refused(self, *words: str, code: int = 1) -> None:
        """It failed with one clear message, which names these things."""
        assert self.code == code, self.out + self.err
        assert "Traceback" not in self.out + self.err, self.err
        assert self.err.count("error: ") == 1, self.err
        for word in words:
            assert word in self.err.partition("error: ")[2]


@dataclass(frozen=True)
class Head:
    """A running head: ``environment`` is what its users set, ``home`` the home folder of its own processes.

    ``files`` is where Ray keeps what it writes.
    """

    address: str
    environment: dict[str, str]
    home: Path
    files: Path

    def start(self, *arguments: str | Path, **environment: str) -> subprocess.Popen[str]:
        """The console command, running, in a process group of its own as under a shell."""
        return subprocess.Popen(
            [BIN / "distmeta", *arguments],
            env=clean_environment() | self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # A shell has what it starts in the background ignore Ctrl-C, and so do these tests then.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def invoke(self, *arguments: str | Path) -> Ended:
        """The command line in this process: quick, but for signals and tokens, which Ray reads once."""
        return invoke(*arguments, **self.environment)

    def run(self, *arguments: str | Path, **environment: str) -> Ended:
        """The console command, to its end."""
        with self.start(*arguments, **environment) as process:
            return finish(process)

    def runs(self, name: str) -> Path:
        """Where a job's run lies by default."""
        return self.home / "distmeta-runs" / name


def invoke(*arguments: str | Path, **environment: str) -> Ended:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200", **environment})
    trace = ""
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        trace = "".join(traceback.format_exception(result.exception))
    return Ended(result.exit_code, result.stdout, result.stderr + trace)


def finish(process: subprocess.Popen[str]) -> Ended:
    try:
        out, err = process.communicate(timeout=240)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return Ended(process.returncode, out, err)


def clean_environment() -> dict[str, str]:
    """This process's environment, but for what says where a cluster is and how one gets in."""
    ours = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    return {name: value for name, value in os.environ.items() if name not in ours} | QUIET


@contextmanager
def running_head(folder: Path, auth: dict[str, str]) -> Iterator[Head]:
    """A head with two CPUs, on this machine's loopback address alone, whose own distmeta cannot even be imported."""
    (folder / "home").mkdir()
    (folder / "older" / "distmeta").mkdir(parents=True)
    (folder / "older" / "distmeta" / "__init__.py").write_text("raise ImportError('an older distmeta')")
    port, dashboard, agent = free_ports(3)
    environment = clean_environment() | auth
    environment["PATH"] = os.pathsep.join([str(BIN), environment["PATH"]])  # as an activated environment has it
    environment |= {"PYTHONPATH": str(folder / "older"), "HOME": str(folder / "home")}
    environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # else Ray replaces the loopback address
    options = [f"--port={port}", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", "--num-cpus=2"]
    options += ["--node-ip-address=127.0.0.1", "--disable-usage-stats", f"--dashboard-agent-listen-port={agent}"]
    with tempfile.TemporaryDirectory(prefix="dm-", ignore_cleanup_errors=True) as short:  # sockets' names are limited
        process = subprocess.Popen(
            [BIN / "ray", "start", "--head", "--block", f"--temp-dir={short}", *options],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            wait_for_port(process, agent)
            address = f"http://127.0.0.1:{dashboard}"
            yield Head(address, {**auth, "RAY_API_SERVER_ADDRESS": address}, folder / "home", Path(short))
        finally:
            process.terminate()
            try:
                process.wait(30)
            finally:
                kill_session(process.pid)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, outside the range that Ray keeps for its workers."""
    found: list[int] = []
    for candidate in range(23000 + os.getpid() % 5000, 32000):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", candidate)):
                found.append(candidate)
        if len(found) == count:
            break
    return found


def wait_for_port(process: subprocess.Popen[bytes], port: int) -> None:
    end = time.monotonic() + 90
    while time.monotonic() < end:
        with socket.socket() as probe:
            if not probe.connect_ex(("127.0.0.1", port)):
                return
        assert process.poll() is None, "the head ended by itself"
        time.sleep(0.1)
    raise AssertionError("the head does not start")


def kill_session(leader: int) -> None:
    """End what a head has left: all processes of its session."""
    for path in Path("/proc").iterdir():
        try:
            if path.name.isdigit() and os.getsid(int(path.name)) == leader:
                os.kill(int(path.name), signal.SIGKILL)
        except ProcessLookupError:
            continue


def write_config(folder: Path, **changes: Any) -> Path:
    file = folder / "sinusoid.yaml"
    file.write_text(yaml.safe_dump({**SINUSOID, **changes}))
    return file


def result_of(run: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((run / "result.json").read_text())
    return result
