"""What a run measures: ``metrics.jsonl``, TensorBoard events, and means with confidence intervals."""

from __future__ import annotations

import math
import os
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from io import FileIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distmeta.config.text import parse_json
from distmeta.core.records import StepRecord
from distmeta.errors import StorageError
from distmeta.objectives.metrics import may_be_undefined
from distmeta.runs.directory import RunDirectory, to_json
from distmeta.storage.files import Storage, explained

METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"


class MetricsLog:
    """Appends every :class:`~distmeta.core.records.StepRecord` to ``metrics.jsonl`` and to TensorBoard events.

    Both use the names of :func:`flat`. The logs of a run directory that is not local are kept in a temporary folder
    and uploaded by :meth:`sync` and :meth:`close`. One thread may write while another one syncs.

    Args:
        run: the directory of the run.
        resume_step: meta-steps done by the checkpoint that the run goes on from; later records are cut.
            ``None`` for a run from the start.

    Raises:
        StorageError: the logs cannot be read or written, for example because the disk is full.

    >>> run = RunDirectory(tempfile.mkdtemp())
    >>> with MetricsLog(run, None) as log:
    ...     log.write(StepRecord(1, 4, {"loss": 0.5}, 1.0, 0.1, 0.2, 20.0, 1))
    >>> parse_json(run.storage.read_bytes("metrics.jsonl"))["train/loss"]
    0.5
    """

    def __init__(self, run: RunDirectory, resume_step: int | None) -> None:
        self._run = run
        self._lock = threading.Lock()  # for the files, not for the way to the run directory, which may be slow
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._folder = run.storage.local or self._make_scratch()
        lines = _lines_until(run.storage, resume_step or 0)
        with run.storage.changing():
            Storage.at(self._folder).write_bytes(METRICS, lines)
        with explained("open", self._folder / METRICS):
            self._lines: FileIO | None = FileIO(self._folder / METRICS, "ab")
            self._events = _Events(self._folder / TENSORBOARD, resume_step)

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.close()
        except StorageError:
            if kind is None:  # otherwise the error that ended the block is the one to report
                raise

    def write(self, record: StepRecord) -> None:
        """Append one record; it is in both files when this returns."""
        assert self._lines is not None, "the log is closed"
        values = flat(record)
        with self._lock, self._changing():
            with explained("write", self._folder / METRICS):
                _append(self._lines, (to_json(values) + "\n").encode())
            with explained("write", self._folder / TENSORBOARD):
                self._events.add(values)

    def note(self, step: int, values: Mapping[str, Any]) -> None:
        """Append a line to ``metrics.jsonl`` alone: something that happened after a step and is no measurement."""
        assert self._lines is not None, "the log is closed"
        with self._lock, self._changing(), explained("write", self._folder / METRICS):
            _append(self._lines, (to_json({"step": step, **values}) + "\n").encode())

    def sync(self) -> None:
        """Make what was logged last, and readable, where the run directory is."""
        paths = (self._folder / METRICS, self._events.path)
        if self._scratch is None:
            for path in paths:
                with explained("write", path), path.open("ab") as file:
                    os.fsync(file.fileno())
            return
        with self._lock:
            whole = {path.relative_to(self._folder).as_posix(): path.read_bytes() for path in paths}
        for name, data in whole.items():
            self._run.storage.write_bytes(name, data)

    def close(self) -> None:
        """Sync and release the files; a second call does nothing."""
        if self._lines is None:
            return
        try:
            self._lines.close()
            self._lines = None
            self.sync()
        finally:
            with explained("close", self._folder / TENSORBOARD):
                self._events.close()
            if self._scratch is not None:
                self._scratch.cleanup()

    def _changing(self) -> AbstractContextManager[None]:
        """Around a record: where the run directory is not local, what counts is the upload."""
        return self._run.storage.changing() if self._scratch is None else nullcontext()

    def _make_scratch(self) -> Path:
        self._scratch = tempfile.TemporaryDirectory(prefix="distmeta-logs-")
        return Path(self._scratch.name)


def load_events() -> None:
    """Import what events files are written with: it brings much that they have no use for, and is slow."""
    import tensorboardX  # noqa: F401


class _Events:
    """One TensorBoard events file: records of an event each, framed by its length and checksums.

    ``tensorboardX.SummaryWriter`` writes in a thread that a full disk kills; its queue then blocks for ever. Its
    ``RecordWriter`` waits for the disk at every flush, which can be long beside a big checkpoint.
    """

    def __init__(self, folder: Path, resume_step: int | None) -> None:
        from tensorboardX.proto import event_pb2, summary_pb2
        from tensorboardX.record_writer import masked_crc32c

        self._event, self._summary, self._checksum = event_pb2.Event, summary_pb2.Summary, masked_crc32c
        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads the files in the order of their names; two of one second must not share theirs.
        now = time.time_ns()
        unique = f"{now // 10**9:010d}.{socket.gethostname()}.{now}.{os.getpid()}"
        self.path = folder / f"events.out.tfevents.{unique}"
        self._file = FileIO(self.path, "xb")
        self._write(file_version="brain.Event:2")
        if resume_step is not None:  # TensorBoard hides what earlier files hold from this step on
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._write(step=resume_step + 1, session_log=start)

    def add(self, values: Mapping[str, float]) -> None:
        value = self._summary.Value
        scalars = [value(tag=name, simple_value=float(number)) for name, number in values.items() if name != "step"]
        self._write(step=values["step"], summary=self._summary(value=scalars))

    def close(self) -> None:
        self._file.close()

    def _write(self, **fields: Any) -> None:
        event = self._event(wall_time=time.time(), **fields).SerializeToString()
        length = struct.pack("<Q", len(event))
        sums = [struct.pack("<I", self._checksum(part)) for part in (length, event)]
        _append(self._file, length + sums[0] + event + sums[1])


def _append(file: FileIO, data: bytes) -> None:
    """Write all of it; nothing is held back, so nothing is left over on a full disk."""
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


def flat(record: StepRecord) -> dict[str, float]:
    """A record under the names that people see.

    ``step``, ``tasks``, ``gradient_norm``, ``learning_rate``, ``seconds``, ``tasks_per_second``, ``workers``,
    ``skipped``; ``train/NAME`` and ``validation/NAME`` for measurements, ``faults/NAME``, ``share/NAME`` and
    ``outer/NAME`` as :class:`~distmeta.core.records.StepRecord` explains them.

    >>> flat(StepRecord(1, 4, {"loss": 0.5}, 1.0, 0.1, 0.2, 20.0, 1))["train/loss"]
    0.5
    """
    groups = {
        "train": record.metrics,
        "validation": record.validation or {},
        "faults": record.faults,
        "share": record.shares,
        "outer": record.outer,
    }
    return {
        "step": record.step,
        "tasks": record.tasks,
        "gradient_norm": record.gradient_norm,
        "learning_rate": record.learning_rate,
        "seconds": record.seconds,
        "tasks_per_second": record.tasks_per_second,
        "workers": record.workers,
        "skipped": record.skipped,
        **{f"{group}/{name}": value for group, values in groups.items() for name, value in values.items()},
    }


def shares(seconds: Mapping[str, float], available: float, aggregation: float) -> dict[str, float]:
    """Of a step's time, see :class:`~distmeta.core.records.StepRecord`; ``available`` is the workers' time in it."""
    busy = {name: spent / available for name, spent in seconds.items()}
    return {**busy, "aggregation": aggregation, "waiting": max(0.0, 1.0 - sum(busy.values()))}


def mean_ci(values: Tensor) -> dict[str, float | int]:
    """Mean and half-width of its 95 % confidence interval over tasks, in float64.

    Args:
        values: (T,) one measurement a task.

    Returns:
        ``mean``, ``ci95`` (1.96 sample standard deviations over the root of T; 0 for one task) and ``tasks``. Without
        any task mean and interval are NaN.

    >>> mean_ci(torch.tensor([1.0, 1.0, 1.0, 3.0]))
    {'mean': 1.5, 'ci95': 0.98, 'tasks': 4}
    """
    values = values.to(torch.float64)
    count = values.numel()
    deviation = values.std(correction=1).item() if count > 1 else 0.0
    ci95 = 1.96 * deviation / math.sqrt(count) if count else math.nan
    return {"mean": values.mean().item(), "ci95": ci95, "tasks": count}


def have(name: str, values: Mapping[str, Tensor]) -> Tensor:
    """(T,) the tasks that count in the mean of a measurement: all but those for which a metric is not defined.

    A metric that is NaN in a task whose loss is not finite counts, so that a diverged run cannot look like a good one.

    >>> have("auroc", {"loss": torch.tensor([0.1, 0.2]), "auroc": torch.tensor([math.nan, 1.0])}).tolist()
    [False, True]
    """
    if not may_be_undefined(name):
        return torch.ones_like(values[name], dtype=torch.bool)
    return ~(values[name].isnan() & values["loss"].isfinite())


def _lines_until(storage: Storage, step: int) -> bytes:
    """The whole lines of ``metrics.jsonl`` up to this step."""
    return b"".join(line + b"\n" for line, values in read_lines(storage) if values["step"] <= step)


def read_lines(storage: Storage) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """The lines of ``metrics.jsonl``, as they stand there and their values.

    Those that are no record of a step are left out: a killed process can leave a torn last one.
    """
    if not storage.exists(METRICS):
        return
    for line in storage.read_bytes(METRICS).splitlines():
        try:
            values = parse_json(line)
        except ValueError:
            continue
        if isinstance(values, dict) and type(values.get("step")) is int:
            yield line, values
