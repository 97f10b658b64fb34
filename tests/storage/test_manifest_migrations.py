"""Manifests of older checkpoints: what each version changed, and that a sealed one is loaded."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from fuzz_checkpoints import load, manifest_of, sealed, small_checkpoint, write

from distmeta.config.migrations import CONFIG_MIGRATIONS, newest, renamed
from distmeta.core.plan import Plan
from distmeta.errors import StorageError
from distmeta.storage.files import Storage
from distmeta.storage.manifests import read_identity
from distmeta.storage.migrations import three_ways_of_running


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        ({"mapped": True, "reason": ""}, {"running": "mapped", "reason": ""}),
        ({"mapped": False, "reason": "a"}, {"running": "looped", "reason": "a"}),
        ({"running": "plain", "reason": "a"}, {"running": "plain", "reason": "a"}),
        ({}, {}),
        (None, None),  # it is refused when the values are checked
    ],
)
def test_three_ways_of_running(plan: Any, expected: Any) -> None:
    manifest = {"step": 1, "plan": plan}
    before = copy.deepcopy(manifest)
    assert three_ways_of_running(manifest) == {"step": 1, "plan": expected, "identity": {}}
    assert three_ways_of_running({**manifest, "identity": {"data": {}}})["identity"] == {"data": {}}
    assert manifest == before


def first_version() -> dict[str, Any]:
    """The manifest of a checkpoint, as the first versions wrote it."""
    manifest = manifest_of(small_checkpoint())
    del manifest["identity"], manifest["config"]["schema"]
    return {**manifest, "schema": 1, "plan": {"mapped": False, "reason": "a", "chunk": 1}}


def test_a_checkpoint_of_the_first_version(tmp_path: Path) -> None:
    files = sealed(small_checkpoint(), first_version())
    snapshot, present = load(files), load(small_checkpoint())
    assert Plan.from_dict(snapshot.plan) == Plan(running="looped", reason="a", chunk=1)
    assert snapshot.identity == {}
    assert snapshot.config == present.config
    assert read_identity(Storage.at(write(tmp_path, files))) == {}


def test_the_hash_is_that_of_the_old_values() -> None:
    files = sealed(small_checkpoint(), first_version())
    files["manifest.json"] = files["manifest.json"].replace(b'"mapped": false', b'"mapped": true')
    with pytest.raises(StorageError, match=r"manifest\.json is damaged: its content does not match its hash"):
        load(files)


def test_the_configuration_has_a_version_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = manifest_of(small_checkpoint())
    manifest["config"] = renamed(manifest["config"], "run.meta_batch", "run.batch")
    files = sealed(small_checkpoint(), manifest)
    version = newest(CONFIG_MIGRATIONS)
    monkeypatch.setitem(CONFIG_MIGRATIONS, version, lambda values: renamed(values, "run.batch", "run.meta_batch"))
    assert load(files).config == {**load(small_checkpoint()).config, "schema": version + 1}
    manifest["config"]["run"]["meta_batch"] = 2
    with pytest.raises(StorageError, match=r"manifest\.json is damaged: config\.run\.batch: this setting is called"):
        load(sealed(small_checkpoint(), manifest))


def test_a_newer_version_is_refused_with_both() -> None:
    manifest = {**manifest_of(small_checkpoint()), "schema": 7, "versions": {"distmeta": "9.1"}}
    expected = r"is of a newer format \(schema 7, and this version of distmeta, .+, reads up to 3\); it was written by "
    with pytest.raises(StorageError, match=rf"{expected}distmeta 9\.1: install that version"):
        load(sealed(small_checkpoint(), manifest))
