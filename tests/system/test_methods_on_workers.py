"""Every method has the same bits in process, on two workers, and on workers that are killed in the middle."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from integration_helpers import GLYPHS, assert_same, configure, drain, parameters, poll, ray_workers, train, untimed

import distmeta
from distmeta.algorithms import ALGORITHMS
from distmeta.estimators import ESTIMATORS

pytestmark = pytest.mark.usefixtures("ray_cluster")

STEPS = 6
OWN: Mapping[str, Mapping[str, Any]] = {
    "maml_plus_plus": {"inner_steps": 2, "multi_step": 3},
    "imaml": {"inner_steps": 3, "inner_lr": 0.05, "proximal": 20.0},
    "cavia": {"film": "body.2.1"},
    "lora": {"rank": 2, "inner_lr": 0.1},
    "es_maml": {"directions": 2},
    "baseline": {"classes": 1000, "head_steps": 5},
    "baseline_plus_plus": {"classes": 1000, "head_steps": 5},
    "hybrid": {"name": "maml", "estimator": "hybrid", "first_order_steps": 3, "inner_lr": 0.1},
    "truncated": {"name": "maml", "estimator": "truncated", "inner_steps": 3, "inner_lr": 0.1},
}
NAMES = [*(name for name, each in ALGORITHMS.items() if not each.of_policies), "hybrid", "truncated"]
QUICK = ("metaoptnet",)
CASES = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]


def settings(name: str) -> dict[str, Any]:
    algorithm = {"name": name, **OWN.get(name, {})}
    model = {"kind": "prior_fitted", "width": 8, "heads": 2} if name == "in_context" else GLYPHS["model"]
    return {**GLYPHS, "name": name, "model": model, "algorithm": algorithm}


@pytest.mark.parametrize("name", CASES)
def test_same_bits(name: str, tmp_path: Path) -> None:
    overrides = (f"run.steps={STEPS}", "engine.compile=none")
    train(tmp_path / "0", settings(name), *overrides, "cluster.workers=0")
    steps = distmeta.train(configure(settings(name), *overrides, "cluster.workers=2"), tmp_path / "2")
    for record in steps:
        if record.step == 2:
            pids: list[int] = poll(ray_workers, lambda found: len(found) == 2, 60)
            os.kill(pids[0], signal.SIGKILL)
            break
    result = drain(steps)
    assert result["faults"]["workers_lost"] == 1
    assert_same(parameters(tmp_path / "2", STEPS), parameters(tmp_path / "0", STEPS))
    found, expected = (untimed(tmp_path / each) for each in ("2", "0"))
    told = ("faults/workers_lost", "faults/shards_redone")
    for line in (*found, *expected):
        for key in told:
            line.pop(key, None)
    assert found == expected


def test_every_estimator_is_tried() -> None:
    of_names = {name: entry.estimator for name, entry in ALGORITHMS.items()}
    tried = {OWN.get(name, {}).get("estimator", of_names.get(name)) for name in NAMES}
    assert tried == {name for name, options in ESTIMATORS.options.items() if not options.of_policies}
