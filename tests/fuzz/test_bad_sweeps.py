"""Sweep files that would hang, fill memory or end in a traceback: one test for each kind that was found."""

from __future__ import annotations

import time
from typing import Any

import pytest

from distmeta.errors import ConfigError
from distmeta.sweeps.sweep import load_sweep

BASE = {
    "tasks": {"kind": "sinusoid"},
    "model": {"kind": "mlp"},
    "algorithm": {"name": "maml"},
    "run": {"steps": 20, "validate_every": 5},
}
RATE = {"outer.lr": {"uniform": [0.1, 0.2]}}
MANY = {f"{key}": {"grid": [float(number) for number in range(1, 200)]} for key in ("outer.lr", "outer.clip_norm")}


def when(first: Any, second: Any) -> dict[str, Any]:
    """A space of two keys with conditions."""
    return {
        "space": {
            "outer.optimizer": {"choice": ["sgd", "adam"], **({"when": first} if first is not None else {})},
            "outer.clip_norm": {"uniform": [1, 2], "when": second},
        }
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"space": MANY, "searcher": "grid"}, "space: .* too many combinations", id="a huge grid"),
        pytest.param({"space": MANY}, "space: .* too many combinations: expected at most 10,000", id="huge and drawn"),
        pytest.param({"trials": 2**40}, "trials: .*less than or equal to 10000", id="trials"),
        pytest.param({"repeats": 2**40}, "repeats: .*less than or equal to 1000", id="repeats"),
        pytest.param({"repeats": 2, "base": {**BASE, "seed": 2**63 - 1}}, r"repeats = 2: the last seed", id="seeds"),
        pytest.param(
            {"scheduler": {"kind": "asha", "reduction": 1.0000001}}, "scheduler.reduction: .*1.1", id="endless rounds"
        ),
        pytest.param(
            {"space": {"outer.lr": {"uniform": [-1e308, 1e308]}}}, "less far apart", id="bounds that overflow"
        ),
        pytest.param(
            when({"outer.clip_norm": 1}, {"outer.optimizer": "sgd"}),
            "outer.optimizer.when: outer.clip_norm is no earlier key",
            id="conditions in a circle",
        ),
        pytest.param(
            when({"outer.optimizer": "sgd"}, {"outer.optimizer": "sgd"}),
            "outer.optimizer.when: outer.optimizer is no earlier key",
            id="a condition of itself",
        ),
        pytest.param(
            when({"nothing": 1}, {"outer.optimizer": "sgd"}), "nothing is no earlier key", id="a condition of nothing"
        ),
        pytest.param(when(None, {"outer.optimizer": []}), "at least one value of outer.optimizer", id="no value"),
        pytest.param({"settings": {".".join("a" * 5000): 1}}, "at most 32 deep", id="deep settings"),
        pytest.param({"base": "\0"}, "expected text without null bytes", id="a base of no name"),
        pytest.param({"base": "~nobody-of-this-name/x.yaml"}, "cannot read the configuration", id="nobody's base"),
    ],
)
def test_refused_at_once(changes: dict[str, Any], message: str) -> None:
    began = time.monotonic()
    with pytest.raises(ConfigError, match=message):
        load_sweep({"base": BASE, "space": RATE, **changes})
    assert time.monotonic() - began < 10


def test_a_condition_of_several_values_is_taken() -> None:
    sweep = load_sweep({"base": BASE, "trials": 4, **when(None, {"outer.optimizer": ["sgd"]})})
    assert sweep.trials == 4
