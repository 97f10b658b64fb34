"""The slow and plain way to a meta-gradient, which the fast ways are held against."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from distmeta.adaptations.base import Batch, Iterative, Support, Task
from distmeta.layout import Layout, Meta
from distmeta.programs.assembly import Assembly


def one_task(tree: Mapping[str, Any], ways: int | None, steps: int | None) -> Task:
    """One task as adaptations see it, from its tree of tensors."""
    key = tree.get("key")
    # The draw after those of the support set, whose masks the query set must not share.
    after = 1 if steps is None else steps
    support = Support(tree["support"], ways, tree.get("batches"), key)
    return Task(support, Batch(tree["query"], key, after))


def plain_gradient(parts: Assembly, meta: Meta, tasks: Any, count: int, ways: int | None, steps: int | None) -> Tensor:
    """Sum of the tasks' meta-gradients (P,) in float64: one task at a time, on the module's own layers.

    The exact one is by ``torch.autograd`` alone, without ``torch.func``; other estimators compute their own definition.

    Args:
        parts: a configuration's parts, not used for anything else; they are turned to float64.
        meta: meta-parameters of any floating-point type, on the device of the tasks.
        tasks: tree of tensors with a leading dimension of ``count`` tasks.
        count: number of tasks.
        ways: classes of a task, in families that have them.
        steps: inner steps, where there are any.
    """
    parts.network.to(dtype=torch.float64)
    doubled = {name: value.double().requires_grad_() for name, value in meta.items()}
    total = torch.zeros(Layout.of(meta).size, dtype=torch.float64, device=next(iter(doubled.values())).device)
    for t in range(count):
        task = one_task(tree_map(lambda value, t=t: _double(value[t]), tasks), ways, steps)
        if parts.config.algorithm.estimator == "exact":
            gradient = _by_autograd(parts, doubled, task, steps)
        else:
            gradient, _ = parts.estimator.gradient(tree_map(torch.detach, doubled), task, steps)
        total += Layout.of(meta).flatten(gradient)
    return total


def _double(value: Tensor) -> Tensor:
    return value.double() if value.is_floating_point() else value


def _by_autograd(parts: Assembly, meta: Meta, task: Task, steps: int | None) -> Meta:
    adaptation = parts.adaptation
    if adaptation.iterative:
        assert steps is not None
        adapted = _descend(cast(Iterative, adaptation), meta, task, steps)
    else:
        adapted = adaptation.adapt(meta, task.support, steps)
    loss = parts.objective.loss(adaptation.predict(meta, adapted, task.query), task.query.data)
    gradients = torch.autograd.grad(loss, list(meta.values()), materialize_grads=True, allow_unused=True)
    return dict(zip(meta, gradients, strict=True))


def _descend(adaptation: Iterative, meta: Meta, task: Task, steps: int) -> Any:
    params, state = adaptation.init(meta)
    for step in range(steps):
        loss, _ = adaptation.loss(params, meta, task.support.step(step))
        gradients = torch.autograd.grad(loss, list(params.values()), create_graph=True)
        params, state = adaptation.update(params, state, dict(zip(params, gradients, strict=True)), meta, step)
    return params
