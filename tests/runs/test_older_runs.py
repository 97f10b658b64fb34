"""A renamed key breaks no old run: it goes on and is evaluated, to the same bits as under the new name.

The tests pretend that ``run.meta_batch`` was ``run.batch`` before; runs of real older versions are in ``tests/golden``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from fuzz_checkpoints import SMALL, manifest_of, sealed, small_config, small_run, write

import distmeta
from distmeta.config.migrations import CONFIG_MIGRATIONS, newest, renamed
from distmeta.errors import ConfigError
from distmeta.loading import load_config
from distmeta.runs import checkpoint
from distmeta.runs.checkpoint import Snapshot
from distmeta.storage.files import Storage

LAST = "checkpoints/step-00000002/"
OLD = renamed(SMALL, "run.meta_batch", "run.batch")


def old_run(folder: Path, *, checkpoints: bool) -> Path:
    """The small run as an older version would have left it, with its last checkpoint or stopped before the first."""
    config = renamed(yaml.safe_load(small_run()["config.yaml"]), "run.meta_batch", "run.batch")
    del config["schema"]
    files = {"config.yaml": yaml.safe_dump(config).encode()}
    if checkpoints:
        last = {name.removeprefix(LAST): data for name, data in small_run().items() if name.startswith(LAST)}
        last = sealed(last, {**manifest_of(last), "config": config})
        files |= {f"{LAST}{name}": data for name, data in last.items()}
        files["metrics.jsonl"] = small_run()["metrics.jsonl"]
    return write(folder, files)


def resumed(run: Path, *overrides: str, source: Any = SMALL) -> Snapshot:
    """The last checkpoint of a run that has gone on to its third step."""
    list(distmeta.train(load_config(source, ["run.steps=3", *overrides]), run, resume=True))
    return checkpoint.load(Storage.at(run / "checkpoints" / "step-00000003"))


@pytest.fixture(scope="module")
def present(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """The same run, in which nothing has ever had another name."""
    return resumed(write(tmp_path_factory.mktemp("run"), small_run()))


@pytest.fixture
def second_version(present: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    version = newest(CONFIG_MIGRATIONS)
    monkeypatch.setitem(CONFIG_MIGRATIONS, version, lambda values: renamed(values, "run.batch", "run.meta_batch"))


@pytest.mark.usefixtures("second_version")
@pytest.mark.parametrize("source", [OLD, SMALL], ids=["old-file", "new-file"])
@pytest.mark.parametrize("checkpoints", [True, False], ids=["from-a-checkpoint", "from-config.yaml"])
def test_a_run_goes_on(checkpoints: bool, source: Any, tmp_path: Path, present: Snapshot) -> None:
    run = old_run(tmp_path, checkpoints=checkpoints)
    snapshot = resumed(run, source=source)
    assert snapshot.meta.keys() == present.meta.keys()
    assert all(torch.equal(value, present.meta[name]) for name, value in snapshot.meta.items())
    written = json.loads((run / "checkpoints" / "step-00000003" / "manifest.json").read_text())["config"]
    assert written == {**present.config, "schema": newest(CONFIG_MIGRATIONS)}


@pytest.mark.usefixtures("second_version")
def test_a_run_is_evaluated(tmp_path: Path) -> None:
    new = write(tmp_path / "new", small_run())
    assert distmeta.evaluate(old_run(tmp_path / "old", checkpoints=True)) == distmeta.evaluate(new)
    assert load_config(tmp_path / "old" / "config.yaml") == small_config()


@pytest.mark.usefixtures("second_version")
def test_what_really_differs_is_told_under_the_present_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"these differ:\n(.+\n)?  run\.meta_batch: was 2, is 4\n"):
        resumed(old_run(tmp_path, checkpoints=True), "run.meta_batch=4")


def test_a_configuration_of_a_newer_version(tmp_path: Path) -> None:
    run = write(tmp_path, {"config.yaml": b"schema: 7\n"})
    with pytest.raises(ConfigError, match=r"config\.yaml is of a newer format \(schema 7, "):
        resumed(run)
