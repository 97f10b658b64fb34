"""Evolution strategies on policies."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from distmeta.core.requests import Request, Start
from distmeta.errors import ConfigError
from distmeta.estimators.evolution import Evolution
from distmeta.estimators.options import EvolutionOptions
from distmeta.loading import load_config
from distmeta.programs.evolving import EvolvingProgram

NAVIGATION: dict[str, Any] = {
    "tasks": {"kind": "navigation", "episodes": 4, "horizon": 9},
    "model": {"kind": "mlp", "hidden": [8], "activation": "tanh", "weights": "xavier"},
    "algorithm": {"name": "es_maml", "inner_lr": 0.3, "inner_steps": 2, "directions": 3, "deviation": 0.2},
    "run": {"meta_batch": 4, "tasks_per_shard": 2, "steps": 2, "device": "cpu"},
    "evaluation": {"tasks": 4, "validation_tasks": 2},
}


def opened(*overrides: str) -> EvolvingProgram:
    return EvolvingProgram(load_config(NAVIGATION, overrides), torch.device("cpu"))


def test_the_expectation_on_a_quadratic() -> None:
    """Every direction gives the slope along it exactly, whatever the deviation; their mean is the gradient."""
    generator, size, count = torch.Generator().manual_seed(0), 4, 100_000
    root = torch.randn(size, size, generator=generator, dtype=torch.float64)
    curvature, at = root @ root.T, torch.randn(size, generator=generator, dtype=torch.float64)

    def lost(where: Tensor) -> Tensor:
        return (where @ curvature * where).sum(-1) / 2

    estimator = Evolution(EvolutionOptions(deviation=0.3), None)
    directions = torch.randn(count, size, generator=generator, dtype=torch.float64)
    found = estimator.combined(directions, lost(at + 0.3 * directions), lost(at - 0.3 * directions))
    each = (directions @ (curvature @ at)).unsqueeze(1) * directions
    torch.testing.assert_close(found, each.mean(0))
    assert bool(((found - curvature @ at).abs() <= 4 * each.std(0) / count**0.5).all())


def test_a_meta_gradient_is_made_of_the_returns_of_both_sides() -> None:
    program = opened()
    program.follow(program.probe())
    theta = program.initial_vector()
    answer = program.answer(Request("gradient", Start.of(0, theta)), "train", [5, 9])
    total, returns = torch.zeros_like(theta), []
    for place, task in enumerate((5, 9)):
        for direction in program._directions("train", [5, 9], 3)[place]:
            sides = [
                program._rollouts.roll_out(theta + sign * 0.2 * direction, "train", [task], 2)["query"]["return"]
                for sign in (1, -1)
            ]
            returns += sides
            total -= (sides[0] - sides[1]) * direction / (2 * 3 * 0.2)
    torch.testing.assert_close(answer.vector, total, rtol=1e-3, atol=1e-4 * float(total.norm()))
    assert answer.sums["return"] == pytest.approx(float(torch.cat(returns).mean() * 2), rel=1e-4)
    assert answer.sums["loss"] == pytest.approx(-answer.sums["return"])


def test_directions_are_those_of_the_task() -> None:
    program = opened()
    both, alone = program._directions("train", [5, 9], 3), program._directions("train", [9], 3)
    assert torch.equal(both[1:], alone)
    flat = both.flatten()
    assert abs(float(flat.mean())) < 0.2
    assert float(flat.std()) == pytest.approx(1, abs=0.15)
    assert not torch.equal(both[0, 0], both[0, 1])
    assert not torch.equal(opened("seed=1")._directions("train", [9], 3), alone)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("outer={name: trust_region}", "asks for more than a gradient"),
        ("outer={name: clipped}", "asks for more than a gradient"),
        ("engine.compile=inductor", "auto or none or graph"),
        ("algorithm.directions=0", r"algorithm\.directions"),
    ],
)
def test_refused_settings(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(NAVIGATION, [override])
