"""Workers that die, and models that fail in workers."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from integration_helpers import (
    GLYPHS,
    SINUSOID,
    assert_same,
    configure,
    drain,
    logged_steps,
    parameters,
    poll,
    ray_workers,
    snapshot,
)

import distmeta
from distmeta.errors import ClusterError, TaskError

pytestmark = pytest.mark.usefixtures("ray_cluster")


class Killer:
    """Kills Ray workers and counts them."""

    def __init__(self) -> None:
        self.kills = 0
        self._timers: list[threading.Timer] = []

    def kill(self, count: int) -> None:
        """Kill this many workers now, once both of them run."""
        for pid in self._running()[:count]:
            self._kill(pid)

    def kill_in(self, seconds: float) -> None:
        """Kill a worker in a moment, in the middle of a step."""
        self._timers.append(threading.Timer(seconds, self._kill, [self._running()[-1]]))
        self._timers[-1].start()

    def wait(self) -> None:
        for timer in self._timers:
            timer.join()

    def _running(self) -> list[int]:
        pids: list[int] = poll(ray_workers, lambda found: len(found) == 2, 60)
        assert len(pids) == 2
        return pids

    def _kill(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        self.kills += 1


@pytest.mark.slow
def test_killed_workers(tmp_path: Path, reference: Callable[[str], Any]) -> None:
    assert poll(ray_workers, lambda found: not found, 10) == []
    killer = Killer()
    steps = distmeta.train(configure(GLYPHS, "cluster.workers=2"), tmp_path)
    for record in steps:
        if record.step == 4:
            killer.kill_in(0.05)
        elif record.step == 10:
            killer.kill(2)
        elif record.step == 16:
            killer.wait()
            break
    assert killer.kills == 3
    assert record.faults["workers_lost"] == killer.kills
    result = drain(steps)
    expected = reference("glyphs")
    assert_same(parameters(tmp_path), expected.parameters)
    assert result["meta_test"] == expected.result["meta_test"]
    assert result["faults"]["workers_lost"] == killer.kills
    assert 1 <= result["faults"]["shards_redone"] <= 2 * 2 * killer.kills
    assert result["workers"]["count"] == 2
    ever = len(result["workers"]["shards_each"])  # one that is killed while it opens has never been at work
    assert 2 < ever <= 2 + killer.kills
    assert sum(result["workers"]["shards_each"]) == sum(expected.result["workers"]["shards_each"])
    assert logged_steps(tmp_path) == logged_steps(expected.folder)


def broken(kind: str, switch: Path, workers: int) -> tuple[str, ...]:
    return (
        f"cluster.workers={workers}",
        "engine.compile=none",  # what is recorded does not come to the model's code again
        f"model={{kind: 'module:integration_models.{kind}', switch: {switch}, driver: {os.getpid()}}}",
    )


@pytest.mark.parametrize(
    ("kind", "workers", "where"),
    [
        ("Raises", 1, "one worker, and no other could be opened"),
        pytest.param("RaisesLater", 2, "each of 2 workers", marks=pytest.mark.slow),
    ],
)
def test_model_that_raises_in_a_worker(kind: str, workers: int, where: str, tmp_path: Path) -> None:
    switch = tmp_path / "switch"
    run = tmp_path / "run"
    steps = distmeta.train(configure(SINUSOID, *broken(kind, switch, workers)), run)
    assert [next(steps).step for _ in range(4)] == [1, 2, 3, 4]
    switch.touch()
    with pytest.raises(TaskError, match="the user's own complaint") as caught:
        drain(steps)
    shown = str(caught.value)
    assert f"failed 3 times on {where}" in shown
    assert "training task" in shown
    assert "integration_models.py" in shown
    assert "in fail" in shown
    assert snapshot(run).step == 4
    switch.unlink()
    resumed = configure(SINUSOID, *broken(kind, switch, 0))
    assert drain(distmeta.train(resumed, run, resume=True))["steps"] == 20


@pytest.mark.slow
def test_workers_that_keep_dying(tmp_path: Path) -> None:
    switch = tmp_path / "switch"
    run = tmp_path / "run"
    steps = distmeta.train(configure(SINUSOID, *broken("Dies", switch, 2)), run)
    assert [next(steps).step for _ in range(4)] == [1, 2, 3, 4]
    switch.touch()
    with pytest.raises(ClusterError, match="workers died one after the other"):
        drain(steps)
    assert snapshot(run).step == 4
    assert poll(ray_workers, lambda found: not found, 10) == []


def test_more_workers_than_the_cluster_holds(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"cluster.workers = 9 .* the cluster has 4"):
        next(distmeta.train(configure(SINUSOID, "cluster.workers=9"), tmp_path))
