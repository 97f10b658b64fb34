"""Learned matrices that multiply inner gradients: Meta-Curvature."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from distmeta.adaptations.base import Params
from distmeta.core.layout import Meta
from distmeta.models.base import Network

CURVATURE = "curvature/"
"""Prefix of what is learned, in a :data:`~distmeta.core.layout.Meta`: ``curvature/NAME.MODE``."""


class Preconditioner:
    r"""Each gradient times a learned matrix along each of its modes, the identity at first.

    A tensor has the modes output, input and, in a convolution, all places of the filter together. ``block`` has a
    matrix M (n, n) for a mode of size n, ``diagonal`` the vector (n,) of its diagonal:

    .. math::

        \tilde G = G \times_1 M_o \times_2 M_i \times_3 M_f.

    Source: Park, Oliva, NeurIPS 2019, arXiv 1902.03356, equations 6 to 9 (Meta-Curvature).
    """

    def __init__(self, kind: str, names: Sequence[str], network: Network) -> None:
        self._kind = kind
        self._modes = {name: modes(network.parameters[name].shape) for name in names}
        self._like = next(iter(network.parameters.values()))

    def extras(self) -> dict[str, Tensor]:
        """Identities."""
        make = torch.eye if self._kind == "block" else torch.ones
        return {
            f"{CURVATURE}{name}.{mode}": make(size).to(self._like)
            for name, sizes in self._modes.items()
            for mode, size in enumerate(sizes)
        }

    def __call__(self, meta: Meta, gradient: Params) -> Params:
        """Preconditioned gradients."""
        return {name: self._multiply(meta, name, value) for name, value in gradient.items()}

    def _multiply(self, meta: Meta, name: str, gradient: Tensor) -> Tensor:
        sizes = self._modes[name]
        value = gradient.reshape(sizes)
        for mode in range(len(sizes)):
            factor = meta[f"{CURVATURE}{name}.{mode}"]
            if self._kind == "block":
                value = torch.movedim(torch.movedim(value, mode, -1) @ factor.T, -1, mode)
            else:
                value = value * factor.view(-1, *(1 for _ in sizes[mode + 1 :]))
        return value.reshape(gradient.shape)


def modes(shape: Sequence[int]) -> tuple[int, ...]:
    """Sizes of a parameter's modes; a number has one of size 1.

    >>> modes((64, 3, 5, 5)), modes((10, 20)), modes((7,)), modes(())
    ((64, 3, 25), (10, 20), (7,), (1,))
    """
    if len(shape) > 2:
        return (shape[0], shape[1], math.prod(shape[2:]))
    return tuple(shape) or (1,)
