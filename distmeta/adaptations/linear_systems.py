"""Linear algebra of closed-form adaptations, for one task; batched by ``torch.func.vmap`` over tasks.

In float64 inside a network of any precision: the systems are as small as a support set, and their condition is not in
anybody's hands. Nothing raises where a matrix is singular or not finite: what comes out is not finite then, which the
outer step reports by task.
"""

from __future__ import annotations

import torch
from torch import Tensor


def one_hot(labels: Tensor, ways: int | None, like: Tensor) -> Tensor:
    """(S, ways) 1 where an example is of a class, of the type of ``like``.

    >>> one_hot(torch.tensor([1, 0]), 3, torch.zeros(())).tolist()
    [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]
    """
    assert ways is not None
    return (labels.unsqueeze(1) == torch.arange(ways, device=labels.device)).to(like)


def with_ones(embedded: Tensor) -> Tensor:
    """(N, D + 1) embeddings in float64 with a column of ones, whose coefficient is a bias."""
    return torch.cat([embedded.double(), embedded.new_ones(len(embedded), 1, dtype=torch.float64)], 1)


def solve_positive(matrix: Tensor, right: Tensor) -> Tensor:
    """``matrix^-1 right`` of symmetric positive definite matrices (..., N, N), by Cholesky's method.

    >>> solve_positive(2 * torch.eye(2), torch.ones(2, 1)).tolist()
    [[0.5], [0.5]]
    """
    return torch.cholesky_solve(right, torch.linalg.cholesky_ex(matrix).L)


def inverse_positive(matrix: Tensor) -> Tensor:
    """The inverse of symmetric positive definite matrices (..., N, N)."""
    return torch.cholesky_inverse(torch.linalg.cholesky_ex(matrix).L)


def identity(like: Tensor) -> Tensor:
    """The identity of the size of the square matrices ``like`` (..., N, N)."""
    return torch.eye(like.shape[-1], dtype=like.dtype, device=like.device)
