"""A temporary folder that Ray cannot use is named before Ray is started."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path

import pytest

from distmeta.errors import ClusterError
from distmeta.loading import load_config
from distmeta.runs.train import train
from distmeta.workers.ray.tmpdir import LONGEST_SOCKET, check_tmpdir

TINY = {
    "tasks": {"kind": "sinusoid"},
    "model": {"kind": "mlp", "hidden": [4]},
    "algorithm": {"name": "maml"},
    "run": {"steps": 1, "meta_batch": 2},
    "evaluation": {"tasks": 2},
}


@pytest.fixture
def short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A short absolute path, which tests' own folders are not."""
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    link = Path(f"/tmp/dm-{os.getpid()}")
    link.symlink_to(tmp_path)
    yield link
    link.unlink()


def padded(folder: Path, size: int) -> str:
    """A path below a folder, of so many bytes."""
    return f"{folder}/".ljust(size, "x")


def test_the_longest_that_fits_makes_sockets_that_can_be_bound(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", padded(short, 500))
    with pytest.raises(ClusterError) as refused:
        check_tmpdir()
    room = int(re.search(r"at most (\d+) are left", str(refused.value))[1])
    monkeypatch.setenv("TMPDIR", padded(short, room + 1))
    with pytest.raises(ClusterError, match=rf"TMPDIR = .*: its {room + 1} bytes are too long for Ray's sockets"):
        check_tmpdir()
    monkeypatch.setenv("TMPDIR", padded(short, room))
    check_tmpdir()
    path = f"{padded(short, room)}/ray/session_2026-11-26_10-53-13_314677_{os.getpid()}/sockets/plasma_store"
    assert len(path) == LONGEST_SOCKET
    os.makedirs(os.path.dirname(path))
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(path)


def test_bytes_count_not_letters(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", f"{short}/" + "ü" * 20)
    with pytest.raises(ClusterError, match=f"its {len(str(short)) + 41} bytes"):
        check_tmpdir()


@pytest.mark.parametrize("below_a_file", [True, False])
def test_one_that_cannot_be_written(short: Path, monkeypatch: pytest.MonkeyPatch, below_a_file: bool) -> None:
    place = short / "f" if below_a_file else Path("/proc/none")
    if below_a_file:
        place.write_text("")
    monkeypatch.setenv("TMPDIR", str(place))
    with pytest.raises(ClusterError, match=rf"TMPDIR = {place}: Ray cannot write to {place}/ray \("):
        check_tmpdir()
    monkeypatch.setenv("RAY_TMPDIR", str(short))  # which Ray prefers
    check_tmpdir()


@pytest.mark.parametrize("place", ["", "relative/path"])
def test_one_that_is_not_absolute(short: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    monkeypatch.setenv("TMPDIR", place)
    with pytest.raises(ClusterError, match="need an absolute path"):
        check_tmpdir()


def test_a_run_is_refused_before_ray_starts_and_one_in_process_is_not(
    short: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    import ray

    if ray.is_initialized():
        pytest.skip("this process has Ray already")
    monkeypatch.setenv("TMPDIR", padded(short, 90))
    with pytest.raises(ClusterError, match="its 90 bytes are too long"):
        list(train(load_config(TINY, ["cluster.workers=1"]), tmp_path / "ray"))
    assert not ray.is_initialized()
    assert len(list(train(load_config(TINY, ["cluster.workers=0"]), tmp_path / "here"))) == 1
