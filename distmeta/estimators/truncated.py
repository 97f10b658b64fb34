"""The meta-gradient through the last inner steps alone."""

from __future__ import annotations

from typing import Any, ClassVar

from distmeta.adaptations.base import Adaptation, Params, Task
from distmeta.config.sections import EstimatorOptions
from distmeta.core.layout import Meta
from distmeta.estimators.first_order import FirstOrder, first_gradients
from distmeta.estimators.options import TruncatedOptions


class Truncated(FirstOrder):
    """The exact meta-gradient with the gradients of all but the last ``differentiated`` inner steps as constants.

    It lies between the first-order one, with none, and the exact one, with all; time and memory grow with the steps
    that are differentiated.

    Source: Shaban, Cheng, Hatch, Boots, AISTATS 2019, arXiv 1810.10667 (truncated back-propagation), here with the
    first order of the steps before, since what is learned is where they begin.
    """

    Options: ClassVar[type[EstimatorOptions]] = TruncatedOptions

    def __init__(self, options: Any, adaptation: Adaptation) -> None:
        super().__init__(options, adaptation)
        self._differentiated = options.differentiated

    def _given(self, meta: Meta, task: Task, steps: int) -> list[Params]:
        return first_gradients(self.adaptation, meta, task, max(0, steps - self._differentiated))
