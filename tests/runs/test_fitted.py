"""What a family learns from its training split: once a run, kept beside the configuration, there without the data."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from integration_helpers import snapshot

import distmeta
from distmeta.config.schema import Config, dump_config
from distmeta.errors import DataError, StorageError
from distmeta.runs import checkpoint
from distmeta.runs.identity import check_same
from distmeta.storage.files import Storage
from distmeta.storage.manifests import newest_fitted
from distmeta.tasks import fit_family, with_fitted
from distmeta.workers.bundle import pack, read_config, unpack, values_of

FITTED = {"width": 3, "scale": 0.1 + 0.2, "names": ["ä", "b"]}


@pytest.fixture(name="file")
def _file(tmp_path: Path) -> Path:
    path = tmp_path / "data" / "values.json"
    path.parent.mkdir()
    path.write_text(json.dumps(FITTED))
    return path


def configure(file: Path, *overrides: str) -> Config:
    base: dict[str, Any] = {
        "tasks": {"kind": "module:users_fitted.Scaled", "file": str(file)},
        "model": {"kind": "mlp", "hidden": [8]},
        "algorithm": {"name": "maml"},
        "run": {"steps": 4, "meta_batch": 4, "checkpoint_every": 2, "device": "cpu"},
        "evaluation": {"tasks": 4},
        "engine": {"compile": "none"},
    }
    return distmeta.load_config(base, overrides)


def fits(file: Path) -> int:
    log = file.with_name("fits")
    return len(log.read_text().splitlines()) if log.exists() else 0


def run(config: Config, folder: Path, **options: Any) -> None:
    for _ in distmeta.train(config, folder, **options):
        pass


def test_a_run_learns_once_and_keeps_it(file, tmp_path):
    folder = tmp_path / "run"
    config = configure(file)
    run(config, folder)
    assert fits(file) == 1
    assert "0.3000" not in (folder / "config.yaml").read_text()
    assert "scale" not in dump_config(fit_family(config))
    assert json.loads((folder / "fitted.json").read_text()) == FITTED
    for step in (2, 4):
        kept = checkpoint.load(Storage.at(folder / f"checkpoints/step-0000000{step}"))
        assert kept.fitted == FITTED
        assert "scale" not in json.dumps(kept.config)
    assert newest_fitted(Storage.at(folder)) == FITTED


def test_a_resumed_run_goes_on_with_what_it_learned(file, tmp_path):
    straight, parted = tmp_path / "straight", tmp_path / "parted"
    run(configure(file), straight)
    for record in distmeta.train(configure(file), parted):
        if record.step == 2:
            break
    before = fits(file)
    file.write_text(json.dumps({**FITTED, "scale": 7.0}))
    run(configure(file), parted, resume=True)
    assert fits(file) == before
    for name, value in snapshot(straight).meta.items():
        assert torch.equal(value, snapshot(parted).meta[name])


def test_what_was_learned_serves_without_the_data(file, tmp_path):
    folder = tmp_path / "run"
    run(configure(file), folder)
    file.unlink()
    learner = distmeta.load(folder, trust_code=True)
    x = torch.rand(5, 3)
    expected = learner.adapt(x, x.sum(1, keepdim=True)).predict(x)
    again = pickle.loads(pickle.dumps(learner))
    assert torch.equal(again.adapt(x, x.sum(1, keepdim=True)).predict(x), expected)
    assert distmeta.evaluate(folder, trust_code=True)["mse"]["tasks"] == 4
    assert fits(file) == 1
    with pytest.raises(DataError, match="there is no"):
        run(configure(file), tmp_path / "other")
    assert not (tmp_path / "other" / "config.yaml").exists()


def test_workers_get_it(file, tmp_path, monkeypatch):
    monkeypatch.setenv("DISTMETA_CACHE", str(tmp_path / "cache"))
    config = fit_family(configure(file))
    assert config.tasks.fitted == FITTED
    for elsewhere in (False, True):
        bundle = pickle.loads(pickle.dumps(pack(config, elsewhere)))
        assert read_config(bundle, values_of(config)).tasks.fitted == FITTED
    assert unpack(bundle, values_of(config), lambda *_: b"").tasks.fitted == FITTED
    assert fit_family(config) is config
    assert fits(file) == 1


def test_families_that_learn_nothing_keep_nothing(tmp_path):
    config = distmeta.load_config(
        {"tasks": {"kind": "sinusoid"}, "model": {"kind": "mlp"}, "algorithm": {"name": "maml"}},
        ["run.steps=1", "evaluation.tasks=2"],
    )
    assert fit_family(config) is config
    assert with_fitted(config, None) is config
    run(config, tmp_path)
    assert not (tmp_path / "fitted.json").exists()
    assert not (tmp_path / "checkpoints/step-00000001/fitted.json").exists()
    assert newest_fitted(Storage.at(tmp_path)) is None


def test_a_sweep_compares_its_trials_with_what_they_learned(file, tmp_path):
    run(configure(file), tmp_path / "run")
    storage = Storage.at(tmp_path / "run")
    config = with_fitted(configure(file), newest_fitted(storage))
    check_same(config, snapshot(tmp_path / "run").identity, "trial 1")  # builds the network


def test_damaged_values_are_named(file, tmp_path):
    folder = tmp_path / "run"
    run(configure(file), folder)
    damaged = folder / "checkpoints/step-00000004/fitted.json"
    for content in (b"[1]", b"{", b"\xff", b"3"):
        damaged.write_bytes(content)
        with pytest.raises(StorageError, match=r"fitted\.json is damaged"):
            checkpoint.load(Storage.at(damaged.parent))
        assert newest_fitted(Storage.at(folder)) is None
        good, passed_over = checkpoint.latest(Storage.at(folder))
        assert good is not None
        assert good.step == 2
        assert "fitted.json is damaged" in passed_over[0]
    # Whoever writes the hashes anew can write anything: it is still to be a mapping.
    forged = checkpoint.save(Storage.at(tmp_path / "forged"), replace(good, fitted=["no mapping"]))  # type: ignore[arg-type]
    with pytest.raises(StorageError, match=r"fitted\.json is damaged: expected a mapping, got"):
        checkpoint.load(Storage.at(forged))
