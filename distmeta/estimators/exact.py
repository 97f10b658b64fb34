"""The exact meta-gradient: the query loss differentiated through adaptation."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ClassVar, cast

from torch import Tensor

from distmeta.adaptations.base import Adaptation, Iterative, Task
from distmeta.adaptations.gradients import gradient
from distmeta.config.sections import EstimatorOptions
from distmeta.core.layout import Meta
from distmeta.core.plan import Differentiation
from distmeta.estimators.adjoint import adjoint
from distmeta.estimators.base import Measured
from distmeta.estimators.options import ExactOptions


class Exact:
    """``d/dmeta loss(predict(meta, adapt(meta, support), query))``, all derivatives of adaptation included.

    Two ways give the same gradient up to rounding:

    - ``reverse``: reverse mode over the whole adaptation; memory grows with every inner step's activations.
    - ``mixed``: the step-by-step adjoint of :func:`~distmeta.estimators.adjoint.adjoint`, which keeps the parameters of
      the steps alone and recomputes activations; iterative adaptations only.

    ``differentiation`` says which; the program sets it by its plan.

    Source: Finn, Abbeel, Levine, ICML 2017 (MAML, equation 1); Kemaev et al., ICML 2025, arXiv 2505.00793 (mixed mode).
    """

    Options: ClassVar[type[EstimatorOptions]] = ExactOptions
    merges_query: ClassVar[bool] = False

    def __init__(self, options: ExactOptions, adaptation: Adaptation) -> None:
        self.adaptation = adaptation
        self.differentiation: Differentiation = "reverse"

    def gradient(self, meta: Meta, task: Task, steps: int | None) -> tuple[Meta, Measured]:
        """The task's exact meta-gradient."""
        if self.differentiation == "mixed":
            assert steps is not None
            return adjoint(cast(Iterative, self.adaptation), meta, task, steps)
        found, (_, measured) = gradient(self._loss, meta, task, steps)
        return found, measured

    def follow(self, differentiation: Differentiation) -> None:
        """Differentiate in this way from now on."""
        self.differentiation = differentiation

    def beside(self, meta: Meta, task: Task) -> Tensor | None:
        """What is added to the query's loss, where there is anything."""
        return None

    def outputs(self, task: Task, steps: int | None, meta: Meta) -> Callable[[Meta], Tensor]:
        """The query's outputs after adaptation."""
        return partial(self._outputs, task=task, steps=steps)

    def _outputs(self, meta: Meta, task: Task, steps: int | None) -> Tensor:
        adapted = self.adaptation.adapt(meta, task.support, steps)
        return self.adaptation.predict(meta, adapted, task.query)

    def _loss(self, meta: Meta, task: Task, steps: int | None) -> tuple[Tensor, Measured]:
        objective = self.adaptation.objective
        outputs = self._outputs(meta, task, steps)
        loss = objective.loss(outputs, task.query.data)
        return loss, {"loss": loss, **objective.measure(outputs, task.query.data)}
