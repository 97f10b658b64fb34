"""What is measured of adapted tasks, and sums of it over tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor

from distmeta.adaptations import Iterative
from distmeta.adaptations.base import Task, trajectory
from distmeta.core.layout import Meta
from distmeta.core.requests import COUNTED
from distmeta.objectives.metrics import may_be_undefined
from distmeta.programs.engine.assembly import Assembly


def measure(parts: Assembly, meta: Meta, task: Task, steps: int | None, details: bool) -> dict[str, Tensor]:
    """One task's ``loss`` and metrics after adaptation.

    ``details`` adds ``by_step`` (K + 1,), the first metric after every inner step where there are any, and for
    networks with batch statistics ``METRIC_inductive``, where the support set's statistics normalise the query.
    """
    adaptation, objective = parts.adaptation, parts.objective
    support, query = task
    by_step = []
    if details and adaptation.iterative:
        assert steps is not None
        for number, adapted in enumerate(trajectory(cast(Iterative, adaptation), meta, support, steps)):
            outputs = adaptation.predict(meta, adapted, query.after(number))
            by_step.append(objective.measure(outputs, query.data)[parts.metric])
    else:
        adapted = adaptation.adapt(meta, support, steps)
        outputs = adaptation.predict(meta, adapted, query)
    values = {"loss": objective.loss(outputs, query.data), **_chosen(parts, outputs, task)}
    if by_step:
        values["by_step"] = torch.stack(by_step)
    if details and parts.network.uses_batch_statistics:
        outputs = adaptation.predict_inductive(meta, adapted, support, query)
        values |= {f"{name}_inductive": value for name, value in _chosen(parts, outputs, task).items()}
    return values


def _chosen(parts: Assembly, outputs: Tensor, task: Task) -> dict[str, Tensor]:
    measured = parts.objective.measure(outputs, task.query.data)
    return {name: measured[name] for name in parts.objective.metrics}


def summed_names(metrics: Sequence[str]) -> tuple[str, ...]:
    """Names of what :func:`sums` gives: ``loss``, the metrics, and how many tasks have those that some have not.

    >>> summed_names(["accuracy", "auroc"])
    ('loss', 'accuracy', 'auroc', 'auroc_tasks')
    """
    return ("loss", *metrics, *(name + COUNTED for name in metrics if may_be_undefined(name)))


def sums(metrics: Sequence[str], measured: Mapping[str, Tensor]) -> list[Tensor]:
    """Scalars by the names of :func:`summed_names`: sums over the tasks of measurements (T,).

    A metric that is not defined for a task counts neither in its sum nor in its number of tasks. One that is NaN since
    the task's loss is not finite counts.
    """
    values, counts = [measured["loss"]], []
    for name in metrics:
        value = measured[name]
        if may_be_undefined(name):
            defined = ~(value.isnan() & measured["loss"].isfinite())
            value = value.where(defined, torch.zeros_like(value))
            counts.append(defined)
        values.append(value)
    return [each.double().sum() for each in (*values, *counts)]
