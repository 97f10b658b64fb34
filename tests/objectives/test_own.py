"""Objectives of the user's own: with and without settings, with all metrics of their kind of target."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import distmeta
from distmeta.errors import ConfigError
from distmeta.loading import load_config

PAGE = Path(__file__).parents[2] / "docs" / "objectives.md"
PLAIN = """
class Plain:
    metrics = ("accuracy", "confidence")
    higher_is_better = True
    classes = True

    def loss(self, outputs, data):
        return -outputs.log_softmax(-1).gather(-1, data["y"].unsqueeze(-1)).mean()

    def measure(self, outputs, data):
        right = (outputs.argmax(-1) == data["y"]).to(outputs.dtype).mean()
        return {"accuracy": right, "confidence": outputs.softmax(-1).amax(-1).mean()}
"""
GLYPHS = {"tasks": {"kind": "glyphs"}, "model": {"kind": "mlp"}, "algorithm": {"name": "maml"}}


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The configuration of the documentation, whose class lies in the working directory."""
    (source,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    (tmp_path / "documented_losses.py").write_text(source)
    (tmp_path / "plain_losses.py").write_text(PLAIN)
    monkeypatch.chdir(tmp_path)
    return {
        "tasks": {"kind": "sinusoid", "objective": {"name": "module:documented_losses.Quantile", "level": 0.9}},
        "model": {"kind": "mlp", "hidden": [8]},
        "algorithm": {"name": "maml"},
        "run": {"steps": 2, "meta_batch": 2},
        "engine": {"compile": "none", "layers": "general"},
        "evaluation": {"tasks": 3},
    }


def test_the_documented_one_trains_with_its_settings(settings: dict[str, Any], tmp_path: Path) -> None:
    config = load_config(settings, ["tasks.metrics=[spearman, mae]"])
    list(distmeta.train(config, tmp_path / "run"))
    learner = distmeta.load(tmp_path / "run")
    data = {"y": torch.tensor([[1.0], [0.0]])}
    assert float(learner.parts.objective.loss(torch.zeros(2, 1), data)) == pytest.approx(0.45)
    assert distmeta.evaluate(tmp_path / "run")["spearman"]["tasks"] == 3


def test_settings_are_checked(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"tasks\.objective\.leve: there is no such setting; did you mean 'level'"):
        load_config(settings, ["tasks.objective={name: 'module:documented_losses.Quantile', leve: 1}"])
    with pytest.raises(ConfigError, match="the class has no settings; give it Options"):
        load_config(settings, ["tasks.objective={name: 'module:plain_losses.Plain', level: 1}"])


def test_a_class_without_settings_chooses_among_its_own_metrics(settings: dict[str, Any]) -> None:
    own = ["tasks.objective=module:plain_losses.Plain"]
    load_config(GLYPHS, [*own, "tasks.metrics=[accuracy]"])
    with pytest.raises(ConfigError, match="expected one of accuracy, confidence, got 'f1'"):
        load_config(GLYPHS, [*own, "tasks.metrics=[f1]"])
    with pytest.raises(ConfigError, match="selected by confidence, and which way it improves is not known"):
        load_config(GLYPHS, [*own, "tasks.metrics=[confidence, accuracy]"])


def test_an_algorithm_that_needs_classes_refuses_numbers(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="needs classes"):
        load_config(settings, ["algorithm={name: protonet}"])
