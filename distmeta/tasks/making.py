"""Making tasks one at a time by the user's code: called under a lock, checked, alike in shape."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from distmeta.config.importing import raised
from distmeta.core.records import SPLITS, Split
from distmeta.errors import DistmetaError
from distmeta.tasks.reading import Targets, TaskArrays, TaskName, check_alike, read_task

Make = Callable[[Split, int], Any]
"""The user's code: gives ``(support, query)`` of a split's task."""

_LOW = 2**32 - 1


def generator_of(seed: int, split: Split, task: int) -> np.random.Generator:
    """NumPy's Philox for one task, keyed by ``SeedSequence([seed, split, id])`` as 32-bit words of fixed number.

    Args:
        seed: of the split's tasks.
        split: which distribution the id belongs to.
        task: the global id.

    >>> bool(generator_of(0, "train", 7).random() == generator_of(0, "train", 7).random())
    True
    """
    words = [seed & _LOW, seed >> 32, SPLITS.index(split), task & _LOW, task >> 32]
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(words)))


class TaskMaker:
    """Makes single tasks, and refuses what is not as the first task of its split.

    Args:
        kind: what ``tasks.kind`` says.
        make: the user's code; it need not be safe to call from several threads.
        targets: what ``y`` should be in each split.
    """

    def __init__(self, kind: str, make: Make, targets: Mapping[Split, Targets]) -> None:
        self._kind = kind
        self._make = make
        self._targets = targets
        self._lock = threading.RLock()
        self._first: dict[Split, TaskArrays] = {}

    def task(self, split: Split, task: int) -> TaskArrays:
        """A task, of the same shapes as the split's task 0.

        Raises:
            DataError: the user's code raises, or gives something else than a task.
        """
        first = self.first(split)
        if task == 0:
            return first
        found = self.again(split, task)
        check_alike(found, first, TaskName(self._kind, split, task), f"task 0 of the {split} split")
        return found

    def first(self, split: Split) -> TaskArrays:
        """The split's task 0, whose examples are of the same shapes as those of the training tasks."""
        with self._lock:
            if split not in self._first:
                found = self.again(split, 0)
                if split != "train":
                    self._check_examples(found, self.first("train"), TaskName(self._kind, split, 0))
                self._first[split] = found
            return self._first[split]

    def again(self, split: Split, task: int) -> TaskArrays:
        """A task, made now whatever was made before, checked by itself."""
        name = TaskName(self._kind, split, task)
        with self._lock:
            try:
                given = self._make(split, task)
            except DistmetaError:
                raise
            except (Exception, SystemExit) as error:  # whatever the user's code raises
                raise name.refuse(f"it raised {raised(error)}") from error
            return read_task(given, name, self._targets[split])

    def _check_examples(self, found: TaskArrays, first: TaskArrays, name: TaskName) -> None:
        spec, expected = _examples(found), _examples(first)
        if spec != expected:
            raise name.refuse(f"its examples are {spec}, but those of task 0 of the train split are {expected}")


def _examples(task: TaskArrays) -> str:
    """What the examples of a task are, in words; how many classes there are may differ."""
    arrays = {name: f"{array.dtype} {array.shape[1:]}" for name, array in task.support.items()}
    return ", ".join(f"{name} {kind}" for name, kind in sorted(arrays.items()))
