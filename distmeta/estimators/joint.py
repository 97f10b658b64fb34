"""The gradient of all tasks' loss together, without adaptation: the baseline of meta-learning."""

from __future__ import annotations

from typing import Any, ClassVar, cast

from torch import Tensor

from distmeta.adaptations.base import Adaptation, Iterative, Task
from distmeta.adaptations.gradients import gradient
from distmeta.config.sections import EstimatorOptions
from distmeta.core.layout import Meta
from distmeta.core.plan import Differentiation
from distmeta.estimators.base import Measured
from distmeta.estimators.options import JointOptions


class Joint:
    r"""The gradient of :math:`L_{S \cup Q}(\theta)`: one model is fitted to all tasks, and adapts in evaluation alone.

    It is what meta-learning has to beat. With a classifier of all classes (``adaptation: linear_probe``) the labels are
    the data set's own classes; otherwise they are those of the tasks, in which a number stands for another class in
    every task of a few-shot classification, so that there is nothing to learn from them together.

    Source: the baseline "pretrained" of Finn, Abbeel, Levine, ICML 2017, section 5.1; Chen et al., ICLR 2019.
    """

    Options: ClassVar[type[EstimatorOptions]] = JointOptions
    merges_query: ClassVar[bool] = True

    def __init__(self, options: Any, adaptation: Adaptation) -> None:
        self.adaptation = adaptation

    def gradient(self, meta: Meta, task: Task, steps: int | None) -> tuple[Meta, Measured]:
        """The task's share."""
        found, (_, measured) = gradient(self._loss, meta, task)
        return found, measured

    def follow(self, differentiation: Differentiation) -> None:
        """There is one way."""

    def _loss(self, meta: Meta, task: Task) -> tuple[Tensor, Measured]:
        batch, adaptation = task.support.step(0), self.adaptation
        if hasattr(adaptation, "joint_loss"):
            loss, measured = adaptation.joint_loss(meta, batch)
            return loss, {"loss": loss, **measured}
        iterative = cast(Iterative, adaptation)
        params, _ = iterative.init(meta)
        loss, outputs = iterative.loss(params, meta, batch)
        return loss, {"loss": loss, **adaptation.objective.measure(outputs, batch.data)}
