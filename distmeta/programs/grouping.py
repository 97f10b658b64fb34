"""Things of one structure and shape, together."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_flatten


def by_shape(trees: Sequence[Any]) -> list[list[int]]:
    """Places of trees of tensors and plain values that differ in numbers alone, in the order of their first ones.

    >>> import torch
    >>> by_shape([{"x": torch.zeros(2)}, {"x": torch.zeros(3)}, {"x": torch.ones(2)}])
    [[0, 2], [1]]
    """
    groups: dict[Hashable, list[int]] = {}
    for place, tree in enumerate(trees):
        leaves, structure = tree_flatten(tree)
        shape = tuple((each.shape, each.dtype) if isinstance(each, Tensor) else each for each in leaves)
        groups.setdefault((structure, shape), []).append(place)
    return list(groups.values())
