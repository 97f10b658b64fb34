"""Workers that are killed, stopped and made to raise, again and again: nothing is lost, and every event is counted."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from integration_helpers import GLYPHS, assert_same, configure, drain, logged, parameters, poll, ray_workers, train

import distmeta

pytestmark = pytest.mark.usefixtures("ray_cluster")

STEPS = 260
EVENTS = 21
WORKERS = 3
SHARDS = 3
EVERY = 7
"""Steps from one event to the next, at least."""


def settings(folder: Path) -> tuple[str, ...]:
    return (
        f"model={{kind: 'module:integration_models.Chaotic', folder: '{folder}'}}",
        f"run.steps={STEPS}",
        "algorithm.name=fomaml",
        f"run.meta_batch={2 * SHARDS}",
        "run.checkpoint_every=0",
        "run.validate_every=130",
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


def test_killed_stopped_and_raising_workers(tmp_path: Path) -> None:
    assert poll(ray_workers, lambda found: not found, 10) == []
    quiet, orders, run = tmp_path / "quiet", tmp_path / "orders", tmp_path / "run"
    quiet.mkdir(), orders.mkdir()
    undisturbed = train(tmp_path / "undisturbed", GLYPHS, *settings(quiet))
    chaos = Chaos(orders)
    steps = distmeta.train(configure(GLYPHS, *settings(orders), f"cluster.workers={WORKERS}"), run)
    next_event = 3
    for record in steps:
        events = sum(chaos.done.values())
        if record.step >= next_event and events < EVENTS and chaos.strike():
            next_event = record.step + EVERY
        time.sleep(0.02)  # a pause in which workers start, and which is not held against them
        if record.step == STEPS:
            break
    result = drain(steps)
    assert_same(parameters(run, STEPS), parameters_of(tmp_path / "undisturbed"))
    assert result["meta_test"] == undisturbed["meta_test"]
    assert sum(chaos.done.values()) == EVENTS
    assert counted(result) == {
        "workers_lost": chaos.done["kill"],
        "workers_hung": chaos.done["stop"],
        "shards_failed": chaos.done["raise"],
        "workers_failed": 0,
    }
    assert result["faults"]["shards_redone"] <= EVENTS * SHARDS, "an event costs one step's work at most"
    assert logged(run)[-1]["faults/workers_hung"] == chaos.done["stop"]
    assert list(orders.glob("raise-*")) == []


def parameters_of(run: Path) -> dict[str, Any]:
    return parameters(run, STEPS)


def counted(result: dict[str, Any]) -> dict[str, int]:
    return {
        name: result["faults"][name] for name in ("workers_lost", "workers_hung", "shards_failed", "workers_failed")
    }
