"""Maps one-task code over the tasks of a chunk: ``torch.func.vmap`` outermost, or a loop where that cannot be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

OneTask = Callable[[Mapping[str, Tensor], Any], Any]


def run_tasks(one_task: OneTask, meta: Mapping[str, Tensor], tasks: Any, count: int, *, mapped: bool) -> Any:
    """``one_task(meta, task)`` of every task, results stacked along a new first dimension.

    Args:
        one_task: pure function of the meta-parameters and one task, to a tree of tensors.
        meta: shared by all tasks.
        tasks: tree of tensors with a leading dimension of ``count`` tasks.
        count: number of tasks.
        mapped: map them together, else loop.
    """
    if mapped:
        return torch.func.vmap(one_task, in_dims=(None, 0))(meta, tasks)
    results = [one_task(meta, tree_map(lambda value, t=t: value[t], tasks)) for t in range(count)]
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


def unmappable(one_task: OneTask, meta: Mapping[str, Tensor], tasks: Any, count: int) -> str | None:
    """Why ``one_task`` cannot be mapped over tasks, in torch's own words; ``None`` where it can.

    A reason is believed only if the loop works: an error in both is the user's to see, and is raised.
    """
    try:
        run_tasks(one_task, meta, tasks, count, mapped=True)
    except RuntimeError as error:
        run_tasks(one_task, meta, tasks, count, mapped=False)
        return " ".join(str(error).split())[:300]
    return None
