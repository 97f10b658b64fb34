"""Reptile's meta-gradient: the displacement of the parameters."""

from __future__ import annotations

from typing import Any, ClassVar, cast

from torch import Tensor

from distmeta.adaptations.base import Adaptation, Iterative, Task
from distmeta.adaptations.gradients import gradient
from distmeta.config import Section
from distmeta.estimators.base import Measured
from distmeta.layout import MODEL, Meta


class DisplacementOptions(Section):
    """There is nothing to set."""


class Displacement:
    """``meta - params_K``: an outer SGD step of rate e moves the meta-parameters by e towards the adapted ones.

    Support and query are one set, of which each step uses a minibatch (``algorithm.inner_batch``). The measurements are
    those of the last step's minibatch before that step, which costs nothing extra.

    Source: Nichol, Achiam, Schulman 2018, arXiv 1803.02999, algorithm 2.
    """

    Options: ClassVar[type[Section]] = DisplacementOptions
    iterative: ClassVar[bool] = True
    merges_query: ClassVar[bool] = True

    def __init__(self, options: DisplacementOptions, adaptation: Adaptation) -> None:
        self.adaptation = cast(Iterative, adaptation)

    @classmethod
    def refuse(cls, options: Any) -> str | None:
        """What a task does not change has no displacement, and learned rates have none either."""
        if options.adapt != "all":
            return (
                f"algorithm.adapt = {options.adapt!r} with the displacement estimator would never train the other "
                "parameters, which do not move within a task; use adapt: all, or the exact or first_order estimator"
            )
        if options.learned_rates != "none":
            return (
                "algorithm.learned_rates has no meta-gradient under the displacement estimator; use the exact or "
                "first_order estimator"
            )
        return None

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
            measured = {"loss": loss, objective.metric: objective.measure(outputs, batch.data)}
        return {MODEL + name: meta[MODEL + name] - value for name, value in params.items()}, measured
