"""The meta-gradient by evolution strategies: from what is lost alone, without a derivative of adaptation."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from distmeta.adaptations.base import Adaptation, Task
from distmeta.config.sections import EstimatorOptions
from distmeta.core.layout import Layout, Meta
from distmeta.core.plan import Differentiation
from distmeta.core.tensor_philox import random_words
from distmeta.estimators.base import Measured, loss_and_measured
from distmeta.estimators.options import EvolutionOptions

_STREAM = 0x4553
"""Of a task's key: no dropout uses it, whose second number counts the calls of a forward pass."""


class Evolution:
    r"""Antithetic evolution strategies.

    With normal vectors :math:`\epsilon_i` and F what is lost after adaptation (the query loss; of policies minus the
    return),

    .. math::

        g = \frac{1}{2 n \sigma} \sum_{i=1}^{n}
            (F(\theta + \sigma \epsilon_i) - F(\theta - \sigma \epsilon_i)) \epsilon_i.

    Adaptation need not have a derivative. The vectors are keyed by (seed, task, direction); measurements are means over
    all that was tried.

    Source: Song, Gao, Yang, Choromanski, Pacchiano, Tang, ICLR 2020, arXiv 1910.01215 (ES-MAML, algorithm 3).

    >>> import torch
    >>> evolution = Evolution(EvolutionOptions(deviation=0.5), None)
    >>> evolution.combined(torch.tensor([[1.0, 0.0]]), torch.tensor([3.0]), torch.tensor([1.0]))
    tensor([2., 0.])
    """

    Options: ClassVar[type[EstimatorOptions]] = EvolutionOptions
    merges_query: ClassVar[bool] = False

    def __init__(self, options: Any, adaptation: Adaptation | None) -> None:
        self.options = options
        self.adaptation = adaptation

    def combined(self, directions: Tensor, ahead: Tensor, behind: Tensor) -> Tensor:
        """The meta-gradient (P,) of losses (n,) to both sides along directions (n, P)."""
        slopes: Tensor = (ahead - behind).unsqueeze(1) * directions
        mean: Tensor = slopes.mean(0)
        return mean / (2 * float(self.options.deviation))

    def gradient(self, meta: Meta, task: Task, steps: int | None) -> tuple[Meta, Measured]:
        """The task's meta-gradient of given data; policies that are tried roll out their own episodes instead."""
        key, layout, count = task.query.key, Layout.of(meta), self.options.directions
        assert key is not None, "samples of this estimator have one"
        theta = layout.flatten(meta)
        total, tried = torch.zeros_like(theta), []
        for number in range(count):
            direction = normal_numbers(key, number, layout.size).to(theta)
            away = self.options.deviation * direction
            both = [self._measured(layout.unflatten(theta + sign * away), task, steps) for sign in (1, -1)]
            total = total + (both[0]["loss"] - both[1]["loss"]) * direction
            tried += both
        measured = {name: torch.stack([each[name] for each in tried]).mean(0) for name in tried[0]}
        return layout.unflatten(total / (2 * count * self.options.deviation)), measured

    def follow(self, differentiation: Differentiation) -> None:
        """There is nothing to differentiate but inner steps."""

    def _measured(self, meta: Meta, task: Task, steps: int | None) -> Measured:
        adaptation = self.adaptation
        assert adaptation is not None
        adapted = adaptation.adapt(meta, task.support, steps)
        outputs = adaptation.predict(meta, adapted, task.query)
        return loss_and_measured(adaptation.objective, outputs, task.query.data)[1]


def normal_numbers(key: Tensor, number: int, count: int) -> Tensor:
    """(count,) float64 standard normal numbers of a task's key, by the method of Box and Muller.

    Args:
        key: (2,) int64.
        number: of the vector.
        count: how many.
    """
    pairs = -(-count // 2)
    words = random_words(key, (number, _STREAM), 2 * pairs).double()
    first, second = ((words + 0.5) / 2**32).view(2, pairs)
    radius, angle = (-2 * first.log()).sqrt(), 2 * math.pi * second
    return torch.cat([radius * angle.cos(), radius * angle.sin()])[:count]
