from __future__ import annotations

import json
import math
import os
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboardX.proto import event_pb2
from tensorboardX.record_writer import masked_crc32c

from distmeta.core.records import StepRecord
from distmeta.errors import StorageError
from distmeta.runs.directory import RunDirectory
from distmeta.runs.metrics import MetricsLog, mean_ci
from distmeta.storage.files import Storage


def record(step: int, **changes: Any) -> StepRecord:
    values: dict[str, Any] = {
        "step": step,
        "tasks": 4 * step,
        "metrics": {"loss": 1 / step},
        "gradient_norm": 2.0,
        "learning_rate": 0.1,
        "seconds": 0.25,
        "tasks_per_second": 16.0,
        "workers": 2,
        "faults": {"workers_lost": 1},
        "shares": {"waiting": 0.25},
    }
    return StepRecord(**{**values, **changes})


def logged(storage: Storage) -> list[dict[str, Any]]:
    return [json.loads(line) for line in storage.read_bytes("metrics.jsonl").splitlines()]


def events(storage: Storage) -> list[Any]:
    """The events of every file in the order in which TensorBoard reads them."""
    found = []
    folder = storage.child("tensorboard")
    for name in folder.list():
        data = folder.read_bytes(name)
        while data:
            length, check = struct.unpack("<QI", data[:12])
            event = data[12 : 12 + length]
            assert check == masked_crc32c(data[:8])
            assert data[12 + length : 16 + length] == struct.pack("<I", masked_crc32c(event))
            found.append(event_pb2.Event.FromString(event))
            data = data[16 + length :]
    return found


def shown(storage: Storage, tag: str) -> dict[int, float]:
    """What TensorBoard shows: a session that starts at a step hides earlier events from that step on."""
    points: dict[int, float] = {}
    for event in events(storage):
        if event.session_log.status == event_pb2.SessionLog.START:
            points = {step: value for step, value in points.items() if step < event.step}
        points |= [(event.step, value.simple_value) for value in event.summary.value if value.tag == tag]
    return points


def test_records_are_logged_in_both_places(storage: Storage) -> None:
    with MetricsLog(RunDirectory(storage), None) as log:
        log.write(record(1))
        log.write(record(2, validation={"accuracy": 0.5}, skipped=True))
    first, second = logged(storage)
    assert first == {
        "step": 1,
        "tasks": 4,
        "gradient_norm": 2.0,
        "learning_rate": 0.1,
        "seconds": 0.25,
        "tasks_per_second": 16.0,
        "workers": 2,
        "skipped": False,
        "train/loss": 1.0,
        "faults/workers_lost": 1,
        "share/waiting": 0.25,
    }
    assert second["validation/accuracy"] == 0.5
    assert second["skipped"] is True
    for name in second.keys() - {"step"}:
        assert shown(storage, name)[2] == pytest.approx(float(second[name]))
    assert shown(storage, "train/loss") == {1: 1.0, 2: 0.5}
    assert shown(storage, "validation/accuracy") == {2: 0.5}


def test_lines_can_be_read_while_the_run_goes_on(tmp_path: Path) -> None:
    log = MetricsLog(RunDirectory(tmp_path), None)
    for step in (1, 2, 3):
        log.write(record(step))
        assert [line["step"] for line in logged(Storage.at(tmp_path))] == list(range(1, step + 1))
    log.sync()
    assert list(shown(Storage.at(tmp_path), "train/loss")) == [1, 2, 3]
    log.close()
    log.close()


def test_what_is_not_finite_is_null(tmp_path: Path) -> None:
    with MetricsLog(RunDirectory(tmp_path), None) as log:
        log.write(record(1, metrics={"loss": math.nan}, gradient_norm=math.inf))
    text = (tmp_path / "metrics.jsonl").read_text()
    assert '"train/loss": null' in text
    assert '"gradient_norm": null' in text


@pytest.mark.parametrize("tail", [b"", b'{"step": 6, "tra', b"\xff\xfe\x00", b"[]\n", b"\n"])
def test_resume_cuts_what_came_after(storage: Storage, tail: bytes) -> None:
    with MetricsLog(RunDirectory(storage), None) as log:
        for step in range(1, 6):
            log.write(record(step))
    storage.write_bytes("metrics.jsonl", storage.read_bytes("metrics.jsonl") + tail)
    with MetricsLog(RunDirectory(storage), 3) as log:
        log.write(record(4, metrics={"loss": 9.0}))
    assert [line["step"] for line in logged(storage)] == [1, 2, 3, 4]
    assert logged(storage)[-1]["train/loss"] == 9.0
    losses = shown(storage, "train/loss")
    assert list(losses) == [1, 2, 3, 4]
    assert losses[4] == 9.0


def test_resume_keeps_a_whole_line_that_lost_its_end(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n{"step": 2}')
    with MetricsLog(RunDirectory(tmp_path), 2) as log:
        log.write(record(3))
    assert [line["step"] for line in logged(Storage.at(tmp_path))] == [1, 2, 3]


@pytest.mark.parametrize("resume_step", [None, 0])
def test_a_run_from_the_start_keeps_nothing(tmp_path: Path, resume_step: int | None) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n')
    MetricsLog(RunDirectory(tmp_path), resume_step).close()
    assert logged(Storage.at(tmp_path)) == []


def test_remote_logs_arrive_with_sync(remote_storage: Storage) -> None:
    log = MetricsLog(RunDirectory(remote_storage), None)
    scratch = log._folder
    log.write(record(1))
    assert remote_storage.list() == []
    log.sync()
    assert [line["step"] for line in logged(remote_storage)] == [1]
    assert list(shown(remote_storage, "train/loss")) == [1]
    log.write(record(2))
    log.close()
    assert [line["step"] for line in logged(remote_storage)] == [1, 2]
    assert list(shown(remote_storage, "train/loss")) == [1, 2]
    assert not scratch.exists()


def test_full_disk_is_explained(small_disk: Path) -> None:
    big = {f"metric-{index}": 0.0 for index in range(20_000)}
    full = pytest.raises(StorageError, match=r"cannot write .*metrics.jsonl: no space is left there")
    with full, MetricsLog(RunDirectory(small_disk), None) as log:
        log.write(record(1, metrics=big))
    log.close()
    still_open = [os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]
    assert not any(path.startswith(str(small_disk)) for path in still_open)


def test_the_error_that_ends_a_run_is_not_hidden_by_a_full_disk(small_disk: Path) -> None:
    with pytest.raises(KeyError), MetricsLog(RunDirectory(small_disk), None) as log:  # noqa: PT012
        log.write(record(1))
        with pytest.raises(OSError, match="No space left"):
            (small_disk / "filler").write_bytes(bytes(1 << 20))
        raise KeyError


def test_mean_ci() -> None:
    values = torch.rand(600)
    result = mean_ci(values)
    exact = values.double()
    assert result["mean"] == pytest.approx(exact.mean().item(), rel=1e-15)
    assert result["ci95"] == pytest.approx(1.96 * exact.std().item() / math.sqrt(600), rel=1e-12)
    assert result["tasks"] == 600
    assert mean_ci(torch.tensor([2.0])) == {"mean": 2.0, "ci95": 0.0, "tasks": 1}
