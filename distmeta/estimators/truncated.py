"""The meta-gradient through the last inner steps alone."""

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
from distmeta.estimators.first_order import first_gradients
from distmeta.estimators.options import TruncatedOptions


class Truncated:
    """The exact meta-gradient with the gradients of all but the last ``differentiated`` inner steps as constants.

    It lies between the first-order one, with none, and the exact one, with all; time and memory grow with the steps
    that are differentiated.

    Source: Shaban, Cheng, Hatch, Boots, AISTATS 2019, arXiv 1810.10667 (truncated back-propagation), here with the
    first order of the steps before, since what is learned is where they begin.
    """

    Options: ClassVar[type[EstimatorOptions]] = TruncatedOptions
    merges_query: ClassVar[bool] = False

    def __init__(self, options: Any, adaptation: Adaptation) -> None:
        self.options = options
        self.adaptation = cast(Iterative, adaptation)

    def gradient(self, meta: Meta, task: Task, steps: int | None) -> tuple[Meta, Measured]:
        """The task's meta-gradient."""
        assert steps is not None
        found, (_, measured) = gradient(self._loss, meta, task, self._constants(meta, task, steps), steps)
        return found, measured

    def follow(self, differentiation: Differentiation) -> None:
        """There is one way."""

    def beside(self, meta: Meta, task: Task) -> Tensor | None:
        """What is added to the query's loss: nothing."""
        return None

    def outputs(self, task: Task, steps: int | None, meta: Meta) -> Callable[[Meta], Tensor]:
        """The query's outputs after the updates whose first gradients are those at ``meta``."""
        assert steps is not None
        return partial(self._outputs, task=task, constants=self._constants(meta, task, steps), steps=steps)

    def _constants(self, meta: Meta, task: Task, steps: int) -> list[Params]:
        return first_gradients(self.adaptation, meta, task, max(0, steps - self.options.differentiated))

    def _outputs(self, meta: Meta, task: Task, constants: list[Params], steps: int) -> Tensor:
        adaptation = self.adaptation
        params, state = adaptation.init(meta)
        for step in range(steps):
            given = step < len(constants)
            found = constants[step] if given else inner_gradient(adaptation, params, meta, task.support.step(step))
            params, state = adaptation.update(params, state, found, meta, step)
        return adaptation.predict(meta, params, task.query)

    def _loss(self, meta: Meta, task: Task, constants: list[Params], steps: int) -> tuple[Tensor, Measured]:
        objective = self.adaptation.objective
        outputs = self._outputs(meta, task, constants, steps)
        loss = objective.loss(outputs, task.query.data)
        return loss, {"loss": loss, **objective.measure(outputs, task.query.data)}
