"""Every algorithm on networks of tokens: the derivatives of plain autograd in float64, one task at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from distmeta.algorithms import ALGORITHMS
from distmeta.loading import load_config
from distmeta.programs.engine.comparison import disagreement
from distmeta.programs.supervised import SupervisedProgram
from distmeta.tasks import fit_family

MODELS: dict[str, dict[str, Any]] = {
    "bag": {"kind": "bag", "features": 8, "scale": 2.0, "dropout": 0.3},
    "transformer": {"kind": "transformer", "width": 8, "heads": 2, "depth": 1, "pooling": "weights", "dropout": 0.2},
}
SETTINGS = {
    "maml": {"inner_lr": 0.1, "inner_steps": 2},
    "fomaml": {"inner_lr": 0.1, "inner_steps": 2},
    # Adam would divide gradients that are 0 but for rounding (of keys' biases) by themselves.
    "reptile": {"inner_lr": 0.1, "inner_steps": 3, "inner_batch": 4, "inner_optimizer": "sgd"},
    "anil": {"inner_lr": 0.2, "inner_steps": 2},
    "meta_sgd": {"inner_steps": 2},
}
OTHERS = {"maml_plus_plus", "cavia", "in_context", "baseline", "baseline_plus_plus", "es_maml"}
"""These need other networks, or all classes, or are estimates."""

CASES = [
    *(
        (name, "reverse", model)
        for name, each in ALGORITHMS.items()
        if not each.of_policies and name not in OTHERS
        for model in MODELS
    ),
    *((name, "mixed", model) for name in ("maml", "meta_sgd") for model in MODELS),
]
QUICK = (("maml", "reverse", "transformer"), ("maml", "mixed", "bag"), ("protonet", "reverse", "transformer"))


@pytest.fixture(scope="module", name="table")
def _table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "texts.csv"
    lines = [f"{'filler ' * (n % 3)}word{n % 5} of class{n % 12},class{n % 12}" for n in range(12 * 6)]
    path.write_text("\n".join(["text,label", *lines]))
    return path


@pytest.mark.parametrize(
    ("name", "differentiation", "model"),
    [case if case in QUICK else pytest.param(*case, marks=pytest.mark.slow) for case in CASES],
)
def test_meta_gradients(name: str, differentiation: str, model: str, table: Path) -> None:
    values = {
        "tasks": {"kind": "text", "root": str(table), "ways": 2, "shots": 2, "queries": 2, "length": 7, "buckets": 5},
        "model": MODELS[model],
        "algorithm": {"name": name, **SETTINGS.get(name, {})},
        "run": {"meta_batch": 4, "tasks_per_shard": 2, "device": "cpu"},
        "engine": {"compile": "none", "differentiation": differentiation},
    }
    program = SupervisedProgram(fit_family(load_config(values)), torch.device("cpu"))
    plan = program.probe()
    program.follow(plan)
    assert plan.running == "mapped"
    assert disagreement(program.sample_gradient(2), program.reference_gradient(2)) < 1e-5
    assert disagreement(program.sample_losses(2), program.reference_losses(2)) < 1e-5
