"""A driver that is killed at any moment, also while it writes a checkpoint, goes on as if it had not been."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import ray
from integration_helpers import (
    assert_same,
    checkpoint_names,
    configure,
    drain,
    logged_steps,
    parameters,
    poll,
    result_of,
    snapshot,
    train,
)

import distmeta
from distmeta import checkpoint
from distmeta.storage import Storage

STEPS = 40
BIG: dict[str, Any] = {
    "name": "big",
    "tasks": {"kind": "sinusoid"},
    "model": {"kind": "mlp", "hidden": [1200, 1200]},  # 17 MB a checkpoint, so that writing one lasts
    "algorithm": {"name": "fomaml"},
    "engine": {"compile": "none"},
    "run": {
        "steps": STEPS,
        "meta_batch": 3,
        "tasks_per_shard": 1,
        "validate_every": 6,
        "checkpoint_every": 1,
        "log_every": 1,
        "keep": 2,
    },
    "evaluation": {"tasks": 2, "validation_tasks": 2},
}
WORKERS = (0, 1, 2, 0, 3, 0, 1, 0, 2, 0)  # of the drivers that are killed, one after the other


def drive(run: str, workers: int, address: str, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    settings = (f"cluster.workers={workers}", f"cluster.address={address}")
    drain(distmeta.train(configure(BIG, *settings), run, resume=True))


@contextmanager
def driver(run: Path, workers: int) -> Iterator[int]:
    """The process id of a driver at work, which is killed at the end."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["distmeta.train", "distmeta.transports.ray_actors"])
    address = ray.get_runtime_context().gcs_address
    settings = {name: os.environ[name] for name in ("DISTMETA_CACHE", "RAY_AUTH_MODE")}
    process = context.Process(target=drive, args=(str(run), workers, address, settings), daemon=True)
    process.start()
    assert process.pid is not None
    try:
        yield process.pid
        assert process.is_alive(), "it ended before it was killed"
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.join()


def newest(run: Path) -> int:
    return max(checkpoint.steps(Storage.at(run)), default=0)


def being_written(run: Path, pid: int) -> list[str]:
    """Unfinished checkpoints of this process."""
    folder = run / "checkpoints"
    return [name for name in os.listdir(folder) if name.startswith(f".partial-{pid}-")] if folder.exists() else []


@pytest.mark.usefixtures("ray_cluster")
def test_killed_drivers(tmp_path: Path) -> None:
    chance = random.Random(0)
    run, whole = tmp_path / "run", tmp_path / "whole"
    hit_a_write = resumed = 0
    for sitting, workers in enumerate(WORKERS):
        begun = newest(run)
        with driver(run, workers) as pid:
            assert poll(lambda: newest(run), lambda step, begun=begun: step > begun, 60) > begun
            if sitting % 2:
                time.sleep(chance.uniform(0.0, 0.3))
            else:
                assert poll(lambda: being_written(run, pid), bool, 60)
                time.sleep(chance.uniform(0.0, 0.02))
        hit_a_write += bool(being_written(run, pid))
        left = snapshot(run)  # refuses a damaged one
        assert left.step > begun
        assert logged_steps(run)[: left.step] == list(range(1, left.step + 1))
        assert left.counters["driver_restarts"] == resumed
        resumed += 1
    assert hit_a_write >= 3

    train(run, BIG, resume=True)
    train(whole, BIG)
    assert_same(parameters(run, STEPS), parameters(whole, STEPS))
    assert logged_steps(run) == list(range(1, STEPS + 1))
    found, expected = result_of(run), result_of(whole)
    assert found["faults"]["driver_restarts"] == resumed == len(WORKERS)
    for key in ("meta_test", "best_validation", "checkpoint", "steps", "tasks"):
        assert found[key] == expected[key]
    assert checkpoint_names(run) == checkpoint_names(whole)
