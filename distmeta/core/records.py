"""The few frozen records that cross processes.

Shape letters, here and elsewhere: T tasks, S support examples a task, Q query examples a task, P meta-parameters
(the length of the flat vector), K inner steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Union

if TYPE_CHECKING:
    from torch import Tensor

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

FAULTS = (
    "workers_lost",  # died
    "workers_hung",  # did not answer in time
    "workers_failed",  # raised again and again on one shard, and were replaced
    "workers_drained",  # left since their node was about to
    "nodes_lost",
    "nodes_joined",
    "shards_redone",  # computed again, their worker being gone
    "shards_failed",  # raised an error, and were computed again
    "shards_duplicated",  # given to a second worker because the first was slow
    "steps_skipped",  # had a loss or meta-gradient that was not finite
    "driver_restarts",  # times that the run was resumed from a checkpoint
)
"""What a run counts, in ``result.json`` and in the metrics. A transport may count more."""

Inputs = Union["Tensor", Mapping[str, "Tensor"]]
"""What a module gets of some examples: one tensor, or tensors by name, each (N, ...), as keyword arguments."""


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of an example.

    Attributes:
        shape: without the dimension of examples.
        dtype: torch's name of its type, ``float32`` or ``int64`` for example.
        values: of tokens and other whole numbers that stand for something: they are 0 ... values - 1; ``None`` where
            that is not known.
        weights: how much each of these values tells at first, inverse document frequencies for example; none where all
            are alike.
    """

    shape: tuple[int, ...]
    dtype: str = "float32"
    values: int | None = None
    weights: tuple[float, ...] = ()

    def zeros(self, count: int) -> Tensor:
        """So many examples of zeros."""
        import torch

        return torch.zeros(count, *self.shape, dtype=getattr(torch, self.dtype))


InputSpec = TensorSpec | Mapping[str, TensorSpec]
"""What a module gets of one example."""


def shapes_of(inputs: InputSpec) -> Any:
    """The shape of an example's only input, or the shapes by name."""
    if isinstance(inputs, TensorSpec):
        return inputs.shape
    return {name: each.shape for name, each in inputs.items()}


def zeros_of(inputs: InputSpec, count: int) -> Inputs:
    """So many examples of zeros, as a module gets them."""
    if isinstance(inputs, TensorSpec):
        return inputs.zeros(count)
    return {name: each.zeros(count) for name, each in inputs.items()}


Data = Mapping[str, "Tensor"]
"""Named tensors of one task (no task dimension) or of several (leading dimension T)."""


WEIGHT = "weight"
"""Beside inputs and targets of unequal tasks: what each example weighs (N,), 0 for padding."""

CLASS = "class_id"
"""Beside inputs and targets, where it is asked for: which of all classes of its split an example is of (N,)."""

NO_INPUTS = ("y", WEIGHT, CLASS)
"""What stands beside the inputs in a task's data."""


def inputs_of(data: Data) -> Inputs:
    """The inputs among a task's data: ``x`` where it stands there, else all but targets, weights and classes.

    >>> inputs_of({"x": 1, "y": 2}), inputs_of({"tokens": 1, "mask": 3, "y": 2, "weight": 4})
    (1, {'tokens': 1, 'mask': 3})
    """
    if "x" in data:
        return data["x"]
    return {name: value for name, value in data.items() if name not in NO_INPUTS}


@dataclass(frozen=True)
class TaskBatch:
    """Consecutive or arbitrary tasks, stacked.

    Attributes:
        ids: (T,) int64, the tasks' global ids.
        support: named tensors, each (T, S, ...): the inputs, ``x`` where there is one, and the targets ``y``.
        query: named tensors, each (T, Q, ...), of the same names.
    """

    ids: Tensor
    support: Data
    query: Data


@dataclass(frozen=True)
class TaskMetrics:
    """Measurements of single tasks.

    Attributes:
        ids: (T,) int64.
        values: named (T,) float64 tensors, for example ``loss``, ``accuracy``, ``accuracy_inductive``.
        by_step: (T, K + 1) float64, the objective's metric after 0, 1, ..., K inner steps; ``None`` where the
            adaptation has no steps or they were not asked for.
    """

    ids: Tensor
    values: Mapping[str, Tensor]
    by_step: Tensor | None = None


@dataclass(frozen=True)
class Shard:
    """A unit of work: consecutive tasks of one split.

    Attributes:
        index: position among the shards of its meta-batch (0, 1, ...).
        split: which distribution the ids belong to.
        start: first task id.
        count: number of tasks.
    """

    index: int
    split: Split
    start: int
    count: int

    @property
    def ids(self) -> range:
        """The task ids of this shard."""
        return range(self.start, self.start + self.count)


@dataclass(frozen=True)
class StepRecord:
    """What one meta-step did; the training loop yields one of these a step.

    Attributes:
        step: number of meta-steps done, this one included (1, 2, ...).
        tasks: tasks consumed so far in the whole run.
        metrics: means over this step's meta-batch, for example ``loss`` and ``accuracy`` after adaptation.
        gradient_norm: Euclidean norm of the mean meta-gradient before clipping.
        learning_rate: outer learning rate used in this step.
        seconds: wall-clock time of the step.
        tasks_per_second: this step's tasks over its seconds.
        workers: workers at work in this step (1 in process).
        skipped: true where a non-finite meta-gradient was skipped instead of applied.
        validation: mean of every meta-validation metric where this step was followed by a validation.
        faults: counts of the whole run so far, by the names of :data:`FAULTS`.
        shares: where the time went. Parts of the workers' time in this step: ``compute`` of meta-gradients, ``data``
            waiting for tasks, ``waiting`` without work. ``aggregation``: part of the step's own time that the learner
            spent on adding gradients up and on the outer step, mostly while workers compute.
        outer: what else the outer step tells of itself.
    """

    step: int
    tasks: int
    metrics: Mapping[str, float]
    gradient_norm: float
    learning_rate: float
    seconds: float
    tasks_per_second: float
    workers: int
    skipped: bool = False
    validation: Mapping[str, float] | None = None
    faults: Mapping[str, int] = field(default_factory=dict)
    shares: Mapping[str, float] = field(default_factory=dict)
    outer: Mapping[str, float] = field(default_factory=dict)
