"""The trust-region step: the natural gradient's direction, as far as the outputs may change, and a line search."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from distmeta.core.layout import Layout
from distmeta.core.requests import Answer, Request, Start
from distmeta.errors import StorageError
from distmeta.outer.base import Ask, Outcome
from distmeta.outer.options import TrustRegionOptions
from distmeta.outer.sums import euclidean_norm, product


@dataclass(frozen=True)
class Solution:
    r"""What conjugate gradients have found.

    Attributes:
        direction: (P,) :math:`x` with :math:`Hx \approx b`.
        curvature: :math:`x^\top H x`, from the residual: :math:`x^\top (b - r)`.
        steps: products with H that it took.
    """

    direction: Tensor
    curvature: float
    steps: int


def conjugate_gradients(
    multiply: Callable[[Tensor], Tensor], right: Tensor, steps: int, tolerance: float = 0.0
) -> Solution:
    r"""Solve :math:`Hx = b` for a symmetric, positive definite H of which only products are known.

    Hestenes and Stiefel 1952. All scalars are float64; vectors have the type of ``right``. It ends early where a
    product is not finite or shows no positive curvature, which rounding or a bad batch may bring about, with what was
    found.

    Args:
        multiply: from a vector (P,) to H times it.
        right: (P,) the vector b.
        steps: products at most.
        tolerance: of the residual's norm, beside that of b.

    >>> solved = conjugate_gradients(lambda v: torch.tensor([2.0, 4.0]) * v, torch.tensor([2.0, 2.0]), 2)
    >>> [round(x, 4) for x in solved.direction.tolist()], round(solved.curvature, 4)
    ([1.0, 0.5], 3.0)
    """
    found, residual, direction = torch.zeros_like(right), right.clone(), right.clone()
    squared = first = product(residual, residual)
    done = 0
    while done < steps and squared > tolerance**2 * first and math.isfinite(squared) and squared > 0:
        image = multiply(direction)
        done += 1
        curvature = product(direction, image)
        if not (math.isfinite(curvature) and curvature > 0):
            break
        rate = squared / curvature
        found.add_(direction, alpha=rate)
        residual.sub_(image, alpha=rate)
        before, squared = squared, product(residual, residual)
        direction.mul_(squared / before).add_(residual)
    return Solution(found, product(found, right - residual), done)


class TrustRegion:
    r"""A natural-gradient step of bounded divergence.

    With the mean meta-gradient :math:`g` and the mean curvature :math:`F` of the adapted networks' outputs (see
    :meth:`~distmeta.objectives.base.Curved.curvature`), conjugate gradients give :math:`x \approx (F + \lambda
    I)^{-1} (-g)`. The full step is :math:`s = \sqrt{2\delta / x^\top (F + \lambda I) x}\; x`, of divergence
    :math:`\delta` to second order. Of :math:`\theta + \beta^k s` for k = 0, 1, ... the first candidate is taken whose
    loss on the same tasks is lower and whose divergence is :math:`\delta` at most; one whose loss is not finite is
    rejected.

    Source: Schulman, Levine, Moritz, Jordan, Abbeel, ICML 2015, appendix C, whose policy is here the adapted network;
    Martens 2020, section 6, for the curvature.
    """

    def __init__(self, options: TrustRegionOptions, steps: int, layout: Layout, theta: Tensor) -> None:
        self._options = options

    def step(self, start: Start, ask: Ask) -> Outcome:
        """Ask for the gradient, for curvature products, and for candidates' losses; take the first that is good."""
        answer = ask(Request("gradient", start))
        gradient = answer.vectors["gradient"] / answer.tasks
        norm = euclidean_norm(gradient)
        if answer.nonfinite or not math.isfinite(norm):
            return Outcome(answer, norm, 0.0, False, answer.nonfinite)
        solved = self.solve(gradient, start, ask)
        metrics = {"cg_steps": float(solved.steps), "candidates": 0.0}
        if not (math.isfinite(solved.curvature) and solved.curvature > 0):
            return Outcome(answer, norm, 0.0, False, metrics=metrics)
        full = solved.direction.mul_(math.sqrt(2 * self._options.radius / solved.curvature))
        for tried in range(self._options.candidates):
            length = self._options.backtrack**tried
            candidate = torch.add(start.theta, full, alpha=length)
            found = ask(Request("compare", start, {"candidate": candidate}))
            metrics["candidates"] = tried + 1.0
            if self._is_good(found, answer):
                metrics |= {"divergence": found.mean("divergence"), "loss_after": found.mean("loss")}
                start.theta.copy_(candidate)
                return Outcome(answer, norm, length, True, metrics=metrics)
        return Outcome(answer, norm, 0.0, False, metrics=metrics)

    def solve(self, gradient: Tensor, start: Start, ask: Ask) -> Solution:
        """The natural-gradient direction: minus the gradient, solved with the damped mean curvature."""

        def multiply(direction: Tensor) -> Tensor:
            answer = ask(Request("curvature", start, {"direction": direction}))
            return torch.add(answer.vectors["product"] / answer.tasks, direction, alpha=self._options.damping)

        return conjugate_gradients(multiply, -gradient, self._options.cg_steps, self._options.cg_tolerance)

    def _is_good(self, candidate: Answer, before: Answer) -> bool:
        """Whether a candidate is finite, better, and not too far away."""
        loss, divergence = candidate.mean("loss"), candidate.mean("divergence")
        finite = not candidate.nonfinite and math.isfinite(loss) and math.isfinite(divergence)
        return finite and loss < before.mean("loss") and divergence <= self._options.radius

    def state(self) -> dict[str, Any]:
        """Nothing is kept from step to step."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Nothing is kept from step to step."""
        if state:
            raise StorageError(
                "the checkpoint's state is not that of outer.name = trust_region, which keeps none; use another "
                "checkpoint, or the outer step that it was made with"
            )
