"""The battery's networks by name, and a short run of each."""

from __future__ import annotations

import inspect
from typing import Any

import battery_networks

import distmeta
from distmeta.config.schema import Config

BASE: dict[str, Any] = {
    "name": "battery",
    "tasks": {"kind": "glyphs", "ways": 3, "shots": 2, "queries": 2},
    "algorithm": {"name": "maml", "inner_lr": 0.1, "inner_steps": 2},
    "outer": {"optimizer": "sgd", "lr": 1.0},
    "run": {"steps": 1, "meta_batch": 4, "tasks_per_shard": 2, "device": "cpu"},
    "evaluation": {"tasks": 4, "validation_tasks": 4, "inner_steps": 3},
    "cluster": {"workers": 0},
}
HELPERS = {"flat", "maps", "tokens_of", "rows", "doubled", "Child", "Holder"}
NETWORKS = sorted(
    name
    for name, value in vars(battery_networks).items()
    if getattr(value, "__module__", None) == "battery_networks"
    and name not in HELPERS
    and "outputs" in inspect.signature(value).parameters
    and not {"kind", "reentrant"} & set(inspect.signature(value).parameters)
)


def configure(network: str, *overrides: str, module: str = "battery_networks") -> Config:
    return distmeta.load_config({**BASE, "model": {"kind": f"module:{module}.{network}"}}, overrides)
