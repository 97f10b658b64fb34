"""The gradient step: the mean of a meta-batch's gradients, checked and clipped, goes to the outer optimizer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from distmeta.core.layout import MODEL, Layout
from distmeta.core.requests import Request, Start
from distmeta.outer.base import Ask, Outcome
from distmeta.outer.optimizers import OuterOptimizer, checked_moments
from distmeta.outer.options import ClippedOptions, GradientOptions, StepSchedule
from distmeta.outer.sums import euclidean_norm


def schedule_factor(options: GradientOptions | ClippedOptions, step: int, steps: int) -> float:
    """The factor on the outer rate in meta-step ``step`` (0, 1, ...) of ``steps``.

    ``constant`` 1; ``linear`` 1 - s/S; ``cosine`` (1 + cos(pi s/S)) / 2; ``step`` factor^floor(s / every).

    >>> from distmeta.outer.options import GradientOptions
    >>> [schedule_factor(GradientOptions(schedule="linear"), s, 4) for s in range(4)]
    [1.0, 0.75, 0.5, 0.25]
    """
    schedule = options.schedule
    if isinstance(schedule, StepSchedule):
        return float(schedule.factor ** (step // schedule.every))
    if schedule == "constant":
        return 1.0
    done = step / max(steps, 1)
    return 1.0 - done if schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))


class GradientStep:
    """One request a meta-step, and one step of SGD, Adam or AdamW.

    Its memory is that of one gradient and of the optimizer's moments; a step allocates no other vector.
    """

    def __init__(self, options: GradientOptions, steps: int, layout: Layout, theta: Tensor) -> None:
        self._options = options
        self._steps = steps
        self._groups = layout.groups()
        self._mean = torch.zeros_like(theta)
        own = MODEL.rstrip("/")  # weight decay is for the module's own parameters
        self._optimizer = OuterOptimizer(
            options.optimizer,
            {name: theta[span] for name, span in self._groups.items()},
            options.lr,
            options.momentum,
            {name: options.weight_decay if name == own else 0.0 for name in self._groups},
        )

    def step(self, start: Start, ask: Ask) -> Outcome:
        """One step with a meta-batch's mean; where that is not finite, parameters and optimizer stay as they are."""
        answer = ask(Request("gradient", start))
        torch.div(answer.vectors["gradient"], answer.tasks, out=self._mean)
        norm = euclidean_norm(self._mean)
        factor = schedule_factor(self._options, start.step, self._steps)
        rate = self._options.lr * factor
        if answer.nonfinite or not math.isfinite(norm):
            return Outcome(answer, norm, rate, False, answer.nonfinite)
        self._clip(norm)
        self._optimizer.rates = {name: self._rate(name) * factor for name in self._groups}
        self._optimizer.step({name: self._mean[span] for name, span in self._groups.items()})
        return Outcome(answer, norm, rate, True)

    def state(self) -> dict[str, Any]:
        """The outer optimizer's state, as torch.optim gives it."""
        return self._optimizer.state_dict()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue with an optimizer's state."""
        self._optimizer.load_moments(
            checked_moments(
                state,
                list(self._groups.values()),
                self._options.optimizer,
                f"outer.optimizer = {self._options.optimizer} with these meta-parameters; use another checkpoint",
            )
        )

    def _rate(self, group: str) -> float:
        meta = self._options.lr_meta
        return self._options.lr if group == MODEL.rstrip("/") or meta is None else meta

    def _clip(self, norm: float) -> None:
        """Clip the mean, whose norm this is."""
        bound = self._options.clip_value
        if bound is not None:
            bound = min(bound, torch.finfo(torch.float32).max)  # what is beyond bounds nothing
            self._mean.clamp_(-bound, bound)
        if self._options.clip_norm is not None:
            norm = norm if bound is None else euclidean_norm(self._mean)
            if norm > self._options.clip_norm:
                self._mean.mul_(self._options.clip_norm / norm)
