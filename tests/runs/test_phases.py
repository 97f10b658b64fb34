"""Methods that compute otherwise as a run goes on: recorded or not, whole or resumed, the bits are the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from integration_helpers import GLYPHS, assert_same, parameters, train

METHODS: dict[str, dict[str, Any]] = {
    "multi_step": {"name": "maml_plus_plus", "inner_steps": 2, "multi_step": 3},
    "hybrid": {"name": "maml", "estimator": "hybrid", "first_order_steps": 3, "inner_lr": 0.4},
}


def settings(method: str) -> dict[str, Any]:
    return {**GLYPHS, "algorithm": METHODS[method], "cluster": {"workers": 0}}


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_phases_of_a_run(method: str, tmp_path: Path) -> None:
    plain = ("engine.layers=products", "run.validate_every=0", "outer.schedule=constant")
    train(tmp_path / "plain", settings(method), "run.steps=6", "engine.compile=none", *plain)
    train(tmp_path / "recorded", settings(method), "run.steps=6", "engine.compile=graph", *plain)
    train(tmp_path / "resumed", settings(method), "run.steps=2", "engine.compile=graph", *plain)
    train(tmp_path / "resumed", settings(method), "run.steps=6", "engine.compile=graph", *plain, resume=True)
    expected = parameters(tmp_path / "plain", 6)
    assert_same(parameters(tmp_path / "recorded", 6), expected)
    assert_same(parameters(tmp_path / "resumed", 6), expected)


@pytest.mark.parametrize(
    ("method", "other"),
    [pytest.param("multi_step", "multi_step=2", marks=pytest.mark.slow), ("hybrid", "first_order_steps=4")],
)
def test_the_phase_matters(method: str, other: str, tmp_path: Path) -> None:
    plain = ("engine.compile=none", "engine.layers=products", "run.validate_every=0", "run.steps=4")
    train(tmp_path / "one", settings(method), *plain)
    train(tmp_path / "other", settings(method), *plain, f"algorithm.{other}")
    one, two = (parameters(tmp_path / each, 4) for each in ("one", "other"))
    assert any(not torch.equal(one[name], two[name]) for name in one)
