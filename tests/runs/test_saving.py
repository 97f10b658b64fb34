"""Checkpoints are written beside training: in order, few at a time, and no failure is lost."""

from __future__ import annotations

import errno
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import pyarrow.fs
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from distmeta.core.records import StepRecord
from distmeta.errors import StorageError
from distmeta.runs import checkpoint
from distmeta.runs.checkpoint import Snapshot
from distmeta.runs.directory import RunDirectory
from distmeta.runs.metrics import MetricsLog
from distmeta.runs.saving import Saver
from distmeta.storage.files import Storage


class Gated(MemoryFileSystem):  # type: ignore[misc]
    """Files in memory, whose writing waits while the gate is closed and fails while the file system is broken."""

    cachable = False

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()
        self.broken = False
        self.written: list[str] = []

    def open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        if "w" in mode:
            assert self.gate.wait(60)
            if self.broken:
                raise OSError(errno.ENOSPC, "full")
            self.written.append(path)
        return super().open(path, mode, **options)


class Run:
    """A run's directory, log and saver on such a file system."""

    def __init__(self, make_snapshot: Callable[..., Snapshot]) -> None:
        self.files = Gated()
        path = f"bucket-{uuid.uuid4().hex}/run"
        self.storage = Storage(pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(self.files)), path, f"gated://{path}")
        self.log = MetricsLog(RunDirectory(self.storage), None)
        self.saver = Saver(self.storage, self.log, 3, None)
        self._make_snapshot = make_snapshot

    def step(self, step: int) -> None:
        self.log.write(StepRecord(step, step, {}, 1.0, 0.1, 0.2, 20.0, 1))
        self.saver.save(step, lambda: self._make_snapshot(step))

    def close(self) -> None:
        self.files.gate.set()
        self.files.broken = False
        self.saver.close()
        self.log.close()


@pytest.fixture
def run(make_snapshot: Callable[..., Snapshot]) -> Iterator[Run]:
    opened = Run(make_snapshot)
    yield opened
    opened.close()


def test_two_are_taken_and_the_third_waits(run: Run) -> None:
    run.files.gate.clear()
    run.step(1)
    run.step(2)
    third = threading.Thread(target=run.step, args=(3,))
    third.start()
    third.join(0.3)
    assert third.is_alive()
    assert run.saver.saved is None
    run.files.gate.set()
    third.join(60)
    run.saver.wait()
    assert run.saver.saved == 3
    assert checkpoint.steps(run.storage) == [1, 2, 3]
    manifests = [path.split("/")[-2] for path in run.files.written if path.endswith("manifest.json")]
    assert manifests == ["step-00000001", "step-00000002", "step-00000003"]


def test_old_ones_go(run: Run) -> None:
    for step in range(1, 7):
        run.step(step)
    run.saver.wait()
    assert checkpoint.steps(run.storage) == [4, 5, 6]


def test_logs_come_before_the_checkpoint(run: Run) -> None:
    run.step(1)
    run.saver.wait()
    names = [path.rpartition("/")[2] for path in run.files.written]
    assert names[0] == "metrics.jsonl"
    assert names.index("params.safetensors") > 1  # the events come between
    assert b'"step": 1' in run.storage.read_bytes("metrics.jsonl")


@pytest.mark.parametrize("notice", ["check", "save", "wait"])
def test_a_failure_is_told_once(run: Run, notice: str) -> None:
    run.step(1)
    run.saver.wait()
    run.files.broken = True
    run.step(2)
    futures.wait(run.saver._pending)
    act = {"check": run.saver.check, "save": lambda: run.step(3), "wait": run.saver.wait}[notice]
    with pytest.raises(StorageError, match=r"cannot write gated://.*no space is left"):
        act()
    assert run.saver.saved == 1
    run.files.broken = False
    run.step(4)
    run.saver.wait()
    assert run.saver.saved == 4
    assert checkpoint.steps(run.storage) == [1, 4]


def test_what_is_under_way_is_finished_at_the_end(run: Run) -> None:
    run.files.gate.clear()
    run.step(1)
    run.step(2)
    threading.Timer(0.1, run.files.gate.set).start()
    run.saver.close()
    assert checkpoint.steps(run.storage) == [1, 2]
