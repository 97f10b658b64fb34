"""Programs that tests start and watch, and the environment that Ray and distmeta have in them."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
PATIENCE = 300.0
"""Seconds to wait for anything; a busy machine may need many."""

RAY = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_SCHEDULER_EVENTS": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "RAY_worker_niceness": "0",  # else workers starve where the machine has other work
    # A host that is silent for some seconds is dead; with Ray's own settings that takes a minute.
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}
"""The environment of Ray in these tests."""

Seen = TypeVar("Seen")


def python_path() -> str:
    """What makes this checkout, and the programs beside this file, importable in other processes."""
    return os.pathsep.join(filter(None, [str(REPOSITORY), str(HERE), os.environ.get("PYTHONPATH")]))


def wait_for(look: Callable[[], Seen], good: Callable[[Seen], bool], patience: float = PATIENCE) -> Seen:
    """What is seen as soon as it is good.

    Raises:
        TimeoutError: it is not in time; says what was seen last.
    """
    end = time.monotonic() + patience
    while not good(seen := look()):
        if time.monotonic() > end:
            raise TimeoutError(f"after {patience:g} s there still was {seen!r}")
        time.sleep(0.05)
    return seen


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str

    def succeeded(self) -> Done:
        assert self.code == 0, self.out + self.err
        return self


class Running:
    """A program that runs on a host; what it prints goes to files, so that nobody has to read along."""

    def __init__(self, process: subprocess.Popen[bytes], out: Path, err: Path) -> None:
        self._process = process
        self._out, self._err = out, err

    @classmethod
    def start(cls, command: Sequence[str | Path], files: Path, folder: Path, environment: Mapping[str, str]) -> Running:
        """Start a program in a folder; ``files`` with ``.out`` and ``.err`` added is where its output goes."""
        out, err = (files.with_name(f"{files.name}.{kind}") for kind in ("out", "err"))
        with open(out, "wb") as to_out, open(err, "wb") as to_err:
            process = subprocess.Popen(
                [str(part) for part in command],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=to_out,
                stderr=to_err,
                start_new_session=True,
            )
        return cls(process, out, err)

    @property
    def err(self) -> str:
        """What it has said so far on stderr."""
        return self._err.read_text()

    def ended(self) -> bool:
        return self._process.poll() is not None

    def until(self, look: Callable[[], Seen], good: Callable[[Seen], bool], patience: float = PATIENCE) -> Seen:
        """As :func:`wait_for`, but fails as soon as the program has ended without it."""

        def seen_or_ended() -> tuple[bool, Seen]:
            ended = self.ended()  # asked first, else its last deeds could be missed
            return ended, look()

        _, seen = wait_for(seen_or_ended, lambda pair: pair[0] or good(pair[1]), patience)
        assert good(seen), f"it ended with {seen!r}\n{self._out.read_text()}{self.err}"
        return seen

    def end(self, patience: float = PATIENCE) -> Done:
        """Wait for its end."""
        try:
            code = self._process.wait(patience)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"it still runs\n{self._out.read_text()}{self.err}") from None
        return Done(code, self._out.read_text(), self.err)
