"""Small configurations, their programs on a device, and float64 references on the CPU."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor

from distmeta.config.schema import Config
from distmeta.core.plan import Plan
from distmeta.loading import load_config
from distmeta.programs.engine.settling import PLAN_TOLERANCE, disagreement
from distmeta.programs.supervised import SupervisedProgram
from distmeta.workers.worker import Worker

TASKS = 6
GLYPHS = {"kind": "glyphs", "ways": 3, "shots": 1, "queries": 2}
MODELS: dict[str, dict[str, Any]] = {
    "mlp": {"kind": "mlp", "hidden": [16]},
    "conv4": {"kind": "conv4", "filters": 16},
}
ALGORITHMS: dict[str, dict[str, Any]] = {
    "maml": {"name": "maml", "inner_lr": 0.1, "inner_steps": 2},
    "fomaml": {"name": "fomaml", "inner_lr": 0.1, "inner_steps": 2},
    "reptile": {"name": "reptile", "inner_steps": 2, "inner_batch": 4},
    "anil": {"name": "anil", "inner_lr": 0.1, "inner_steps": 2},
    "meta_sgd": {"name": "meta_sgd", "inner_steps": 2},
    "protonet": {"name": "protonet"},
}


def configure(algorithm: str, model: str, *overrides: str) -> Config:
    """An algorithm on a model, tiny, on the tests' device, in this process."""
    settings = {
        "name": "gpu",
        "tasks": GLYPHS,
        "model": MODELS[model],
        "algorithm": ALGORITHMS[algorithm],
        "run": {"steps": 4, "meta_batch": TASKS, "tasks_per_shard": 3, "validate_every": 2, "checkpoint_every": 2},
        "evaluation": {"tasks": 6},
        "cluster": {"workers": 0},
    }
    return load_config(settings, overrides)


def program_on(device: torch.device, config: Config) -> SupervisedProgram:
    """Its program alone."""
    return SupervisedProgram(config, device)


@contextmanager
def worker_on(device: torch.device, config: Config, plan: Plan) -> Iterator[Worker]:
    """A worker that follows a plan; what it sets in the process is put back."""
    run = config.run.model_copy(update={"device": device.type})
    worker = Worker(config.model_copy(update={"run": run}))
    try:
        worker.follow(plan)
        yield worker
    finally:
        worker.close()


@cache
def reference(algorithm: str, model: str) -> list[Tensor]:
    """Meta-gradients of three chunks of tasks: plain autograd on the CPU in float64, one task at a time."""
    program = program_on(torch.device("cpu"), configure(algorithm, model, "run.device=cpu"))
    return [program.reference_gradient(TASKS, first) for first in (0, TASKS, 2 * TASKS)]


def samples(worker: Worker) -> list[Tensor]:
    """The same chunks' meta-gradients by a worker."""
    program = worker.program
    assert isinstance(program, SupervisedProgram)
    return [program.sample_gradient(TASKS, first) for first in (0, TASKS, 2 * TASKS)]


def check(found: list[Tensor], algorithm: str, model: str, precision: str = "float32") -> None:
    """The median counts: in a single chunk an activation may lie at a rectifier's corner."""
    apart = [disagreement(a, b) for a, b in zip(found, reference(algorithm, model), strict=True)]
    assert all(vector.isfinite().all() for vector in found)
    assert 0 < statistics.median(apart) <= (1e-4 if precision == "float32" else PLAN_TOLERANCE[precision])


def equal(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    """The same names and the same bits."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
