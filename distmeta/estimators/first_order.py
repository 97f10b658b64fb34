"""The first-order meta-gradient: inner gradients count as constants."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, cast

from torch import Tensor

from distmeta.adaptations.base import Adaptation, Iterative, Params, Task, inner_gradient
from distmeta.adaptations.gradients import gradient
from distmeta.config.sections import EstimatorOptions
from distmeta.core.layout import Meta
from distmeta.core.plan import Differentiation
from distmeta.estimators.base import Measured
from distmeta.estimators.options import FirstOrderOptions


class FirstOrder:
    """The exact meta-gradient without second derivatives.

    ``d/dmeta loss(params_K, query)`` where every inner gradient is treated as a constant; for plain gradient descent
    that is the query gradient at the adapted parameters (FOMAML: Finn, Abbeel, Levine, ICML 2017, section 5.2).
    Learned rates and inner optimizers are still differentiated, since their derivatives need no second-order term.
    """

    Options: ClassVar[type[EstimatorOptions]] = FirstOrderOptions
    merges_query: ClassVar[bool] = False

    def __init__(self, options: Any, adaptation: Adaptation) -> None:
        self.adaptation = cast(Iterative, adaptation)

    def gradient(self, meta: Meta, task: Task, steps: int | None) -> tuple[Meta, Measured]:
        """The task's first-order meta-gradient."""
        assert steps is not None
        directions = first_gradients(self.adaptation, meta, task, steps)
        found, (_, measured) = gradient(self._loss, meta, task, directions)
        return found, measured

    def follow(self, differentiation: Differentiation) -> None:
        """There is one way."""

    def beside(self, meta: Meta, task: Task) -> Tensor | None:
        """What is added to the query's loss: nothing."""
        return None

    def outputs(self, task: Task, steps: int | None, meta: Meta) -> Callable[[Meta], Tensor]:
        """The query's outputs after the updates whose gradients are those at ``meta``."""
        assert steps is not None
        return partial(self._outputs, task=task, gradients=first_gradients(self.adaptation, meta, task, steps))

    def _outputs(self, meta: Meta, task: Task, gradients: list[Params]) -> Tensor:
        params, state = self.adaptation.init(meta)
        for step, found in enumerate(gradients):
            params, state = self.adaptation.update(params, state, found, meta, step)
        return self.adaptation.predict(meta, params, task.query)

    def _loss(self, meta: Meta, task: Task, gradients: list[Params]) -> tuple[Tensor, Measured]:
        """The query loss of the updates with these gradients given."""
        objective = self.adaptation.objective
        outputs = self._outputs(meta, task, gradients)
        loss = objective.loss(outputs, task.query.data)
        return loss, {"loss": loss, **objective.measure(outputs, task.query.data)}


def first_gradients(adaptation: Iterative, meta: Meta, task: Task, steps: int) -> list[Params]:
    """The inner gradients of the first so many steps."""
    params, state = adaptation.init(meta)
    gradients: list[Params] = []
    for step in range(steps):
        found = inner_gradient(adaptation, params, meta, task.support.step(step))
        params, state = adaptation.update(params, state, found, meta, step)
        gradients.append(found)
    return gradients
