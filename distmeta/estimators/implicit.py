"""The meta-gradient of a solution by the implicit function theorem, whatever way led there: iMAML."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from distmeta.adaptations.base import Adaptation, Batch, Iterative, Params, Task, inner_gradient
from distmeta.adaptations.gradients import gradient
from distmeta.config.sections import EstimatorOptions
from distmeta.core.layout import Meta
from distmeta.core.plan import Differentiation
from distmeta.estimators.base import Measured, loss_and_measured
from distmeta.estimators.options import ImplicitOptions

Vector = dict[str, Tensor]


class Implicit:
    r"""The exact meta-gradient at a minimum of the proximal inner loss, approached by solving a linear system.

    Where :math:`\phi^* = \arg\min_\phi L_S(\phi) + \frac\lambda2 |\phi - \theta|^2`, with the Hessian H of
    :math:`L_S`,

    .. math::

        g = (I + H / \lambda)^{-1} \nabla L_Q(\phi^*)

    and for what is meta-learned beside, :math:`\partial L_Q - \partial (\nabla_\phi L_S)^\top g / \lambda`. The inner
    steps are taken for a minimum; nothing of them is kept, so time and memory do not grow with their number but for
    taking them. :math:`\lambda` is ``proximal``. ``solver: cg`` takes ``solver_steps`` steps of conjugate gradient;
    ``neumann`` sums so many powers, :math:`\sum_j (-H / \lambda)^j`, which converges where no curvature is above
    :math:`\lambda`. Conjugate gradient goes no further in directions in which the inner loss curves downwards by more
    than :math:`\lambda / 2`: a task that is there has no minimum near.

    Source: Rajeswaran, Finn, Kakade, Levine, NeurIPS 2019, arXiv 1909.04630, equation 6 (iMAML); Lorraine, Vicol,
    Duvenaud, AISTATS 2020, arXiv 1911.02590 (Neumann series).
    """

    Options: ClassVar[type[EstimatorOptions]] = ImplicitOptions
    merges_query: ClassVar[bool] = False

    def __init__(self, options: Any, adaptation: Adaptation) -> None:
        self.options = options
        self.adaptation = cast(Iterative, adaptation)

    def gradient(self, meta: Meta, task: Task, steps: int | None) -> tuple[Meta, Measured]:
        """The task's meta-gradient."""
        adaptation, batch = self.adaptation, task.support.step(0)
        params = adaptation.adapt(meta, task.support, steps)
        (right, beside), (_, measured) = gradient(self._query_loss, params, meta, task.query, argnums=(0, 1))

        def curved(vector: Mapping[str, Tensor]) -> Vector:
            """The Hessian of the inner loss with its proximal term, times a vector."""
            product, _ = gradient(lambda p: (_dot(inner_gradient(adaptation, p, meta, batch), vector), {}), params)
            return dict(product)

        solution = self._solve(curved, dict(right))
        along, _ = gradient(lambda m: (_dot(inner_gradient(adaptation, params, m, batch), solution), {}), meta)
        return {name: value - along[name] for name, value in beside.items()}, measured

    def follow(self, differentiation: Differentiation) -> None:
        """There is one way."""

    def _solve(self, curved: Callable[[Vector], Vector], right: Vector) -> Vector:
        """``(H + lambda I)^-1 right``, nearly."""
        steps, damping = self.options.solver_steps, float(self.options.proximal)
        if self.options.solver == "cg":
            return conjugate_gradient(curved, right, steps, damping / 2)
        total = term = right
        for _ in range(steps):
            product = curved(term)
            term = {name: value - product[name] / damping for name, value in term.items()}
            total = {name: value + term[name] for name, value in total.items()}
        return {name: value / damping for name, value in total.items()}

    def _query_loss(self, params: Params, meta: Meta, query: Batch) -> tuple[Tensor, Measured]:
        return loss_and_measured(self.adaptation.objective, self.adaptation.predict(meta, params, query), query.data)


def conjugate_gradient(product: Callable[[Vector], Vector], right: Vector, steps: int, least: float = 0.0) -> Vector:
    """``A^-1 right`` of a symmetric positive definite A, nearly: at most so many steps from 0.

    It stays where it is once nothing is left to solve, and where A turns out to curve less than ``least``.

    Args:
        product: A times a vector.
        right: named tensors.
        steps: at most so many.
        least: a bound of A's eigenvalues from below.

    >>> twice = lambda vector: {"x": 2 * vector["x"]}
    >>> conjugate_gradient(twice, {"x": torch.tensor([2.0, 4.0])}, 3)
    {'x': tensor([1., 2.])}
    """
    found = {name: torch.zeros_like(value) for name, value in right.items()}
    left = along = right
    size = _dot(left, left)
    enough = size * torch.finfo(size.dtype).eps ** 2
    going = size > 0
    for _ in range(steps):
        ahead = product(along)
        curvature = _dot(along, ahead)
        going = going & (curvature > least * _dot(along, along)) & (size > enough)
        length = torch.where(going, size / curvature.where(going, 1.0), 0.0)
        found = {name: value + length * along[name] for name, value in found.items()}
        left = {name: value - length * ahead[name] for name, value in left.items()}
        before, size = size, _dot(left, left)
        turn = torch.where(going, size / before.where(going, 1.0), 0.0)
        along = {name: value + turn * along[name] for name, value in left.items()}
    return found


def _dot(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Tensor:
    return torch.stack([(value * b[name]).sum() for name, value in a.items()]).sum()
