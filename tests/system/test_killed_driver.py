"""A driver that is killed at any moment, also while it writes a checkpoint, goes on as if it had not been."""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import ray
from integration_helpers import (
    assert_same,
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
from distmeta.runs import checkpoint
from distmeta.storage.files import Storage

STEPS = 45
BIG: dict[str, Any] = {
    "name": "big",
    "tasks": {"kind": "sinusoid"},
    "model": {"kind": "mlp", "hidden": [1200, 1200]},  # 17 MB a checkpoint, so that writing one lasts
    "algorithm": {"name": "fomaml"},
    "engine": {"compile": "none"},
    "run": {
        "steps": STEPS,
        "meta_batch": 2,
        "tasks_per_shard": 1,
        "validate_every": 6,
        "checkpoint_every": 1,
        "log_every": 1,
        "keep": 2,
    },
    "evaluation": {"tasks": 2, "validation_tasks": 2},
}
WORKERS = (0, 1, 0, 2, 0, 1, 0, 1, 0, 1)  # of the drivers that are killed, one after the other


def drive(run: str, workers: int, steps: int, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    drain(distmeta.train(configure(BIG, f"cluster.workers={workers}", f"run.steps={steps}"), run, resume=True))


@contextmanager
def driver(run: Path, workers: int, steps: int) -> Iterator[BaseProcess]:
    """A driver at work, which is killed at the end."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["distmeta.runs.train", "distmeta.workers.ray.actors"])
    settings = {name: os.environ[name] for name in ("DISTMETA_CACHE", "RAY_AUTH_MODE")}
    settings["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
    process = context.Process(target=drive, args=(str(run), workers, steps, settings), daemon=True)
    process.start()
    try:
        yield process
        assert process.is_alive(), "it ended before it was killed"
    finally:
        process.kill()
        process.join()


def wait_for(process: BaseProcess, happens: Callable[[], Any]) -> None:
    """Until something happens in a driver."""
    assert poll(lambda: happens() or not process.is_alive(), bool, 60)
    assert process.is_alive()


def newest(run: Path) -> int:
    return max(checkpoint.steps(Storage.at(run)), default=0)


def being_written(run: Path, process: BaseProcess) -> bool:
    """Whether there is an unfinished checkpoint of this driver."""
    return any((run / "checkpoints").glob(f".partial-{process.pid}-*"))


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize(("kills", "steps"), [(2, 18), pytest.param(len(WORKERS), STEPS, marks=pytest.mark.slow)])
def test_killed_drivers(kills: int, steps: int, tmp_path: Path) -> None:
    chance = random.Random(0)
    run, whole = tmp_path / "run", tmp_path / "whole"
    hit_a_write = resumed = 0
    for session, workers in enumerate(WORKERS[:kills]):
        begun = newest(run)
        with driver(run, workers, steps) as process:
            wait_for(process, lambda begun=begun: newest(run) > begun)
            if session % 2:
                time.sleep(chance.uniform(0.0, 0.1))
            else:
                wait_for(process, lambda process=process: being_written(run, process))
                time.sleep(chance.uniform(0.0, 0.02))
        hit_a_write += being_written(run, process)
        left = snapshot(run)  # refuses a damaged one
        assert left.step > begun
        assert logged_steps(run)[: left.step] == list(range(1, left.step + 1))
        assert left.counters["driver_restarts"] == resumed
        resumed += 1
    if kills == len(WORKERS):  # of two kills neither may come while something is written
        assert hit_a_write >= 1

    rarely = ("run.checkpoint_every=0", f"run.steps={steps}")  # from here on: it is quicker
    train(run, BIG, *rarely, resume=True)
    train(whole, BIG, *rarely)
    assert_same(parameters(run, steps), parameters(whole, steps))
    assert logged_steps(run) == list(range(1, steps + 1))
    found, expected = result_of(run), result_of(whole)
    assert found["faults"]["driver_restarts"] == resumed == kills
    for key in ("meta_test", "best_validation", "checkpoint", "steps", "tasks"):
        assert found[key] == expected[key]
