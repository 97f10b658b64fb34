"""Workers that are killed, stopped and made to raise, again and again: nothing is lost, and every event is counted."""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from integration_helpers import GLYPHS, assert_same, configure, drain, logged, parameters, poll, ray_workers, train

import distmeta

pytestmark = pytest.mark.usefixtures("ray_cluster")

WORKERS = 3
SHARDS = 3
EVERY = 3
"""Steps from one event to the next, at least."""


def settings(folder: Path, steps: int) -> tuple[str, ...]:
    return (
        f"model={{kind: 'module:integration_models.Chaotic', folder: '{folder}'}}",
        f"run.steps={steps}",
        "algorithm.name=fomaml",
        f"run.meta_batch={2 * SHARDS}",
        "run.checkpoint_every=0",
        f"run.validate_every={steps // 2}",
        "engine.compile=none",
        "cluster.hang_seconds=2",
    )


class Chaos:
    """Does something bad to a worker that has done some work."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._chance = random.Random(0)
        self._hurt: set[int] = set()
        self.done: Counter[str] = Counter()

    def strike(self) -> bool:
        """One event, if two healthy workers are there."""
        healthy = [pid for pid in ray_workers() if pid not in self._hurt and self._file(pid).exists()]
        if len(healthy) < 2:
            return False
        kind = ("kill", "stop", "raise")[sum(self.done.values()) % 3]
        self.done[kind] += 1
        if kind == "raise":
            (self._folder / f"raise-{self.done[kind]}").touch()
            return True
        pid = self._chance.choice(healthy)
        self._hurt.add(pid)
        os.kill(pid, signal.SIGKILL if kind == "kill" else signal.SIGSTOP)
        return True

    def _file(self, pid: int) -> Path:
        return self._folder / f"worker-{pid}"


@pytest.mark.slow  # single faults, without waiting for one that hangs, are in test_faults
@pytest.mark.parametrize("count", [3, 21])
def test_killed_stopped_and_raising_workers(count: int, tmp_path: Path) -> None:
    assert poll(ray_workers, lambda found: not found, 10) == []
    length = 60 + 15 * count
    quiet, orders, run = tmp_path / "quiet", tmp_path / "orders", tmp_path / "run"
    quiet.mkdir(), orders.mkdir()
    undisturbed = train(tmp_path / "undisturbed", GLYPHS, *settings(quiet, length))
    chaos, slow = Chaos(orders), orders / "slow"
    slow.touch()  # so that events fall in mid-step, and no step is wasted while workers start
    steps = distmeta.train(configure(GLYPHS, *settings(orders, length), f"cluster.workers={WORKERS}"), run)
    next_event = 3
    for record in steps:
        if record.step >= next_event and chaos.done.total() < count and chaos.strike():
            next_event = record.step + EVERY
        if chaos.done.total() == count and record.faults["workers_hung"] == chaos.done["stop"]:
            slow.unlink(missing_ok=True)
        if record.step == length:
            break
    result = drain(steps)
    assert_same(parameters(run, length), parameters(tmp_path / "undisturbed", length))
    assert result["meta_test"] == undisturbed["meta_test"]
    assert chaos.done.total() == count
    assert counted(result) == {
        "workers_lost": chaos.done["kill"],
        "workers_hung": chaos.done["stop"],
        "workers_failed": 0,
    }
    raised = chaos.done["raise"]
    assert raised <= result["faults"]["shards_failed"] <= raised * SHARDS, "an exception is one piece's"
    assert result["faults"]["shards_redone"] <= count * SHARDS, "an event costs one step's work at most"
    assert logged(run)[-1]["faults/workers_hung"] == chaos.done["stop"]
    assert list(orders.glob("raise-*")) == []


def counted(result: dict[str, Any]) -> dict[str, int]:
    return {name: result["faults"][name] for name in ("workers_lost", "workers_hung", "workers_failed")}
