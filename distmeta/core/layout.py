"""The one flat layout of everything that is meta-learned."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

MODEL = "model/"
"""Prefix of the module's own parameters in a :data:`Meta`."""

Meta = Mapping[str, Tensor]
"""Named meta-parameters: ``model/NAME`` for the module's, ``GROUP/NAME`` for what else is meta-learned."""


@dataclass(frozen=True)
class Layout:
    """Sorted names, their shapes, and where each lies in the flat vector.

    >>> layout = Layout.of({"model/b": torch.zeros(2), "model/a": torch.zeros(3, 1)})
    >>> layout.names, layout.size
    (('model/a', 'model/b'), 5)
    >>> layout.unflatten(torch.arange(5.0))["model/b"]
    tensor([3., 4.])
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, meta: Meta) -> Layout:
        """The layout of these named tensors."""
        names = tuple(sorted(meta))
        return cls(names, tuple(tuple(meta[name].shape) for name in names))

    @property
    def sizes(self) -> list[int]:
        """Number of elements of each name."""
        return [math.prod(shape) for shape in self.shapes]

    @property
    def size(self) -> int:
        """P, the length of the flat vector."""
        return sum(self.sizes)

    def groups(self) -> dict[str, slice]:
        """Where each group (``model``, ``rates``, ...) lies; sorting by name keeps a group contiguous."""
        spans: dict[str, slice] = {}
        offset = 0
        for name, size in zip(self.names, self.sizes, strict=True):
            group = name.split("/", 1)[0]
            start = spans[group].start if group in spans else offset
            offset += size
            spans[group] = slice(start, offset)
        return spans

    def flatten(self, meta: Meta) -> Tensor:
        """(P,) vector of the named tensors; leading dimensions shared by all of them are not allowed."""
        return torch.cat([meta[name].reshape(-1) for name in self.names])

    def unflatten(self, vector: Tensor) -> dict[str, Tensor]:
        """Named views into a (P,) vector; of several vectors (..., P) named tensors with their leading dimensions."""
        parts, several = torch.split(vector, self.sizes, -1), vector.shape[:-1]
        return {
            name: part.reshape((*several, *shape))
            for name, part, shape in zip(self.names, parts, self.shapes, strict=True)
        }
