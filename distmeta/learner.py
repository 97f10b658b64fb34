"""The learner: takes the mean of a meta-batch's gradients, checks and clips it, and steps the outer optimizer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from distmeta.config import OuterOptions, StepSchedule
from distmeta.layout import MODEL, Layout, Meta
from distmeta.records import MetaGradient, MetaState


@dataclass(frozen=True)
class Outcome:
    """What one outer step did.

    Attributes:
        norm: Euclidean norm of the mean meta-gradient before clipping; not finite where the gradient is not.
        rate: outer learning rate.
        nonfinite: ids of tasks whose loss or gradient was not finite; where there are any, nothing was changed.
    """

    norm: float
    rate: float
    nonfinite: tuple[int, ...]


def schedule_factor(options: OuterOptions, step: int, steps: int) -> float:
    """The factor on the outer rate in meta-step ``step`` (0, 1, ...) of ``steps``.

    ``constant`` 1; ``linear`` 1 - s/S; ``cosine`` (1 + cos(pi s/S)) / 2; ``step`` factor^floor(s / every).

    >>> from distmeta.config import OuterOptions
    >>> [schedule_factor(OuterOptions(schedule="linear"), s, 4) for s in range(4)]
    [1.0, 0.75, 0.5, 0.25]
    """
    schedule = options.schedule
    if isinstance(schedule, StepSchedule):
        return float(schedule.factor ** (step // schedule.every))
    if schedule == "constant":
        return 1.0
    done = step / max(steps, 1)
    return 1.0 - done if schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))


class Learner:
    """Holds the meta-parameters as one flat float32 vector on the CPU, and the outer optimizer's state."""

    def __init__(self, options: OuterOptions, steps: int, meta: Meta) -> None:
        self._options = options
        self._steps = steps
        self.layout = Layout.of(meta)
        self.step = 0
        # A copy: the optimizer writes into it.
        self.vector = self.layout.flatten(meta).detach().to("cpu", torch.float32).clone()
        self._groups = self.layout.groups()
        self._optimizer = _optimizer(options, {name: self.vector[span] for name, span in self._groups.items()})

    def state(self) -> MetaState:
        """What workers compute with; shares the vector's memory."""
        return MetaState(self.step, self.vector)

    def meta(self) -> dict[str, Tensor]:
        """Named views of the meta-parameters."""
        return self.layout.unflatten(self.vector)

    def apply(self, gradient: MetaGradient) -> Outcome:
        """One outer step with the mean of a meta-batch.

        With task losses or a gradient that is not finite the parameters and the optimizer stay as they are; the
        caller raises, or counts the step by :meth:`skip`.
        """
        mean = gradient.vector / gradient.tasks
        norm = float(torch.linalg.vector_norm(mean, dtype=torch.float64))
        factor = schedule_factor(self._options, self.step, self._steps)
        outcome = Outcome(norm, self._options.lr * factor, gradient.nonfinite)
        if gradient.nonfinite or not math.isfinite(norm):
            return outcome
        mean = self._clip(mean)
        for group in self._optimizer.param_groups:
            (parameter,) = group["params"]
            parameter.grad = mean[self._groups[group["name"]]]
            group["lr"] = self._rate(group["name"]) * factor
        self._optimizer.step()
        self.step += 1
        return outcome

    def skip(self) -> None:
        """Count a step that changed nothing."""
        self.step += 1

    def optimizer_state(self) -> dict[str, Any]:
        """The outer optimizer's state, as torch.optim gives it."""
        return self._optimizer.state_dict()

    def restore(self, step: int, meta: Meta, optimizer: Mapping[str, Any]) -> None:
        """Continue from a checkpoint."""
        self.step = step
        self.vector.copy_(self.layout.flatten(meta))
        self._optimizer.load_state_dict(dict(optimizer))

    def _rate(self, group: str) -> float:
        meta = self._options.lr_meta
        return self._options.lr if group == MODEL.rstrip("/") or meta is None else meta

    def _clip(self, mean: Tensor) -> Tensor:
        if self._options.clip_value is not None:
            mean = mean.clamp(-self._options.clip_value, self._options.clip_value)
        if self._options.clip_norm is not None:
            norm = float(torch.linalg.vector_norm(mean, dtype=torch.float64))
            if norm > self._options.clip_norm:
                mean = mean * (self._options.clip_norm / norm)
        return mean


def _optimizer(options: OuterOptions, groups: Mapping[str, Tensor]) -> torch.optim.Optimizer:
    """One parameter group for each group of the layout; weight decay is for the module's own parameters."""
    own = MODEL.rstrip("/")
    params = [
        {
            "params": [torch.nn.Parameter(vector)],
            "name": name,
            "weight_decay": options.weight_decay if name == own else 0.0,
        }
        for name, vector in groups.items()
    ]
    if options.optimizer == "sgd":
        return torch.optim.SGD(params, lr=options.lr, momentum=options.momentum)
    kind = torch.optim.AdamW if options.optimizer == "adamw" else torch.optim.Adam
    return kind(params, lr=options.lr)
