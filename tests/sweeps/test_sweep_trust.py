"""A resumed sweep unpickles only what is its user's own, and goes on only from what it was computed from."""

from __future__ import annotations

import json
import os
import pickle
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.fs
import pytest
from sweep_helpers import BASE, EVERY, STEPS, storage, sweep, written

import distmeta
from distmeta.errors import ChangedError, TrustError
from distmeta.storage.files import Storage
from distmeta.storage.ownership import intruder
from distmeta.sweeps.state import check_own
from distmeta.sweeps.sweep import dump_sweep, load_sweep
from distmeta.sweeps.trial import TrialRun, check_trials
from distmeta.sweeps.tune.watch import Watch

NET = """
from torch import nn

def make(outputs):
    return nn.Sequential(nn.Linear(1, 3), nn.Tanh(), nn.Linear(3, outputs))
"""
OWN: dict[str, Any] = {"kind": "module:swept_net.make"}


@pytest.fixture(name="begun")
def _begun(tmp_path: Path) -> Path:
    """A sweep's folder that asks for a resume, with a canary in what Tune would unpickle."""

    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {tmp_path / 'canary'}",)

    home = tmp_path / "sweep"
    for folder in ("tune", "tune-state-1"):
        (home / folder).mkdir(parents=True)
        (home / folder / "tuner.pkl").write_bytes(pickle.dumps(Payload()))
        (home / folder / "experiment_state-1.json").write_text("{}")
    (home / "tune" / "trial" / "checkpoint_000000").mkdir(parents=True)
    (home / "tune" / "trial" / "checkpoint_000000" / "state.pkl").write_bytes(pickle.dumps(Payload()))
    (home / "tune-state-1" / "manifest.json").write_text(json.dumps({"number": 1}))
    (home / "sweep.yaml").write_text(dump_sweep(sweep()))
    for path in (home, *home.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return home


def writable(path: Path, bits: int) -> None:
    path.chmod(path.stat().st_mode | bits)


def given_away(path: Path, bits: int) -> None:
    if os.geteuid() != 0:
        pytest.skip("giving a file to another user takes root")
    os.chown(path, 4321, -1)


def of_a_group(path: Path, bits: int) -> None:
    if os.geteuid() != 0:
        pytest.skip("giving a file to another group takes root")
    os.chown(path, -1, 4321)
    writable(path, 0o020)


def linked(path: Path, bits: int) -> None:
    aside = path.with_name("aside")
    path.rename(aside)
    path.symlink_to(aside)


@pytest.mark.parametrize(
    "place", ["", "tune", "tune/tuner.pkl", "tune/trial/checkpoint_000000", "tune-state-1/experiment_state-1.json"]
)
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (writable, "everybody may write to"),
        (given_away, "belongs to the user 4321"),
        (of_a_group, "the group 4321 may write to"),
        (linked, "is a link"),
    ],
)
def test_what_others_may_have_written(
    place: str, change: Callable[[Path, int], None], words: str, begun: Path, tmp_path: Path
) -> None:
    assert intruder(begun, ["tune", "tune-state-0", "tune-state-1"]) is None
    if change is linked and not place:  # the user may name a link; what counts is where it leads
        return
    change(begun / place, 0o002)
    with pytest.raises(TrustError, match=rf"--resume would unpickle .*{words}.* Nothing was read.*--trust-code"):
        distmeta.tune(written(), run_dir=begun, resume=True)
    assert not (tmp_path / "canary").exists()


def test_an_access_control_list(begun: Path) -> None:
    """The mode's bits are then those of the list's mask."""
    entries = [(0x01, 7, -1), (0x02, 7, 4321), (0x04, 5, -1), (0x10, 7, -1), (0x20, 5, -1)]
    content = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)
    try:
        os.setxattr(begun / "tune", "system.posix_acl_access", content)
    except OSError:
        pytest.skip("this file system has no access control lists")
    assert "access control list lets the user 4321 write" in str(intruder(begun, ["tune"]))


def test_a_folder_above_that_others_may_write_to(begun: Path, tmp_path: Path) -> None:
    """They may put another sweep in its place; not so in a sticky folder, such as /tmp."""
    tmp_path.chmod(0o777)
    with pytest.raises(TrustError, match=f"everybody may write to {tmp_path}\\."):
        check_own(Storage.at(begun))
    tmp_path.chmod(0o1777)
    check_own(Storage.at(begun))
    with pytest.raises(TrustError, match="it lies elsewhere"):
        check_own(Storage(pyarrow.fs._MockFileSystem(), "bucket/sweep", "mock://bucket/sweep"))


@pytest.fixture(name="work")
def _work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "swept_net.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("swept_net", None)


def test_trials_whose_code_has_changed(work: Path) -> None:
    """Said before any of them goes on; each goes on with --accept-changes."""
    chosen = sweep(base={**BASE, "model": OWN})
    values = (chosen.points or ())[0]
    home = work / "sweep"
    trial = TrialRun(chosen, storage(home), "one", values)
    assert trial.next()[0] == EVERY
    trial.close()
    check_trials(chosen, storage(home))
    (home / "sweep.yaml").write_text(dump_sweep(chosen))

    (work / "swept_net.py").write_text(NET.replace("Tanh", "ReLU"))
    del sys.modules["swept_net"]
    file = work / "file.yaml"
    file.write_text(dump_sweep(chosen))
    said = r"trial .*one was computed from has changed:\n  code: swept_net.py has changed"
    with pytest.raises(ChangedError, match=said):
        distmeta.tune(file, run_dir=home, resume=True)
    later = TrialRun(chosen, storage(home), "one", values)
    later.next()
    with pytest.raises(ChangedError, match="since step 4"):
        later.next()
    again = TrialRun(chosen, storage(home), "one", values, accept_changes=True)
    while again.step < STEPS:
        again.next()
    log = (home / "trials" / "one" / "seed-0" / "metrics.jsonl").read_text()
    assert '{"step": 4, "accepted_changes": ["code: swept_net.py has changed"]}' in log


def test_files_in_a_sweeps_folder(work: Path) -> None:
    """``best.yaml`` and ``sweep.yaml`` are the sweep's: their code runs as its trials recorded it, or where allowed."""
    chosen = sweep(base={**BASE, "model": OWN})
    home = work / "sweep"
    values = (chosen.points or ())[0]
    trial = TrialRun(chosen, storage(home), "one", values)
    trial.next()
    trial.close()
    (home / "sweep.yaml").write_text(dump_sweep(chosen))
    (home / "best.yaml").write_text((home / "trials/one/seed-0/config.yaml").read_text())
    assert distmeta.load_config(home / "best.yaml").model.kind == OWN["kind"]
    assert load_sweep(home / "sweep.yaml").base["model"] == OWN
    (work / "swept_net.py").write_text(NET.replace("Tanh", "ReLU"))
    with pytest.raises(TrustError, match=r"swept_net.py has changed since the run in .*sweep recorded it"):
        distmeta.load_config(home / "best.yaml")
    with pytest.raises(TrustError, match=r"base.model.kind = module:swept_net.make"):
        load_sweep(home / "sweep.yaml")
    assert load_sweep(home / "sweep.yaml", trust_code=True)


def test_code_that_changes_while_trials_start(work: Path) -> None:
    """All trials of a sweep have the same code."""
    chosen = sweep(space={"model.kind": {"choice": ["mlp", OWN["kind"]]}, "outer.lr": {"choice": [0.01, 0.001]}})
    watch = Watch(chosen, Storage.at(work / "sweep"), None, lambda: None)
    watch.on_trial_start(0, [], None)
    watch.on_step_end(0, [])
    (work / "swept_net.py").write_text(NET.replace("Tanh", "ReLU"))
    watch.on_trial_start(0, [], None)
    with pytest.raises(ChangedError, match=r"swept_net.py changed after the sweep began.*sweep.*--accept-changes"):
        watch.on_step_end(0, [])
