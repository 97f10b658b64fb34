"""Norms and products of long vectors in float64, to the same bits for any number of threads.

Torch converts to float64 in a copy, and splits one long sum by threads; so a vector is taken in blocks that stay in the
cache, and each block in rows, of which a thread adds whole ones.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

NORM_ROW = 2**13
"""Elements that one thread adds at a time; torch splits no sum as short as this."""

NORM_BLOCK = 2**18
"""Elements whose float64 copy is made at a time: 2 MiB."""


def euclidean_norm(vector: Tensor) -> float:
    """Norm of a (P,) vector.

    >>> euclidean_norm(torch.tensor([3.0, 4.0]))
    5.0
    """
    norms: list[float] = []
    for block in torch.split(vector, NORM_BLOCK):
        whole = len(block) - len(block) % NORM_ROW
        rows = block[:whole].view(-1, NORM_ROW)
        norms += torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64).tolist()
        norms.append(float(torch.linalg.vector_norm(block[whole:], dtype=torch.float64)))
    return math.hypot(*norms)


def product(a: Tensor, b: Tensor) -> float:
    """Inner product of two (P,) vectors; not finite where an element is not.

    >>> product(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0]))
    11.0
    """
    sums: list[float] = []
    for mine, its in zip(torch.split(a, NORM_BLOCK), torch.split(b, NORM_BLOCK), strict=True):
        block = mine.double() * its.double()
        whole = len(block) - len(block) % NORM_ROW
        sums += block[:whole].view(-1, NORM_ROW).sum(1).tolist()
        sums.append(float(block[whole:].sum()))
    return math.fsum(sums) if all(map(math.isfinite, sums)) else math.nan
