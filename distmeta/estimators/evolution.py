"""The meta-gradient by evolution strategies: from returns alone, without a derivative of adaptation."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from distmeta.adaptations.base import Adaptation, Task
from distmeta.config.sections import EstimatorOptions
from distmeta.core.layout import Meta
from distmeta.core.plan import Differentiation
from distmeta.estimators.base import Measured
from distmeta.estimators.options import EvolutionOptions


class Evolution:
    r"""Antithetic evolution strategies.

    With normal vectors :math:`\epsilon_i` and F what is lost after adaptation (minus the return),

    .. math::

        g = \frac{1}{2 n \sigma} \sum_{i=1}^{n}
            (F(\theta + \sigma \epsilon_i) - F(\theta - \sigma \epsilon_i)) \epsilon_i.

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
        """There is none of given episodes: the policies that are tried roll out their own."""
        raise NotImplementedError

    def follow(self, differentiation: Differentiation) -> None:
        """There is nothing to differentiate but inner steps."""
