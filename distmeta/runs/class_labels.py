"""Labels as people give them, and the class indices that a learner knows them by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distmeta.runs.inference import MetaLearner
from distmeta.tasks.table_fit import category_index


def shared_classes(learner: MetaLearner) -> list[Any] | None:
    """The classes that all tasks of a learner share; ``None`` where each task has its own, or where there are none."""
    if not learner.parts.objective.classes:
        return None
    fitted = getattr(learner.config.tasks, "fitted", None) or {}
    classes = fitted.get("classes")
    return None if classes is None else list(classes)


def own_classes(labels: Sequence[Any]) -> list[Any]:
    """What the class indices of a task stand for: its labels, sorted.

    >>> own_classes(["b", "a", "b"])
    ['a', 'b']
    """
    return sorted(set(map(_plain, labels)))


def label_indices(labels: Sequence[Any], classes: Sequence[Any]) -> Tensor:
    """(N,) class indices of labels.

    A class that is a text in one file and a number in another is one, where it is clear which.

    Raises:
        KeyError: with the first label that is none of the classes, and its place.

    >>> label_indices([2.0, "7"], [2, 7])
    tensor([0, 1])
    """
    places = {(_plain(label), isinstance(label, bool)): place for place, label in enumerate(classes)}
    texts = list(map(str, classes))
    found = []
    for at, label in enumerate(labels):
        key = (_plain(label), isinstance(_plain(label), bool))  # True is 1 otherwise
        if key not in places:
            try:
                place = category_index(label, texts)
            except ValueError:
                place = -1
            if place < 0:
                raise KeyError(label, at)
            places[key] = place
        found.append(places[key])
    return torch.tensor(found, dtype=torch.int64)


def _plain(label: Any) -> Any:
    """A label as people write it: a whole number is one, whatever type a file gave it."""
    if isinstance(label, np.generic):
        label = label.item()
    return int(label) if isinstance(label, float) and label.is_integer() else label
