"""Every method's learner, from Python: it adapts to a task and predicts what the meta-test predicted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from integration_helpers import GLYPHS, train

import distmeta
from distmeta.algorithms import ALGORITHMS
from distmeta.core.requests import Start
from distmeta.programs import open_program
from distmeta.tasks import open_family

CPU = torch.device("cpu")
OWN: dict[str, dict[str, Any]] = {
    "maml_plus_plus": {"inner_steps": 2},
    "imaml": {"inner_steps": 3, "inner_lr": 0.05, "proximal": 20.0},
    "cavia": {"film": "body.2.1"},
    "lora": {"rank": 2},
    "es_maml": {"directions": 1},
    "baseline": {"classes": 1000, "head_steps": 5},
    "baseline_plus_plus": {"classes": 1000, "head_steps": 5},
}
QUICK = ("r2d2", "metaoptnet", "cavia", "in_context", "baseline")
NAMES = [name for name, each in ALGORITHMS.items() if not each.of_policies]
CASES = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]


@pytest.mark.parametrize("name", CASES)
def test_a_learner_predicts_what_the_meta_test_does(name: str, tmp_path: Path) -> None:
    model = {"kind": "prior_fitted", "width": 8, "heads": 2} if name == "in_context" else GLYPHS["model"]
    base = {**GLYPHS, "model": model, "algorithm": {"name": name, **OWN.get(name, {})}}
    train(tmp_path, base, "run.steps=2", "engine.compile=none", "engine.layers=general", "run.validate_every=0")
    learner = distmeta.load(tmp_path)
    tasks = open_family(learner.config, CPU).sample("test", range(3))
    program = open_program(learner.config, CPU)
    program.follow(program.probe(training=False))
    vector = program.layout.flatten(dict(learner.meta))
    values = program.evaluate(Start.of(2, vector), "test", range(3), details=True).values
    measured = values.get("accuracy_inductive", values["accuracy"])  # a learner sees one query after the other
    for task in range(3):
        adapted = learner.adapt(tasks.support["x"][task], tasks.support["y"][task])
        outputs = adapted.predict(tasks.query["x"][task])
        right = (outputs.argmax(1) == tasks.query["y"][task]).double().mean()
        assert float(right) == pytest.approx(float(measured[task]))
