"""Callbacks are told of a run and decide nothing of it; a broken one is dropped, and the run goes on."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import pytest

import distmeta
from distmeta.errors import ConfigError
from distmeta.loading import load_config

BASE: dict[str, Any] = {
    "tasks": {"kind": "sinusoid"},
    "model": {"kind": "mlp", "hidden": [4]},
    "algorithm": {"name": "maml", "inner_lr": 0.01},
    "run": {"steps": 3, "meta_batch": 2, "log_every": 2},
    "evaluation": {"tasks": 4, "validation_tasks": 4},
    "cluster": {"workers": 0},
}

OWN = """
import json
import distmeta

class Notes(distmeta.Callback):
    def __init__(self):
        self.lines = []
    def begin(self, name, location, config):
        self.location = location
        self.lines.append(["begin", name, config["algorithm"]["name"]])
    def step(self, values):
        self.lines.append(["step", values["step"], values["train/loss"]])
    def end(self, result):
        self.lines.append(["end", None if result is None else result["steps"]])
        open(self.location + "/notes.json", "w").write(json.dumps(self.lines))

class Broken(distmeta.Callback):
    def step(self, values):
        raise RuntimeError("no more")

class Unmade(distmeta.Callback):
    def __init__(self):
        raise ValueError("no key")

class Nothing:
    pass
"""


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_callbacks.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    sys.modules.pop("own_callbacks", None)


def train(folder: str, callbacks: list[str], **more: Any) -> dict[str, Any]:
    steps = distmeta.train(load_config({**BASE, "callbacks": callbacks, **more}), folder)
    try:
        while True:
            next(steps)
    except StopIteration as end:
        result: dict[str, Any] = end.value
        return result


def test_a_callback_is_told_everything_in_order(tmp_path: Path) -> None:
    train("run", ["module:own_callbacks.Notes"])
    notes = json.loads((tmp_path / "run" / "notes.json").read_text())
    assert notes[0] == ["begin", "run", "maml"]
    assert [line[:2] for line in notes[1:-1]] == [["step", 1], ["step", 2], ["step", 3]]
    assert notes[-1] == ["end", 3]


def test_a_broken_one_is_dropped_and_decides_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        with_it = train("one", ["module:own_callbacks.Broken", "module:own_callbacks.Notes"])
    assert caplog.text.count("RuntimeError: no more") == 1
    assert "told nothing more" in caplog.text
    assert len(json.loads((tmp_path / "one" / "notes.json").read_text())) == 5
    assert train("two", [])["meta_test"] == with_it["meta_test"]


def test_a_run_that_is_ended_says_so(tmp_path: Path) -> None:
    steps = distmeta.train(load_config({**BASE, "callbacks": ["module:own_callbacks.Notes"]}), "run")
    next(steps)
    steps.close()
    assert json.loads((tmp_path / "run" / "notes.json").read_text())[-1] == ["end", None]


def test_what_cannot_be_told_is_refused() -> None:
    for name, message in (
        ("module:own_callbacks.Nothing", "it has no method begin"),
        ("module:own_callbacks.Unmade", "ValueError: no key"),
        ("module:own_callbacks.Missing", "has no Missing"),
    ):
        with pytest.raises(ConfigError, match=message):
            train("run", [name])
    with pytest.raises(ConfigError, match="callbacks"):
        load_config({**BASE, "callbacks": ["tensorbord"]})


def test_they_may_change_and_are_not_needed_afterwards(tmp_path: Path) -> None:
    train("run", ["module:own_callbacks.Notes"])
    (tmp_path / "own_callbacks.py").unlink()
    sys.modules.pop("own_callbacks", None)
    assert distmeta.evaluate("run")["mse"]["tasks"] == 4
    distmeta.load("run")
    more = {"run": {**BASE["run"], "steps": 5}}
    steps = distmeta.train(load_config({**BASE, **more}), "run", resume=True)
    assert [record.step for record in steps] == [4, 5]


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_trackers(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        __import__(name)
    except ImportError:
        with pytest.raises(ConfigError, match=rf"pip install distmeta\[{name}\]"):
            train("run", [name])
        return
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    train("run", [name])
    if name == "wandb":
        assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    else:
        import mlflow

        found = mlflow.search_runs(output_format="list", search_all_experiments=True)
        assert found[0].data.params["algorithm.name"] == "maml"
        assert found[0].data.metrics["meta_test/mse"] > 0
