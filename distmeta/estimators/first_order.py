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
from distmeta.estimators.base import Measured, loss_and_measured
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
        found, (_, measured) = gradient(self._loss, meta, task, self._given(meta, task, steps), steps)
        return found, measured

    def follow(self, differentiation: Differentiation) -> None:
        """There is one way."""

    def beside(self, meta: Meta, task: Task) -> Tensor | None:
        """What is added to the query's loss: nothing."""
        return None

    def outputs(self, task: Task, steps: int | None, meta: Meta) -> Callable[[Meta], Tensor]:
        """The query's outputs after the updates whose gradients are those at ``meta``."""
        assert steps is not None
        return partial(self._outputs, task=task, given=self._given(meta, task, steps), steps=steps)

    def _given(self, meta: Meta, task: Task, steps: int) -> list[Params]:
        """The inner gradients that count as constants, of the first steps: all of them."""
        return first_gradients(self.adaptation, meta, task, steps)

    def _outputs(self, meta: Meta, task: Task, given: list[Params], steps: int) -> Tensor:
        adaptation = self.adaptation
        params, state = adaptation.init(meta)
        for step in range(steps):
            known = step < len(given)
            found = given[step] if known else inner_gradient(adaptation, params, meta, task.support.step(step))
            params, state = adaptation.update(params, state, found, meta, step)
        return adaptation.predict(meta, params, task.query)

    def _loss(self, meta: Meta, task: Task, given: list[Params], steps: int) -> tuple[Tensor, Measured]:
        """The query loss of the updates with these gradients given."""
        return loss_and_measured(self.adaptation.objective, self._outputs(meta, task, given, steps), task.query.data)


def first_gradients(adaptation: Iterative, meta: Meta, task: Task, steps: int) -> list[Params]:
    """The inner gradients of the first so many steps."""
    params, state = adaptation.init(meta)
    gradients: list[Params] = []
    for step in range(steps):
        found = inner_gradient(adaptation, params, meta, task.support.step(step))
        params, state = adaptation.update(params, state, found, meta, step)
        gradients.append(found)
    return gradients
