"""What an estimator is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol

from torch import Tensor

from distmeta.adaptations.base import Adaptation, Task
from distmeta.config.sections import EstimatorOptions
from distmeta.core.layout import Meta
from distmeta.core.plan import Differentiation
from distmeta.core.records import Data
from distmeta.objectives.base import Objective

Measured = Mapping[str, Tensor]
"""Named scalars: ``loss`` and the objective's metrics."""


def loss_and_measured(objective: Objective, outputs: Tensor, data: Data) -> tuple[Tensor, Measured]:
    """An objective's loss of these outputs, and beside it all that is measured of them."""
    loss = objective.loss(outputs, data)
    return loss, {"loss": loss, **objective.measure(outputs, data)}


class Estimator(Protocol):
    """How one task's meta-gradient is computed; pure, mapped over tasks by the engine.

    Attributes:
        Options: its settings under ``algorithm`` in a configuration.
        merges_query: whether adaptation sees support and query as one set.

    What it computes may depend on the meta-step, in two ways that it need not have: ``weights(step, inner_steps)`` is
    what the query loss after each inner step counts (:class:`~distmeta.adaptations.base.Batch`), ``at(step)`` the
    estimator that computes in this meta-step, which ``compared_at`` names one of for plans to be tried with.
    """

    Options: ClassVar[type[EstimatorOptions]]
    merges_query: ClassVar[bool]

    def __init__(self, options: Any, adaptation: Adaptation) -> None: ...

    def gradient(self, meta: Meta, task: Task, steps: int | None) -> tuple[Meta, Measured]:
        """The task's meta-gradient, shaped like ``meta``, and measurements after adaptation."""
        ...

    def follow(self, differentiation: Differentiation) -> None:
        """Differentiate in this way from now on, where there are several."""
        ...


class OfOutputs(Estimator, Protocol):
    """An estimator whose meta-gradient is that of the query's outputs."""

    def beside(self, meta: Meta, task: Task) -> Tensor | None:
        """What is added to the query's loss, as a function of the meta-parameters; ``None`` where there is nothing."""
        ...

    def outputs(self, task: Task, steps: int | None, meta: Meta) -> Callable[[Meta], Tensor]:
        """The query's outputs (N, D) as a function of the meta-parameters around ``meta``, with the derivative that
        the estimator takes there.
        """
        ...
