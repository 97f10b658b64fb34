"""Runs one-task code for the tasks of a chunk: ``torch.func.vmap`` outermost, or a loop where that cannot be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from distmeta.adaptations.gradients import transforms
from distmeta.core.plan import Running

OneTask = Callable[[Mapping[str, Tensor], Any], Any]


def run_tasks(one_task: OneTask, meta: Mapping[str, Tensor], tasks: Any, count: int, *, running: Running) -> Any:
    """``one_task(meta, task)`` of every task, results stacked along a new first dimension.

    Args:
        one_task: pure function of the meta-parameters and one task, to a tree of tensors.
        meta: shared by all tasks.
        tasks: tree of tensors with a leading dimension of ``count`` tasks.
        count: number of tasks.
        running: how.
    """
    with transforms(running != "plain"):
        if running == "mapped":
            return torch.func.vmap(one_task, in_dims=(None, 0))(meta, tasks)
        results = []
        for t in range(count):
            result = one_task(meta, tree_map(lambda value, t=t: value[t], tasks))
            # A module that differentiates in its forward pass gives outputs with a graph, even under no_grad.
            results.append(tree_map(torch.detach, result) if running == "plain" else result)
    return tree_map(lambda *values: torch.stack(values), *results)


def chunks(tasks: Any, count: int, size: int | None) -> Iterator[Any]:
    """The tasks in chunks of ``size``; the last one may be smaller.

    >>> [part["x"].tolist() for part in chunks({"x": torch.arange(3)}, 3, 2)]
    [[0, 1], [2]]
    """
    if size is None or size >= count:
        yield tasks
        return
    for first in range(0, count, size):
        yield tree_map(lambda value, a=first, b=first + size: value[a:b], tasks)
