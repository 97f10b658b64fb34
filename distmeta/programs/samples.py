"""Sampled tasks of a worker: begun before they are asked for, and kept while a meta-step goes on about them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from distmeta.core.philox import Purpose, keys, minibatches
from distmeta.core.records import CLASS, Data, Split, TaskBatch
from distmeta.core.requests import Start
from distmeta.objectives.weights import weight_of
from distmeta.tasks.base import Episode, TaskFamily

AHEAD = 8
"""Shards that are sampled at once at most."""

PREFETCHED = 3 * AHEAD
"""Shards that may lie ready; more were asked for in vain and are dropped, oldest first."""


@dataclass(frozen=True)
class Use:
    """What tasks are sampled for.

    Attributes:
        steps: inner steps, where there are any.
        merged: whether adaptation sees support and query as one set.
        batch: examples of an inner step's minibatch; ``None`` for all of them.
        dropout: whether there are masks to draw.
        classes: whether it is to be known which of all classes each example is of.
    """

    steps: int | None
    merged: bool = False
    batch: int | None = None
    dropout: bool = False
    classes: bool = False


def lots(shards: Sequence[tuple[int, ...]], least: int | None) -> Iterator[Sequence[tuple[int, ...]]]:
    """Consecutive shards that are sampled together: of at least so many tasks, all of them where it is ``None``.

    >>> list(lots([(0, 1), (2, 3), (4, 5)], 3)), list(lots([(0, 1), (2, 3)], None))
    ([[(0, 1), (2, 3)], [(4, 5)]], [[(0, 1), (2, 3)]])
    """
    lot: list[tuple[int, ...]] = []
    for ids in shards:
        lot.append(ids)
        if least is not None and sum(map(len, lot)) >= least:
            yield lot
            lot = []
    if lot:
        yield lot


class Sampling(Protocol):
    """Where a program's tasks come from, as trees of tensors with a leading task dimension."""

    def prefetch(self, split: Split, shards: Sequence[Sequence[int]]) -> None:
        """Begin to sample the tasks of these shards in the background."""
        ...

    def keep(self, start: Start, split: Split, ids: Sequence[int], use: Use) -> tuple[dict[str, Any], bool]:
        """The tasks of a meta-step, and whether they were in memory."""
        ...

    def tasks(self, split: Split, ids: Sequence[int], use: Use) -> dict[str, Any]:
        """The tasks, at the initial meta-parameters where they depend on these."""
        ...

    def ways(self, split: Split, ids: Sequence[int]) -> int | None:
        """Classes of each of these tasks; ``None`` in families without."""
        ...

    def alike(self, ids: range) -> list[range]:
        """Consecutive training tasks in parts that can be computed together, being of one size."""
        ...

    def sizes(self) -> tuple[int, float]:
        """How many sizes training tasks may have, and how many times as large as the first the largest are."""
        ...

    def close(self) -> None:
        """End what samples."""
        ...


class Memory:
    """What was sampled for a meta-step; it goes with the first request of another."""

    def __init__(self) -> None:
        self._beginning: tuple[str, int] = ("", 0)
        self._kept: dict[tuple[Split, tuple[int, ...]], dict[str, Any]] = {}

    def __contains__(self, key: object) -> bool:
        return key in self._kept

    def keep(
        self, start: Start, split: Split, ids: Sequence[int], sample: Callable[[], dict[str, Any]]
    ) -> tuple[dict[str, Any], bool]:
        """The tasks, sampled where they are not here, and whether they were.

        Where the start has a digest, more requests may follow, and they are kept for these.
        """
        beginning = (start.digest, start.step)
        if beginning != self._beginning:
            self._beginning = beginning
            self._kept.clear()
        key = (split, tuple(ids))
        if key in self._kept:
            return self._kept[key], True
        tasks = sample()
        if start.digest:
            self._kept[key] = tasks
        return tasks, False


class Samples:
    """The tasks of a family as trees of tensors.

    What is kept belongs to one meta-step's beginning, and goes with the first request of another.
    """

    def __init__(self, family: TaskFamily, episodes: Mapping[Split, Episode], device: torch.device) -> None:
        self._family = family
        self._episodes = episodes
        self._device = device
        self._sampler = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sample")
        self._ahead: dict[tuple[Split, tuple[int, ...]], tuple[Future[TaskBatch], int]] = {}
        self._sampling = threading.Lock()  # of what is ahead: another thread than that which computes may ask for it
        self._memory = Memory()

    def prefetch(self, split: Split, shards: Sequence[Sequence[int]]) -> None:
        """Sample the tasks of these shards in the background.

        Those of one size at once where that costs little more than one of them; in lots where a family makes them one
        by one, so that the first shard is not kept waiting for the last one.
        """
        with self._sampling:
            keys = ((split, tuple(ids)) for ids in shards[:AHEAD])
            wanted = [ids for _, ids in (key for key in keys if key not in self._ahead and key not in self._memory)]
            alike: dict[Episode, list[tuple[int, ...]]] = {}
            for ids in wanted:
                alike.setdefault(self._episodes[split].at(ids), []).append(ids)
            least = getattr(self._family, "lot", None)  # a class of the user's that is no subclass may have less
            for lot in (lot for of_one_size in alike.values() for lot in lots(of_one_size, least)):
                job = self._sampler.submit(self._family.sample, split, [task for ids in lot for task in ids])
                firsts = accumulate(map(len, lot), initial=0)
                self._ahead |= {(split, ids): (job, first) for ids, first in zip(lot, firsts, strict=False)}
            while len(self._ahead) > PREFETCHED:
                self._ahead.pop(next(iter(self._ahead)))

    def keep(self, start: Start, split: Split, ids: Sequence[int], use: Use) -> tuple[dict[str, Any], bool]:
        """The tasks of a meta-step, and whether they were in memory."""
        return self._memory.keep(start, split, ids, lambda: self.tasks(split, ids, use))

    def tasks(self, split: Split, ids: Sequence[int], use: Use) -> dict[str, Any]:
        """The tasks as a tree of tensors with a leading task dimension."""
        support, query = self._sample(split, ids)
        seed = self._episodes[split].seed
        if use.classes:
            own = self._family.class_ids(split, ids).to(self._device)  # (T, ways)
            support, query = ({**part, CLASS: own.gather(1, part["y"])} for part in (support, query))
        if use.merged:
            support = {name: torch.cat([value, query[name]], 1) for name, value in support.items()}
        tree: dict[str, Any] = {"support": dict(support), "query": dict(query)}
        examples = next(iter(support.values())).shape[1]
        if use.batch is not None and use.batch < examples and use.steps:
            real = weight_of(support)
            if real is None:
                chosen = minibatches(seed, split, ids, examples, use.steps, use.batch)
            else:
                chosen = _of_real(real.cpu().numpy() > 0, seed, split, ids, use.steps, use.batch)
            tree["batches"] = torch.from_numpy(chosen).to(self._device)
        if use.dropout:
            words = keys(seed, split, ids, Purpose.DROPOUT)
            tree["key"] = torch.from_numpy(words).to(self._device)
        return tree

    def ways(self, split: Split, ids: Sequence[int]) -> int | None:
        """Classes of each of these tasks; ``None`` in families without."""
        return self._episodes[split].at(ids).ways

    def alike(self, ids: range) -> list[range]:
        """Consecutive training tasks in parts that can be computed together, being of one size."""
        drawn = self._episodes["train"].drawn
        if drawn is None:
            return [ids]
        cuts = [ids.start, *(each for each in ids if each % drawn.meta_batch == 0 and each > ids.start), ids.stop]
        return [range(first, last) for first, last in pairwise(cuts)]

    def sizes(self) -> tuple[int, float]:
        """How many sizes training tasks may have, and how many times as large as the first the largest are."""
        largest = self._episodes["train"]
        if largest.drawn is None:
            return 1, 1.0
        first = largest.at([0])
        examples = [(each.ways or 1) * (each.shots + each.queries) for each in (largest, first)]
        return largest.drawn.count, examples[0] / examples[1]

    def close(self) -> None:
        """End the family's processes, where it has some, and the thread."""
        self._sampler.shutdown(wait=False, cancel_futures=True)
        if hasattr(self._family, "close"):  # a class of the user's that is no subclass may have less
            self._family.close()

    def classes(self) -> int | None:
        """Classes of the training split; ``None`` where they are not known across tasks."""
        count = getattr(self._family, "class_count", None)  # a class of the user's that is no subclass may have less
        return None if count is None else count("train")

    def _sample(self, split: Split, ids: Sequence[int]) -> tuple[Data, Data]:
        """Support and query sets of these tasks, from what lies ready if it does."""
        with self._sampling:
            job, first = self._ahead.pop((split, tuple(ids)), (None, 0))
        batch = job.result() if job else self._family.sample(split, ids)
        support, query = (
            {name: value[first : first + len(ids)] for name, value in part.items()}
            for part in (batch.support, batch.query)
        )
        return support, query


def _of_real(
    real: NDArray[np.bool_], seed: int, split: Split, ids: Sequence[int], steps: int, size: int
) -> NDArray[np.int64]:
    """Minibatches (T, steps, size) of the examples that are no padding, as of these alone.

    A task with no more of them than a minibatch has uses all in every step, filled up with padding.

    Args:
        real: (T, N) which examples are no padding.
    """
    order = np.argsort(~real, axis=1, kind="stable")  # these first
    chosen = np.repeat(order[:, None, :size], steps, axis=1)
    counts = real.sum(1)
    for count in np.unique(counts[counts > size]):
        tasks = np.flatnonzero(counts == count)
        drawn = minibatches(seed, split, [ids[task] for task in tasks.tolist()], int(count), steps, size)
        chosen[tasks] = np.take_along_axis(order[tasks][:, None, :], drawn, axis=2)
    return chosen
