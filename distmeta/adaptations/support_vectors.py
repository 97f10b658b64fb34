"""The quadratic programme of the multi-class support vector machine, solved and differentiated without a library.

For one task, and batched by ``torch.func.vmap``: the number of iterations is fixed, and every step is a matrix product
or a Cholesky factorisation.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distmeta.adaptations.linear_systems import inverse_positive, solve_positive

STEPS, MORE_STEPS = 12, 16
"""Iterations of the interior-point method, with fewer than so many coefficients and from there on."""

MORE = 2000
"""Coefficients, examples times classes, from which the larger number of iterations is taken."""

_SHORT = 0.99
"""Share of the way to the boundary that a step goes."""


def crammer_singer(gram: Tensor, labels: Tensor, capacity: float) -> Tensor:
    r"""Coefficients A (S, W) of ``min 1/2 tr(A' G A) - tr(A' Y)`` with ``A <= C Y`` and ``A 1 = 0``.

    An interior-point method finds which inequalities hold with equality; what is left, the free set M, is a linear
    system, with F = C Y outside of M and :math:`H_m` the restriction of G to M in the column m:

    .. math::

        a_m = F_m + H_m^{-1} (Y - G F - \nu 1^\top)_m, \qquad
        \Big(\sum_m H_m^{-1}\Big) \nu = \sum_m H_m^{-1} (Y - G F)_m + \sum_m F_m.

    Its derivatives by G, of any order, are those of the solution wherever the free set does not change: the implicit
    function theorem, taken by differentiating this system alone.

    Args:
        gram: G (S, S) float64, symmetric positive definite.
        labels: Y (S, W) one-hot.
        capacity: C.

    >>> crammer_singer(torch.eye(2).double(), torch.eye(2).double(), 10.0)
    tensor([[ 0.5000, -0.5000],
            [-0.5000,  0.5000]], dtype=torch.float64)
    """
    with torch.no_grad():
        free = free_set(gram.detach(), labels.detach(), capacity)
    held = capacity * labels * (1 - free)
    masks = free.T  # (W, S)
    system = masks.unsqueeze(2) * gram * masks.unsqueeze(1) + torch.diag_embed(1 - masks)
    inverses = masks.unsqueeze(2) * inverse_positive(system) * masks.unsqueeze(1)  # (W, S, S), 0 beyond the free set
    right = (labels - gram @ held).T.unsqueeze(2)  # (W, S, 1)
    pushed = (inverses @ right).sum(0) + held.sum(1, keepdim=True)
    shadow = solve_positive(inverses.sum(0), pushed)  # (S, 1)
    return held + (inverses @ (right - shadow)).squeeze(2).T


def free_set(gram: Tensor, labels: Tensor, capacity: float) -> Tensor:
    """(S, W) 1 where a coefficient is below its bound at the solution, 0 where it equals it.

    Mehrotra's predictor and corrector on B = C Y - A >= 0, B 1 = C, with S the multipliers of B >= 0: a coefficient is
    free where ``B > S``. The scale of G, which learned embeddings set, is divided out.
    """
    scale = gram.diagonal(dim1=-2, dim2=-1).mean()
    gram, wide, ways = gram / scale, capacity * scale, labels.shape[1]
    linear = labels - wide * (gram @ labels)
    # B, near C Y where C is large: with the scale divided out, coefficients are of the order of 1 at most.
    least = wide.clamp(max=1.0) / ways
    slack = least + (wide - ways * least) * labels
    dual = least / slack  # S: every product of the two is the same at first
    shadow = (dual - gram @ slack - linear).mean(1, keepdim=True)  # nu
    for _ in range(STEPS if labels.numel() < MORE else MORE_STEPS):
        slack, dual, shadow = _step(gram, linear, wide, slack, dual, shadow)
    return (slack > dual).to(labels)


def _step(
    gram: Tensor, linear: Tensor, capacity: Tensor, slack: Tensor, dual: Tensor, shadow: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """One step of predictor and corrector."""
    inverses = inverse_positive(gram + torch.diag_embed((dual / slack).T))  # (W, S, S)
    total = inverses.sum(0)
    stationary = gram @ slack + linear + shadow - dual
    feasible = slack.sum(1, keepdim=True) - capacity

    def towards(product: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Newton's direction to where B S changes by ``product`` and the equalities hold."""
        right = (product / slack - stationary).T.unsqueeze(2)  # (W, S, 1)
        along_shadow = solve_positive(total, (inverses @ right).sum(0) + feasible)
        along_slack = (inverses @ (right - along_shadow)).squeeze(2).T
        return along_slack, (product - dual * along_slack) / slack, along_shadow

    gap = (slack * dual).mean()
    to_slack, to_dual, _ = towards(-slack * dual)
    left = ((slack + _reach(slack, to_slack) * to_slack) * (dual + _reach(dual, to_dual) * to_dual)).mean()
    centring = (left / gap) ** 3 * gap
    to_slack, to_dual, to_shadow = towards(centring - slack * dual - to_slack * to_dual)
    primal, multipliers = _SHORT * _reach(slack, to_slack), _SHORT * _reach(dual, to_dual)
    tiny = torch.finfo(slack.dtype).tiny
    return (
        (slack + primal * to_slack).clamp(min=tiny),
        (dual + multipliers * to_dual).clamp(min=tiny),
        shadow + multipliers * to_shadow,
    )


def _reach(values: Tensor, along: Tensor) -> Tensor:
    """How far values > 0 may go along a direction until one of them is 0; 1 at most."""
    ratios = torch.where(along < 0, -values / along.where(along < 0, -1.0), 1.0)
    return ratios.amin().clamp(max=1.0)
