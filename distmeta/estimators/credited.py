"""The exact meta-gradient with credit to the sampling before adaptation: E-MAML."""

from __future__ import annotations

from typing import ClassVar, cast

from torch import Tensor

from distmeta.adaptations.base import Iterative, Task
from distmeta.adaptations.gradients import gradient
from distmeta.config.sections import EstimatorOptions
from distmeta.core.layout import Meta
from distmeta.estimators.base import Measured
from distmeta.estimators.exact import Exact
from distmeta.estimators.options import CreditedOptions
from distmeta.objectives.policy_gradient import PolicyGradient

CREDIT = "credit"
"""What a task's query data say of its return after adaptation, beside those of other tasks: a number."""


class Credited(Exact):
    r"""The exact meta-gradient, and that of :math:`-\tilde R \cdot \mathrm{mean} \log \pi_\theta(a_0 | s_0)`.

    The actions are those of the episodes before the first inner step, and the credit :math:`\tilde R` is the return of
    the adapted policy, less the mean over the other tasks of the shard, in units of their deviation: so the policy
    learns to begin with episodes that adaptation can learn from.

    Source: Stadie, Yang, Houthooft, Chen, Duan, Wu, Abbeel, Sutskever 2018, arXiv 1803.01118 (E-MAML).
    """

    Options: ClassVar[type[EstimatorOptions]] = CreditedOptions

    def gradient(self, meta: Meta, task: Task, steps: int | None) -> tuple[Meta, Measured]:
        """The task's meta-gradient."""
        found, measured = super().gradient(meta, task, steps)
        credited, (value, _) = gradient(lambda m, t: (self.beside(m, t), {}), meta, task)
        return (
            {name: each + credited[name] for name, each in found.items()},
            {**measured, "loss": measured["loss"] + value},
        )

    def weights(self, step: int, inner_steps: int | None) -> Tensor | None:
        """The last step's episodes alone count."""
        return None

    def beside(self, meta: Meta, task: Task) -> Tensor:
        """What is added to the query's loss."""
        adaptation = cast(Iterative, self.adaptation)
        first, (params, _) = task.support.step(0), adaptation.init(meta)
        policy = cast(PolicyGradient, adaptation.objective)
        unlikely = policy.nll(adaptation.predict(meta, params, first), first.data)
        return task.query.data[CREDIT] * unlikely
