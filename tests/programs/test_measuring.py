"""Runs with objectives and metrics of choice: what they log, select by, test, and refuse."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import distmeta
from distmeta.core.requests import Answer
from distmeta.errors import ConfigError
from distmeta.loading import load_config
from distmeta.programs.measuring import summed_names, sums
from distmeta.runs.directory import to_json

SINUSOID: dict[str, Any] = {
    "tasks": {"kind": "sinusoid", "shots": 3, "queries": 3},
    "model": {"kind": "mlp", "hidden": [8]},
    "algorithm": {"name": "maml"},
    "run": {"steps": 2, "meta_batch": 4, "validate_every": 2, "log_every": 1},
    "engine": {"compile": "none", "layers": "general"},
    "evaluation": {"tasks": 5, "validation_tasks": 3},
}


def run(folder: Path, *overrides: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A run's result, and the lines of its log."""
    steps = distmeta.train(load_config(SINUSOID, overrides), folder)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            lines = (folder / "metrics.jsonl").read_text().splitlines()
            return end.value, [json.loads(line) for line in lines]


def test_the_first_metric_selects_and_all_are_measured(tmp_path: Path) -> None:
    result, lines = run(tmp_path / "run", "tasks.metrics=[r2, mae, rmse]")
    assert result["best_validation"]["metric"] == "r2"
    tested = result["meta_test"]
    assert list(tested)[:4] == ["loss", "r2", "mae", "rmse"]
    assert tested["mae"]["unit"] == "target"
    assert [tested[name].get("higher_is_better") for name in ("loss", "r2", "mae")] == [None, True, False]
    assert tested["r2"]["tasks"] == 5
    assert lines[0]["train/r2_tasks"] == 4
    assert lines[1]["validation/r2_tasks"] == 3
    assert "train/mae_tasks" not in lines[0]
    assert tested["by_step"][-1]["mean"] == tested["r2"]["mean"]


def test_tasks_without_a_figure_are_left_out_and_counted(tmp_path: Path) -> None:
    """One query has no R2: no task counts, and the figure is missing, never 0."""
    result, lines = run(tmp_path / "run", "tasks.metrics=[mae, r2]", "tasks.queries=1")
    assert math.isnan(result["meta_test"]["r2"]["mean"])
    assert result["meta_test"]["r2"]["tasks"] == 0
    assert json.loads(to_json(result["meta_test"]["r2"]))["mean"] is None
    assert (lines[0]["train/r2"], lines[0]["train/r2_tasks"]) == (None, 0)
    assert lines[0]["train/mae"] > 0


def test_what_is_not_defined_leaves_the_mean_and_what_diverged_does_not() -> None:
    measured = {
        "loss": torch.tensor([1.0, 2.0, 3.0]),
        "auroc": torch.tensor([math.nan, 0.5, 1.0]),
        "mae": torch.tensor([1.0, 2.0, 3.0]),
    }
    names = summed_names(("auroc", "mae"))
    answer = Answer({}, dict(zip(names, sums(("auroc", "mae"), measured), strict=True)), 3)
    assert answer.means() == {"loss": 2.0, "auroc": 0.75, "mae": 2.0, "auroc_tasks": 2.0}
    measured["loss"][0] = math.inf
    assert sums(("auroc",), measured)[1].isnan()


@pytest.mark.parametrize("objective", ["{name: gaussian, min_variance: .01}", "{name: huber, delta: .5}", "gaussian"])
def test_regressions_train_and_are_used(objective: str, tmp_path: Path) -> None:
    result, _ = run(tmp_path / "run", f"tasks.objective={objective}")
    assert math.isfinite(result["meta_test"]["loss"]["mean"])
    learner = distmeta.load(tmp_path / "run")
    adapted = learner.adapt(torch.zeros(3, 1), torch.ones(3, 1))
    assert adapted.predict(torch.zeros(2, 1)).shape == (2, 2 if "gaussian" in objective else 1)


def test_targets_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    for objective, said in {
        "cross_entropy": r"is about class indices.*are float32 of shape \(N, 1\); use squared_error",
        "poisson": r"targets of tasks.kind = sinusoid should be 0 or more, and are -\d",
        "binary_cross_entropy": "should be 0 to 1, and are",
    }.items():
        with pytest.raises(ConfigError, match=said):
            run(tmp_path / objective, f"tasks.objective={objective}")
    glyphs = {**SINUSOID, "tasks": {"kind": "glyphs"}, "model": {"kind": "mlp"}}
    with pytest.raises(ConfigError, match=r"is about floating-point numbers.*are int64 of shape.*use cross_entropy"):
        next(distmeta.train(load_config(glyphs, ["tasks.objective=huber"]), tmp_path / "huber"))


def test_support_targets_beyond_bounds_are_refused(tmp_path: Path) -> None:
    run(tmp_path / "run")
    learner = distmeta.load(tmp_path / "run", ["tasks.objective=poisson"])
    with pytest.raises(ConfigError, match="y_support should be 0 or more, and are -1 to -1"):
        learner.adapt(torch.zeros(3, 1), -torch.ones(3, 1))


def test_class_weights_are_one_for_each_class(tmp_path: Path) -> None:
    glyphs = {**SINUSOID, "tasks": {"kind": "glyphs"}, "model": {"kind": "mlp"}}
    config = load_config(glyphs, ["tasks.objective={name: cross_entropy, class_weights: [1, 2]}"])
    with pytest.raises(ConfigError, match="has 2 weights, and tasks have 5 ways"):
        next(distmeta.train(config, tmp_path / "run"))
