"""A meta-gradient of your own in one file: MAML that differentiates its last inner steps alone.

In this folder:

distmeta train ../configs/sinusoid_maml.yaml run.steps=500 algorithm.inner_steps=5 \\
    algorithm.estimator=module:new_estimator.Truncated algorithm.window=2 --run-dir ../runs/truncated
"""

from __future__ import annotations

from typing import Any

from distmeta.adaptations.base import inner_gradient
from distmeta.adaptations.gradients import gradient
from distmeta.config.sections import EstimatorOptions


class TruncatedOptions(EstimatorOptions):
    """Its settings under ``algorithm``: how many inner steps are differentiated."""

    needs_steps = True
    window: int = 1


class Truncated:
    """What the earlier inner steps have changed counts as a constant (Shaban et al., AISTATS 2019). One task, pure."""

    Options = TruncatedOptions
    merges_query = False

    def __init__(self, options: Any, adaptation: Any) -> None:
        self._window, self._adaptation = options.window, adaptation

    def gradient(self, meta: Any, task: Any, steps: int) -> tuple[Any, Any]:
        """The task's meta-gradient, named like ``meta``, and its measurements."""
        first = max(0, steps - self._window)
        start, _ = self._adaptation.init(meta)
        moved = {name: value - start[name] for name, value in self._descend(start, meta, task, 0, first).items()}

        def loss(meta: Any) -> tuple[Any, Any]:
            start, _ = self._adaptation.init(meta)
            params = {name: value + moved[name] for name, value in start.items()}
            params = self._descend(params, meta, task, first, steps)
            outputs = self._adaptation.predict(meta, params, task.query)
            objective, data = self._adaptation.objective, task.query.data
            return objective.loss(outputs, data), objective.measure(outputs, data)

        found, (value, measured) = gradient(loss, meta)
        return found, {"loss": value, **measured}

    def _descend(self, params: Any, meta: Any, task: Any, first: int, last: int) -> Any:
        _, state = self._adaptation.init(meta)
        for step in range(first, last):
            direction = inner_gradient(self._adaptation, params, meta, task.support.step(step))
            params, state = self._adaptation.update(params, state, direction, meta, step)
        return params

    def follow(self, differentiation: str) -> None:
        """There is one way to differentiate."""
