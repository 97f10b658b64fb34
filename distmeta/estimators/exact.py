"""The exact meta-gradient: the query loss differentiated through adaptation."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ClassVar, cast

import torch
from torch import Tensor

from distmeta.adaptations.base import Adaptation, Iterative, Task, trajectory
from distmeta.adaptations.gradients import gradient
from distmeta.config.sections import EstimatorOptions
from distmeta.core.layout import Meta
from distmeta.core.plan import Differentiation
from distmeta.estimators.adjoint import adjoint
from distmeta.estimators.base import Measured, loss_and_measured
from distmeta.estimators.options import ExactOptions

LEAST_WEIGHT = 0.03
"""What the inner steps before the last count at least together, as long as they count at all."""


class Exact:
    r"""``d/dmeta loss(predict(meta, adapt(meta, support), query))``, all derivatives of adaptation included.

    Two ways give the same gradient up to rounding:

    - ``reverse``: reverse mode over the whole adaptation; memory grows with every inner step's activations.
    - ``mixed``: the step-by-step adjoint of :func:`~distmeta.estimators.adjoint.adjoint`, which keeps the parameters of
      the steps alone and recomputes activations; iterative adaptations only.

    ``differentiation`` says which; the program sets it by its plan.

    With ``multi_step`` the loss is :math:`\sum_k w_k L_Q(\phi_k)` over the parameters after each inner step, with the
    weights of :func:`multi_step_weights`, until so many meta-steps are done.

    Source: Finn, Abbeel, Levine, ICML 2017 (MAML, equation 1); Kemaev et al., ICML 2025, arXiv 2505.00793 (mixed mode);
    Antoniou, Edwards, Storkey, ICLR 2019, equation 3 (multi-step loss).
    """

    Options: ClassVar[type[EstimatorOptions]] = ExactOptions
    merges_query: ClassVar[bool] = False

    def __init__(self, options: ExactOptions, adaptation: Adaptation) -> None:
        self.options = options
        self.adaptation = adaptation
        self.differentiation: Differentiation = "reverse"

    def gradient(self, meta: Meta, task: Task, steps: int | None) -> tuple[Meta, Measured]:
        """The task's exact meta-gradient."""
        if self.differentiation == "mixed":
            assert steps is not None
            return adjoint(cast(Iterative, self.adaptation), meta, task, steps)
        loss = self._loss if task.query.weights is None else self._weighted
        found, (_, measured) = gradient(loss, meta, task, steps)
        return found, measured

    def follow(self, differentiation: Differentiation) -> None:
        """Differentiate in this way from now on."""
        self.differentiation = differentiation

    def weights(self, step: int, inner_steps: int | None) -> Tensor | None:
        """(K,) what each inner step's query loss counts in this meta-step; ``None`` where the last alone does."""
        annealed = self.options.multi_step
        if inner_steps is None or step >= annealed:
            return None
        return multi_step_weights(step / annealed, inner_steps)

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
        return loss_and_measured(self.adaptation.objective, self._outputs(meta, task, steps), task.query.data)

    def _weighted(self, meta: Meta, task: Task, steps: int | None) -> tuple[Tensor, Measured]:
        """The weighted sum of losses; measured is what is so after the last step."""
        adaptation, query = cast(Iterative, self.adaptation), task.query
        objective, weights = adaptation.objective, query.weights
        assert steps is not None
        assert weights is not None
        losses, measured = [], cast(Measured, {})
        for number, adapted in enumerate(trajectory(adaptation, meta, task.support, steps)):
            if number > 0:
                outputs = adaptation.predict(meta, adapted, query.after(number))
                loss, measured = loss_and_measured(objective, outputs, query.data)
                losses.append(loss)
        return (weights.to(losses[-1]) * torch.stack(losses)).sum(), measured


def multi_step_weights(progress: float, steps: int) -> Tensor:
    """(K,) all alike at first, then more and more the last one's, the others' at least ``LEAST_WEIGHT`` over K.

    As in the released code of MAML++: each but the last counts ``max((1 - progress) / K, LEAST_WEIGHT / K)``.

    >>> multi_step_weights(0.0, 4).tolist(), multi_step_weights(0.5, 2).tolist()
    ([0.25, 0.25, 0.25, 0.25], [0.25, 0.75])
    """
    before = max(1 - progress, LEAST_WEIGHT) / steps
    return torch.tensor([before] * (steps - 1) + [1 - (steps - 1) * before])
