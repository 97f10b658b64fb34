"""Adapts to many tasks that are given, and predicts for many: those of one shape together, mapped as in training."""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from distmeta.adaptations.base import Batch, Support
from distmeta.config.schema import Config
from distmeta.core.layout import Meta
from distmeta.core.plan import Layers, Plan, Running
from distmeta.core.records import Data
from distmeta.functional.kernels.build import unavailable
from distmeta.programs.deciding import ACTIVATIONS, LONGEST_GRAPH
from distmeta.programs.engine.assembly import Assembly
from distmeta.programs.engine.compiling import specialise
from distmeta.programs.engine.kept import origin
from distmeta.programs.engine.mapping import run_tasks
from distmeta.programs.grouping import by_shape

LARGEST_CHUNK = 64
"""Tasks of a chunk at most."""

REPEATS = 2
"""Chunks of one shape after which their operations are recorded; fewer do not repay it."""

FILLED = 8
"""One copy to so many tasks fills up a chunk; of fewer tasks a smaller chunk is made first."""

KEPT_SHAPES = 128
"""Shapes whose recordings are kept; of more, those that were not used for longest are made again."""


class TaskBatches:
    """Computes a trained learner's adaptations and predictions for many tasks at a time.

    Tasks of one shape go in chunks of a size that the shape alone decides; one that is not full is filled up with
    copies of its last task. So what a task gets depends on itself alone, to the bit: not on how many others there are,
    on their order, or on who computes them.

    Not to be used by two threads at once.

    Args:
        config: of the run.
        parts: nobody else's.
        meta: trained parameters, on the device.
        device: where to compute.
        running: how the run's plan computes tasks.
        limit: tasks of a chunk at most.
        steady: whether chunks of one shape always have one size; otherwise they are as small as they can be, and what a
            task gets may differ by rounding.
    """

    def __init__(
        self,
        config: Config,
        parts: Assembly,
        meta: Meta,
        device: torch.device,
        running: Running,
        limit: int = LARGEST_CHUNK,
        steady: bool = True,
    ) -> None:
        self._parts = parts
        self._device = device
        self._limit, self._steady = limit, steady
        self.plan = Plan(running=running, layers=self._layers(running))
        parts.follow(self.plan)
        self._meta = parts.network.arrange(meta) if self.plan.layers != "general" else dict(meta)
        # Recordings hold the module's constants, which a configuration decides only where they are newly built.
        self._origin = None if parts.network.constants() else origin(config)
        self._functions: OrderedDict[Hashable, Callable[..., Any]] = OrderedDict()
        self._seen: Counter[Hashable] = Counter()

    def adapt(self, supports: Sequence[Support], steps: int | None) -> list[Any]:
        """The solutions of tasks, in their order; those of one shape are computed together."""
        return _in_groups(supports, lambda group: self._adapt(group, steps))

    def predict(
        self, adapted: Sequence[Any], supports: Sequence[Support | None], inputs: Sequence[Data]
    ) -> list[Tensor]:
        """Outputs (N, D) of adapted tasks; those of one shape are computed together.

        Args:
            adapted: their solutions.
            supports: whose statistics normalise the inputs; ``None`` for the inputs' own.
            inputs: (N, ...) of each task.
        """
        return _in_groups(
            list(zip(adapted, supports, inputs, strict=True)), lambda group: self._predict(*zip(*group, strict=True))
        )

    def _adapt(self, supports: Sequence[Support], steps: int | None) -> list[Any]:
        """Of support sets of one shape."""
        ways, adaptation = supports[0].ways, self._parts.adaptation

        def one(meta: Meta, data: Data) -> Any:
            return adaptation.adapt(meta, Support(data, ways), steps)

        key = ("adapt", ways, steps)
        recorded = (steps or 0) <= LONGEST_GRAPH
        return self._chunked(key, one, [dict(support.data) for support in supports], _examples(supports[0]), recorded)

    def _predict(
        self, adapted: Sequence[Any], supports: Sequence[Support | None], inputs: Sequence[Data]
    ) -> list[Tensor]:
        """Of solutions, support sets and inputs of one structure and shape; all have a support set, or none has."""
        first, adaptation = supports[0], self._parts.adaptation
        ways = None if first is None else first.ways

        def one(meta: Meta, tree: Any) -> Tensor:
            solution, given, data = tree
            if first is None:
                return adaptation.predict(meta, solution, Batch(data))
            return adaptation.predict_inductive(meta, solution, Support(given, ways), Batch(data))

        given = [{} if support is None else dict(support.data) for support in supports]
        trees = list(zip(adapted, given, map(dict, inputs), strict=True))
        count = len(next(iter(inputs[0].values()))) + (0 if first is None else _examples(first))
        return self._chunked(("predict", ways, first is None), one, trees, count, recorded=True)

    def _chunked(
        self, key: tuple[Hashable, ...], one: Callable[..., Any], trees: Sequence[Any], examples: int, recorded: bool
    ) -> list[Any]:
        """``one(meta, tree)`` of every tree, in chunks."""
        whole = self._size(examples)
        results: list[Any] = []
        while len(results) < len(trees):
            left = len(trees) - len(results)
            size = whole if self._steady else self._fitting(left, whole)
            part = [*trees[len(results) : len(results) + size]]
            count = len(part)
            part += [part[-1]] * (size - count)
            stacked = tree_map(_stacked, *part)
            found = self._call(key, one, stacked, size, recorded)
            results += [tree_map(lambda leaf, t=t: leaf[t].clone(), found) for t in range(count)]
        return results

    def _fitting(self, count: int, most: int) -> int:
        """Tasks of the next chunk where ``count`` are left: a power of two, of which few are recorded.

        On a CPU a copy takes as long as a task, and a second chunk hardly longer than its tasks do.
        """
        size = min(most, 1 << (count - 1).bit_length())
        spare = (size - count) * FILLED > count and self._device.type != "cuda"
        return size // 2 if spare else size

    def _call(self, key: tuple[Hashable, ...], one: Callable[..., Any], stacked: Any, size: int, record: bool) -> Any:
        def chunk(meta: Meta, trees: Any) -> Any:
            return run_tasks(one, meta, trees, size, running=self.plan.running)

        whole = (*key, *((leaf.shape, leaf.dtype) for leaf in tree_leaves(stacked)))
        self._seen[whole] += 1
        with torch.no_grad():
            if not record or self.plan.running != "mapped" or self._seen[whole] <= REPEATS:
                return chunk(self._meta, stacked)
            if whole not in self._functions:
                source = None if self._origin is None else [self._origin, self.plan.settings(), size, key]
                self._functions[whole] = specialise(chunk, (self._meta, stacked), "graph", source)
                self._forget()
            self._functions.move_to_end(whole)
            return self._functions[whole](self._meta, stacked)

    def _forget(self) -> None:
        if len(self._functions) > KEPT_SHAPES:
            oldest, _ = self._functions.popitem(last=False)
            del self._seen[oldest]
        if len(self._seen) > 100 * KEPT_SHAPES:  # of shapes that came once or twice
            self._seen = Counter({each: self._seen[each] for each in self._functions})

    def _size(self, examples: int) -> int:
        """Tasks of a chunk: a power of two, pure in what a task has."""
        if self.plan.running != "mapped":
            return 1
        if self._device.type == "cuda":
            return self._limit
        bytes_each = 4 * max(1, self._parts.network.activations) * examples
        fitting = max(1, ACTIVATIONS[self.plan.layers] // bytes_each)
        return 1 << int(math.log2(min(self._limit, fitting)))

    def _layers(self, running: Running) -> Layers:
        if not self._parts.network.has_task_layers or running != "mapped":
            return "general"
        if self._device.type == "cuda":
            return "products"
        return "general" if unavailable() else "native"


def _in_groups(trees: Sequence[Any], compute: Callable[[Sequence[Any]], Sequence[Any]]) -> list[Any]:
    """Results of all, computed for those of one shape at a time, in the order of the trees."""
    found: list[Any] = [None] * len(trees)
    for places in by_shape(trees):
        for place, result in zip(places, compute([trees[place] for place in places]), strict=True):
            found[place] = result
    return found


def _stacked(*leaves: Tensor) -> Tensor:
    """(T, ...) of T leaves, each in memory as the first one is: layers may want weights in an order of their own."""
    first = leaves[0]
    order = sorted(range(first.dim()), key=first.stride, reverse=True)
    stacked = torch.stack([leaf.permute(order) for leaf in leaves])
    back = [order.index(dim) + 1 for dim in range(first.dim())]
    return stacked.permute(0, *back)


def _examples(support: Support) -> int:
    return len(next(iter(support.data.values())))
