"""The clipped step: several steps of Adam on one sample, as far as the policies that drew it allow."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from distmeta.core.layout import Layout
from distmeta.core.requests import Answer, Request, Start
from distmeta.errors import StorageError
from distmeta.outer.base import Ask, Outcome
from distmeta.outer.gradient import schedule_factor
from distmeta.outer.optimizers import OuterOptimizer, checked_moments
from distmeta.outer.options import ClippedOptions
from distmeta.outer.sums import euclidean_norm

DIVERGENCE = "divergence_"
"""Begins the names of the sums that tell how far policies before an inner step are from those that acted."""

_STATE = "penalties"


class ClippedStep:
    r"""Steps on the loss of ProMP, for tasks whose adapted networks are policies.

    With :math:`\rho` the ratio of the adapted policy's probability to that with which an action was drawn, the loss is

    .. math::

        -\mathrm{mean}\, \min(\rho A, \mathrm{clip}(\rho, 1 - \epsilon, 1 + \epsilon) A)
        + \sum_k \eta_k \, \mathrm{KL}(\pi_k^{old} \| \pi_k),

    where :math:`\pi_k` is the policy before inner step k. A step whose loss or gradient is not finite ends the
    meta-step with what the steps before it have reached.

    Source: Rothfuss, Lee, Clavera, Asfour, Abbeel, ICLR 2019, algorithm 1; Schulman et al. 2017, arXiv 1707.06347.
    """

    def __init__(self, options: ClippedOptions, steps: int, layout: Layout, theta: Tensor) -> None:
        self._options = options
        self._steps = steps
        self._candidate = torch.zeros_like(theta)
        self._groups = layout.groups()
        vectors = {name: self._candidate[span] for name, span in self._groups.items()}
        self._optimizer = OuterOptimizer("adam", vectors, options.lr, 0.0, dict.fromkeys(vectors, 0.0))
        self._settled = self._optimizer.state_dict()  # of the last meta-step that was done
        self._penalties: list[float] = []

    def step(self, start: Start, ask: Ask) -> Outcome:
        """All of a meta-step's steps, from its beginning; the first one's answer is what is told of it."""
        # An earlier one may have been interrupted between its requests.
        self._optimizer.load_moments(self._settled["state"])
        self._candidate.copy_(start.theta)
        rate = self._options.lr * schedule_factor(self._options, start.step, self._steps)
        self._optimizer.rates = dict.fromkeys(self._groups, rate)
        reached, first, norm = start.theta.clone(), None, math.nan
        done = 0
        for _ in range(self._options.epochs):
            answer = ask(Request("clipped", start, {"candidate": self._candidate.clone(), "penalties": self._given()}))
            gradient = answer.vectors["gradient"] / answer.tasks
            length = euclidean_norm(gradient)
            if first is None:
                first, norm = answer, length
            if answer.nonfinite or not math.isfinite(length):
                break
            self._reach(gradient, length)
            reached.copy_(self._candidate)
            done += 1
            last = answer
        assert first is not None
        if not done:
            return Outcome(first, norm, rate, False, first.nonfinite)
        start.theta.copy_(reached)
        self._settled = copy.deepcopy(self._optimizer.state_dict())
        return Outcome(first, norm, rate, True, metrics=self._told(last, done))

    def _given(self) -> Tensor:
        """(K,) the penalties; one number for all inner steps before their number is known."""
        return torch.tensor(self._penalties or [self._options.penalty], dtype=torch.float32)

    def _reach(self, gradient: Tensor, length: float) -> None:
        """One step of Adam."""
        bound = self._options.clip_norm
        if bound is not None and length > bound:
            gradient.mul_(bound / length)
        self._optimizer.step({name: gradient[span] for name, span in self._groups.items()})

    def _told(self, answer: Answer, done: int) -> dict[str, float]:
        """What there is to tell; penalties follow the divergences, where there is one to aim at."""
        apart = [answer.mean(name) for name in sorted(answer.sums) if name.startswith(DIVERGENCE)]
        metrics = {"epochs": float(done), **{f"{DIVERGENCE}{step}": each for step, each in enumerate(apart)}}
        aim = self._options.divergence
        if aim is not None:
            before = self._penalties or [self._options.penalty] * len(apart)
            self._penalties = [_followed(each, far, aim) for each, far in zip(before, apart, strict=True)]
            metrics |= {f"penalty_{step}": each for step, each in enumerate(self._penalties)}
        return metrics

    def state(self) -> dict[str, Any]:
        """Adam's moments, and the penalties."""
        return {**self._settled, _STATE: list(self._penalties)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue with these."""
        whose = "outer.name = clipped with these meta-parameters; use another checkpoint"
        moments, penalties = checked_moments(state, list(self._groups.values()), "adam", whose), state.get(_STATE)
        if not (isinstance(penalties, list) and all(isinstance(each, float) for each in penalties)):
            raise StorageError(f"the checkpoint's optimizer state is not that of {whose}")
        self._optimizer.load_moments(moments)
        self._settled = copy.deepcopy(self._optimizer.state_dict())
        self._penalties = list(penalties)


def _followed(penalty: float, divergence: float, aim: float) -> float:
    if divergence > 1.5 * aim:
        return 2 * penalty
    return penalty / 2 if divergence < aim / 1.5 else penalty
