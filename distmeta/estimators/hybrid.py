"""The first-order meta-gradient in the first part of a run, and the exact one from then on."""

from __future__ import annotations

from typing import Any, ClassVar

from distmeta.adaptations.base import Adaptation
from distmeta.config.sections import EstimatorOptions
from distmeta.estimators.base import Estimator
from distmeta.estimators.exact import Exact
from distmeta.estimators.first_order import FirstOrder
from distmeta.estimators.options import HybridOptions


class Hybrid(Exact):
    """:class:`~distmeta.estimators.first_order.FirstOrder` until meta-step ``first_order_steps``, then exact.

    Source: Antoniou, Edwards, Storkey, ICLR 2019, section 4 (MAML++, derivative-order annealing).
    """

    Options: ClassVar[type[EstimatorOptions]] = HybridOptions

    def __init__(self, options: Any, adaptation: Adaptation) -> None:
        super().__init__(options, adaptation)
        self._until = options.first_order_steps
        self._first = FirstOrder(options, adaptation)

    def at(self, step: int) -> Estimator:
        """What computes in this meta-step."""
        return self._first if step < self._until else self

    @property
    def compared_at(self) -> int:
        """A meta-step in which what is hardest to compute is asked for."""
        return int(self._until)
