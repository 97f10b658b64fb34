"""A writer that is killed at any moment leaves whole checkpoints only and loses none that it had finished."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from distmeta.runs import checkpoint
from distmeta.runs.checkpoint import Snapshot
from distmeta.storage.files import Storage

KILLS = 25


def write_for_ever(folder: str, template: Snapshot, reports: Connection) -> None:
    """Each step is saved twice, so that kills hit replacements too."""
    run = Storage.at(folder)
    step = max(checkpoint.steps(run), default=0)
    while True:
        step += 1
        values = {
            **vars(template),
            "step": step,
            "best": {"step": 1 + step // 2, "metric": "m", "value": 1.0},
        }
        state = {"weight": torch.full((20_000,), float(step))}
        values |= {"module_state": state, "meta": {"model/weight": state["weight"]}}
        for _ in range(2):
            checkpoint.save(run, Snapshot(**values))
            reports.send(step)
        checkpoint.prune(run, keep=2)


def last_report(reports: Connection) -> int:
    step = 0
    try:
        while reports.poll(0):
            step = reports.recv()
    except EOFError:
        pass
    return step


def test_killed_writers(tmp_path: Path, make_snapshot: Callable[..., Snapshot]) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["distmeta.runs.checkpoint"])
    chance = random.Random(0)
    run = Storage.at(tmp_path)
    interrupted = 0
    for _ in range(KILLS):
        receiver, sender = context.Pipe(duplex=False)
        child = context.Process(target=write_for_ever, args=(str(tmp_path), make_snapshot(0), sender), daemon=True)
        child.start()
        sender.close()
        assert receiver.poll(30)
        time.sleep(chance.uniform(0.0, 0.12))
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        interrupted += any(name.startswith(".partial-") for name in os.listdir(tmp_path / "checkpoints"))

        snapshot, damaged = checkpoint.latest(run)
        assert damaged == []
        assert snapshot is not None
        assert snapshot.step >= last_report(receiver)
        for step in checkpoint.steps(run):
            weight = checkpoint.load(run.child("checkpoints", f"step-{step:08d}")).meta["model/weight"]
            assert torch.equal(weight, torch.full((20_000,), float(step)))
    assert interrupted, "no kill hit a writer at work, so nothing was tested"
    checkpoint.save(run, make_snapshot(snapshot.step + 1))
    assert all(name.startswith("step-") for name in os.listdir(tmp_path / "checkpoints"))
