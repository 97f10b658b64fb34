"""The plans of whole runs: tried before the first step, the same on any number of workers, decided anew elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from integration_helpers import EVALUATION, GLYPHS, SINUSOID, assert_same, parameters, snapshot, train

import distmeta
from distmeta.config.schema import Config
from distmeta.errors import ConfigError
from distmeta.functional.module import FunctionalModule
from distmeta.loading import load_config
from distmeta.programs import task_program
from distmeta.programs.supervised import SupervisedProgram
from distmeta.runs.planning import measure_plans

FORCE = {**SINUSOID, "model": {"kind": "module:integration_models.Force"}, "run": {**SINUSOID["run"], "steps": 4}}
SMALL: dict[str, Any] = {**GLYPHS, "run": {"steps": 2, "meta_batch": 2, "tasks_per_shard": 2}, "evaluation": EVALUATION}


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.slow
@pytest.mark.parametrize("counts", [(0, 2), (0, 1, 3)])
def test_plain_autograd_has_the_same_bits_on_workers(
    counts: tuple[int, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    results = {}
    for workers in counts:
        caplog.clear()
        with caplog.at_level("WARNING", "distmeta"):
            results[workers] = train(tmp_path / str(workers), FORCE, f"cluster.workers={workers}")["meta_test"]
        told = [line for line in caplog.messages if "one by one, by plain autograd" in line]
        assert len(told) == 1
        assert_same(parameters(tmp_path / str(workers), 4), parameters(tmp_path / "0", 4))
        assert results[workers] == results[0]
    resumed = train(tmp_path / "0", FORCE, "run.steps=6", resume=True)
    assert resumed["steps"] == 6
    assert snapshot(tmp_path / "0").plan["running"] == "plain"
    assert distmeta.evaluate(tmp_path / "0", trust_code=True) == resumed["meta_test"]


def test_an_evaluation_obeys_the_engine_settings_it_is_given(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(tmp_path, SMALL)
    with caplog.at_level("WARNING", "distmeta"):
        before = distmeta.evaluate(tmp_path)
        assert not any("plan of its own" in line for line in caplog.messages)
        general = distmeta.evaluate(tmp_path, ["engine.layers=general"])
    assert any("not the run's: engine.layers=general is asked for" in line for line in caplog.messages)
    assert general["accuracy"]["mean"] == pytest.approx(before["accuracy"]["mean"], abs=0.05)
    with pytest.raises(ConfigError, match=r"engine\.layers"):
        distmeta.evaluate(tmp_path, ["engine.layers=nothing"])


def _wrong(self: FunctionalModule, *args: Any, **kwargs: Any) -> torch.Tensor:
    return 1.1 * _right(self, *args, **kwargs)


_right = FunctionalModule.__call__


def _unknown(config: Config) -> None:
    """The origin of what is broken here, so that nothing of it is kept in the cache, or taken from there."""


def test_a_wrong_conversion_is_found_before_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference shares nothing with the converted module: what it computes wrongly is seen."""
    config = load_config(SMALL, [f"run.dir={tmp_path}"])
    monkeypatch.setattr(FunctionalModule, "__call__", _wrong)
    monkeypatch.setattr(task_program, "origin", _unknown)
    for probe in (
        lambda: next(distmeta.train(config, tmp_path / "run")),
        lambda: measure_plans(config, 0.01),
        lambda: SupervisedProgram(config, torch.device("cpu")).probe(),
    ):
        with pytest.raises(ConfigError, match="computes something else here than under plain PyTorch"):
            probe()


def test_a_wrong_conversion_of_one_layers_form_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(self: FunctionalModule, *args: Any, **kwargs: Any) -> torch.Tensor:
        return (1.0 if self._form is None else 1.1) * _right(self, *args, **kwargs)

    monkeypatch.setattr(FunctionalModule, "__call__", wrong)
    monkeypatch.setattr(task_program, "origin", _unknown)
    program = SupervisedProgram(load_config(SMALL), torch.device("cpu"))
    plan = program.probe()
    assert plan.layers == "general"
    measured = measure_plans(load_config(SMALL, ["engine.compile=none"]), 0.01)
    assert all(each.agrees == (each.plan.layers == "general") for each in measured)


def test_plans_of_a_network_with_parameters_that_it_does_not_use() -> None:
    config = load_config({**FORCE, "model": {"kind": "module:integration_models.Unused"}}, ["engine.compile=none"])
    measured = measure_plans(config, 0.01)
    assert all(each.agrees and each.error < 1e-5 for each in measured)
