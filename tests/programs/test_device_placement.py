"""Everything that a meta-gradient makes lies on the device of its inputs; torch's meta device stands for another one.

A tensor that is left on the CPU fails there as it would beside CUDA's tensors, and nothing is computed.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_leaves, tree_map

from distmeta.core.plan import Plan
from distmeta.loading import load_config
from distmeta.programs.supervised import SupervisedProgram

ELSEWHERE = torch.device("meta")
ALGORITHMS: dict[str, dict[str, Any]] = {
    "maml": {"name": "maml", "inner_steps": 2},
    "momentum": {"name": "maml", "inner_steps": 2, "inner_optimizer": "momentum"},
    "fomaml-adam": {"name": "fomaml", "inner_steps": 2, "inner_optimizer": "adam"},
    "reptile": {"name": "reptile", "inner_steps": 2, "inner_batch": 2},
    "anil": {"name": "anil", "inner_steps": 2},
    "meta_sgd": {"name": "meta_sgd", "inner_steps": 2},
    "protonet": {"name": "protonet"},
}

MLP: dict[str, Any] = {"kind": "mlp", "hidden": [8]}
CONV4: dict[str, Any] = {"kind": "conv4", "filters": 4}
RESNET12: dict[str, Any] = {"kind": "resnet12", "widths": [2, 2, 2, 2], "dropout": 0.2}


@pytest.fixture(autouse=True)
def no_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """The meta device has none, and torch raises where it is asked whether it is on."""
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)


@pytest.mark.parametrize("algorithm", list(ALGORITHMS))
def test_nothing_is_left_on_the_cpu(algorithm: str) -> None:
    check(ALGORITHMS[algorithm], MLP, Plan())
    check(ALGORITHMS[algorithm], CONV4, Plan(layers="products"))


def test_mixed_mode_dropout_and_pools() -> None:
    check(ALGORITHMS["meta_sgd"], CONV4, Plan(differentiation="mixed"))
    check({**ALGORITHMS["maml"], "inner_steps": 1}, RESNET12, Plan(layers="products"))


def check(algorithm: dict[str, Any], model: dict[str, Any], plan: Plan) -> None:
    settings = {
        "tasks": {"kind": "glyphs", "ways": 3, "shots": 1, "queries": 2},
        "model": model,
        "algorithm": algorithm,
        "run": {"device": "cpu", "meta_batch": 2},
        "evaluation": {"tasks": 2},
    }
    program = SupervisedProgram(load_config(settings), torch.device("cpu"))
    program.follow(plan)
    vector = program.initial_vector()
    tasks, ways = program._tasks("train", range(2), program._steps, dropout=True)
    checks, _ = program._tasks("validation", range(2), program._evaluation_steps, dropout=False)
    program._parts.network.to(ELSEWHERE)
    vector, tasks, checks = tree_map(lambda value: value.to(ELSEWHERE), (vector, tasks, checks))
    results = (program._gradient_sums(ways, (vector,), tasks), program._measurements(ways, True, (vector,), checks))
    assert {value.device for value in tree_leaves(results)} == {ELSEWHERE}
