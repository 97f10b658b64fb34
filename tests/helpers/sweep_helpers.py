"""Small sweeps of sinusoids."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distmeta.storage.files import Storage
from distmeta.sweeps.sweep import Sweep, load_sweep
from distmeta.sweeps.trial import TrialRun

STEPS, EVERY = 12, 4
BASE: dict[str, Any] = {
    "tasks": {"kind": "sinusoid"},
    "model": {"kind": "mlp", "hidden": [8]},
    "algorithm": {"name": "maml"},
    "run": {"steps": STEPS, "meta_batch": 4, "validate_every": EVERY, "log_every": 1},
    "evaluation": {"tasks": 8, "validation_tasks": 16},
    "engine": {"compile": "none"},
}
SPACE: dict[str, Any] = {
    "algorithm.inner_lr": {"loguniform": [0.001, 0.1]},
    "outer.lr": {"loguniform": [1e-4, 1e-2]},
}


def written(**changes: Any) -> dict[str, Any]:
    """A sweep file's content."""
    return copy.deepcopy({"base": BASE, "space": SPACE, "trials": 4, **changes})


def sweep(*overrides: str, **changes: Any) -> Sweep:
    return load_sweep(written(**changes), overrides)


def scores(results: Mapping[str, Any]) -> dict[str, float]:
    """Scores by the values that gave them."""
    return {str(trial["values"]): trial["score"] for trial in results["trials"]}


def trial_names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "trials").iterdir())


def storage(folder: Path) -> Storage:
    return Storage.at(folder / "trials")


def undisturbed_scores(folder: Path, overrides: list[str]) -> dict[str, float]:
    """What the trials reach in this process, without Ray."""
    chosen, found = sweep(*overrides, "resources={workers: 0}"), {}
    for number, values in enumerate(chosen.points or ()):
        run = TrialRun(chosen, storage(folder), str(number), values)
        told = []
        while run.step < chosen.config.run.steps:
            told.append(run.next()[1])
        found[str(values)] = min(metrics["mse"] for metrics in told if metrics)
    return found
