"""The learner: takes the mean of a meta-batch's gradients, checks and clips it, and steps the outer optimizer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from distmeta.config.sections import OuterOptions, StepSchedule
from distmeta.core.layout import MODEL, Layout, Meta
from distmeta.core.quoting import shown
from distmeta.core.records import MetaGradient, MetaState
from distmeta.errors import StorageError
from distmeta.outer.optimizers import MOMENTS, OuterOptimizer

NORM_ROW = 2**13
"""Elements that one thread adds at a time; torch splits no sum as short as this."""

NORM_BLOCK = 2**18
"""Elements whose float64 copy is made at a time: 2 MiB."""


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

    >>> from distmeta.config.sections import OuterOptions
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
    """Holds the meta-parameters as one flat float32 vector on the CPU, and the outer optimizer's state.

    Its memory is that of the vector, of one gradient and of the optimizer's moments; a step allocates no other vector.
    """

    def __init__(self, options: OuterOptions, steps: int, meta: Meta) -> None:
        self._options = options
        self._steps = steps
        self.layout = Layout.of(meta)
        self.step = 0
        # A copy: the optimizer writes into it.
        self.vector = self.layout.flatten(meta).detach().to("cpu", torch.float32).clone()
        self._groups = self.layout.groups()
        self._mean = torch.zeros_like(self.vector)
        own = MODEL.rstrip("/")  # weight decay is for the module's own parameters
        self._optimizer = OuterOptimizer(
            options.optimizer,
            {name: self.vector[span] for name, span in self._groups.items()},
            options.lr,
            options.momentum,
            {name: options.weight_decay if name == own else 0.0 for name in self._groups},
        )

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
        torch.div(gradient.vector, gradient.tasks, out=self._mean)
        norm = euclidean_norm(self._mean)
        factor = schedule_factor(self._options, self.step, self._steps)
        outcome = Outcome(norm, self._options.lr * factor, gradient.nonfinite)
        if gradient.nonfinite or not math.isfinite(norm):
            return outcome
        self._clip(norm)
        self._optimizer.rates = {name: self._rate(name) * factor for name in self._groups}
        self._optimizer.step({name: self._mean[span] for name, span in self._groups.items()})
        self.step += 1
        return outcome

    def skip(self) -> None:
        """Count a step that changed nothing."""
        self.step += 1

    def optimizer_state(self) -> dict[str, Any]:
        """The outer optimizer's state, as torch.optim gives it."""
        return self._optimizer.state_dict()

    def restore(self, step: int, meta: Meta, optimizer: Mapping[str, Any]) -> None:
        """Continue from a checkpoint.

        Raises:
            StorageError: its meta-parameters or its optimizer's state are not this run's.
        """
        check_layout(self.layout, meta)
        state = self._checked(optimizer)
        self.step = step
        self.vector.copy_(self.layout.flatten(meta))
        self._optimizer.load_moments(state)

    def _checked(self, optimizer: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
        """An optimizer's state by group, of the names and shapes that this optimizer has."""
        names = MOMENTS[self._options.optimizer]
        spans = list(self._groups.values())
        state = optimizer.get("state")
        fits = isinstance(state, dict) and all(
            key in range(len(spans))
            and isinstance(moments, dict)
            and moments.keys() == names.keys()
            and all(_is_moment(moments[name], spans[key], names[name]) for name in names)
            for key, moments in state.items()
        )
        if not fits:
            raise StorageError(
                f"the checkpoint's optimizer state is not that of outer.optimizer = {self._options.optimizer} with "
                "these meta-parameters; use another checkpoint"
            )
        assert isinstance(state, dict)
        return dict(state)

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


def _is_moment(value: Any, span: slice, each: bool) -> bool:
    shape = (span.stop - span.start,) if each else ()
    return value is None or (isinstance(value, Tensor) and value.shape == shape and value.dtype == torch.float32)


def check_layout(expected: Layout, meta: Meta) -> None:
    """Refuse meta-parameters of other names, shapes or types than a configuration's.

    Raises:
        StorageError: naming the first that differs.
    """
    found = Layout.of(meta)
    known, there = (dict(zip(each.names, each.shapes, strict=True)) for each in (expected, found))
    for name in (*known, *there):
        if known.get(name) != there.get(name):
            wants, holds = (f"of shape {list(each[name])}" if name in each else "absent" for each in (known, there))
            raise StorageError(
                f"the checkpoint does not fit the configuration: meta-parameter {shown(name)[1:-1]} is {holds}, but "
                f"should be {wants}; use another checkpoint, or the configuration that it was made with"
            )
        if meta[name].dtype != torch.float32:
            raise StorageError(
                f"meta-parameter {shown(name)[1:-1]} of the checkpoint is of {meta[name].dtype}, and should be of "
                "torch.float32; use another checkpoint"
            )


def euclidean_norm(vector: Tensor) -> float:
    """Norm of a (P,) float32 vector in float64, to the same bits for any number of threads.

    Torch converts to float64 in a copy, and splits one long sum by threads; so the vector is taken in blocks that stay
    in the cache, and each block in rows, of which a thread adds whole ones.

    >>> euclidean_norm(torch.tensor([3.0, 4.0]))
    5.0
    """
    norms: list[float] = []
    for block in torch.split(vector, NORM_BLOCK):
        whole = len(block) - len(block) % NORM_ROW
        rows = block[:whole].view(-1, NORM_ROW)
        norms += torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64).tolist()
        norms.append(float(torch.linalg.vector_norm(block[whole:], dtype=torch.float64)))
    return math.hypot(*norms)
