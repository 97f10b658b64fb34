"""Reptile's meta-gradient: the displacement of the parameters."""

from __future__ import annotations

from typing import ClassVar, cast

from torch import Tensor

from distmeta.adaptations.base import Adaptation, Iterative, Task
from distmeta.adaptations.gradients import gradient
from distmeta.config.sections import EstimatorOptions
from distmeta.core.layout import MODEL, Meta
from distmeta.core.plan import Differentiation
from distmeta.estimators.base import Measured
from distmeta.estimators.options import DisplacementOptions


class Displacement:
    """``meta - params_K``: an outer SGD step of rate e moves the meta-parameters by e towards the adapted ones.

    Support and query are one set, of which each step uses a minibatch (``algorithm.inner_batch``). The measurements are
    those of the last step's minibatch before that step, which costs nothing extra.

    Source: Nichol, Achiam, Schulman 2018, arXiv 1803.02999, algorithm 2.
    """

    Options: ClassVar[type[EstimatorOptions]] = DisplacementOptions
    merges_query: ClassVar[bool] = True

    def __init__(self, options: DisplacementOptions, adaptation: Adaptation) -> None:
        self.adaptation = cast(Iterative, adaptation)

    def gradient(self, meta: Meta, task: Task, steps: int | None) -> tuple[Meta, Measured]:
        """The task's displacement."""
        assert steps is not None
        objective = self.adaptation.objective
        params, state = self.adaptation.init(meta)
        measured: dict[str, Tensor] = {}
        for step in range(steps):
            batch = task.support.step(step)
            found, (loss, outputs) = gradient(self.adaptation.loss, params, meta, batch)
            params, state = self.adaptation.update(params, state, found, meta, step)
            measured = {"loss": loss, **objective.measure(outputs, batch.data)}
        return {MODEL + name: meta[MODEL + name] - value for name, value in params.items()}, measured

    def follow(self, differentiation: Differentiation) -> None:
        """There is one way."""
