"""Tune's state is kept whole, whenever the driver dies."""

from __future__ import annotations

from pathlib import Path

import pytest

from distmeta.storage.files import MANIFEST, Storage
from distmeta.sweeps import state as sweep_state
from distmeta.sweeps.state import KEPT, TUNE_FOLDER, StateKeeper, put_back


@pytest.fixture
def staging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sweep_state, "SECONDS", 0.0)
    folder = tmp_path / "staging"
    folder.mkdir()
    (folder / "tuner.pkl").write_text("not part of it")
    return folder


def write(staging: Path, content: str, session: str = "a") -> None:
    (staging / f"experiment_state-{session}.json").write_text(content)
    (staging / f"searcher-state-{session}.pkl").write_text(content)


def test_the_last_state_comes_back(staging: Path, tmp_path: Path) -> None:
    """Three copies later, in another session, and in place of what Tune left torn."""
    home = Storage.at(tmp_path / "sweep")
    assert not put_back(home)
    keeper = StateKeeper(home)
    for content in ("first", "second"):
        write(staging, content)
        keeper.keep(staging)
    write(staging, "third")
    StateKeeper(home).keep(staging)
    state = home.child(TUNE_FOLDER)
    state.write_bytes("experiment_state-b.json", b"to")
    state.write_bytes("tuner.pkl", b"stays")
    assert put_back(home)
    assert state.list() == ["experiment_state-a.json", "searcher-state-a.pkl", "tuner.pkl"]
    assert state.read_bytes("experiment_state-a.json") == b"third"
    assert state.read_bytes("tuner.pkl") == b"stays"


def test_a_copy_that_was_not_finished_does_not_count(staging: Path, tmp_path: Path) -> None:
    """Where folders cannot be renamed, a kill leaves one without its manifest; the one before is whole."""
    home = Storage.at(tmp_path / "sweep")
    keeper = StateKeeper(home)
    for content in ("first", "second"):
        write(staging, content)
        keeper.keep(staging)
    home.child(KEPT[0]).delete(MANIFEST)
    assert put_back(home)
    assert home.child(TUNE_FOLDER).read_bytes("experiment_state-a.json") == b"first"


def test_copies_are_some_time_apart(staging: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep_state, "SECONDS", 1000.0)
    write(staging, "early")
    StateKeeper(Storage.at(tmp_path / "sweep")).keep(staging)
    assert not put_back(Storage.at(tmp_path / "sweep"))
