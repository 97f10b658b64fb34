"""What workers are asked for, and what they answer: data, so that a new outer step needs no new message."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from distmeta.core.hashing import sha256
from distmeta.core.records import TaskMetrics

if TYPE_CHECKING:
    from torch import Tensor

THETA = "theta"
"""The meta-parameters among the vectors of a :class:`Start`."""

MEASUREMENTS = {"validate": False, "test": True}
"""Requests that are answered task by task, and whether with details; a worker keeps nothing of them."""


COUNTED = "_tasks"
"""Ends the name of a sum that counts the tasks which have the figure that the rest of its name says."""


@dataclass(frozen=True)
class Start:
    """The vectors that a meta-step begins with, on which its sample may depend.

    Attributes:
        step: meta-steps done so far.
        vectors: float32 vectors by name: ``theta``, (P,), every meta-parameter in the order of the run's
            :class:`~distmeta.core.layout.Layout`, and whatever else the sample depends on.
        digest: of the vectors' content. Empty where nothing but one request follows, and nothing has to be kept for
            others.
    """

    step: int
    vectors: Mapping[str, Tensor]
    digest: str = ""

    @classmethod
    def of(cls, step: int, theta: Tensor) -> Start:
        """A start with meta-parameters alone."""
        return cls(step, {THETA: theta})

    @property
    def theta(self) -> Tensor:
        """The meta-parameters (P,)."""
        return self.vectors[THETA]

    def kept(self) -> Start:
        """The same with its digest, so that workers keep what they sample for the next request of the meta-step."""
        content = sha256(b"".join(name.encode() + value.numpy().tobytes() for name, value in self.vectors.items()))
        return replace(self, digest=content[:16])


@dataclass(frozen=True)
class Request:
    """What is wanted of every task of a meta-batch.

    Attributes:
        name: what is wanted; a program says what it knows: ``gradient``, ``curvature``, ``compare``, and the
            :data:`MEASUREMENTS`.
        start: the meta-step's beginning.
        vectors: the request's own float32 vectors, a direction or a candidate.
        values: numbers by name.
    """

    name: str
    start: Start
    vectors: Mapping[str, Tensor] = field(default_factory=dict)
    values: Mapping[str, float] = field(default_factory=dict)

    @property
    def step(self) -> int:
        """Meta-steps done so far."""
        return self.start.step

    @property
    def measures(self) -> bool:
        """Whether it is answered task by task."""
        return self.name in MEASUREMENTS


@dataclass(frozen=True)
class Answer:
    """SUMS over tasks with their count; the mean is taken once, at the outer step.

    Attributes:
        vectors: float32 sums over the tasks, by name.
        sums: sums over the tasks of numbers, in float64: measurements, and other denominators where there are any.
        tasks: number of tasks in the sums.
        rows: measurements task by task, of requests that ask for them.
        nonfinite: ids of the tasks whose result was not finite.
        seconds: what the workers' time went to, summed: ``compute``, and ``data`` waiting for tasks.
        found: how many of the shards had their sample in the worker's memory.
    """

    vectors: Mapping[str, Tensor]
    sums: Mapping[str, Any]
    tasks: int
    rows: TaskMetrics | None = None
    nonfinite: tuple[int, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    found: int = 0

    @property
    def vector(self) -> Tensor:
        """Its only vector."""
        (vector,) = self.vectors.values()
        return vector

    def mean(self, name: str) -> float:
        """The mean over the tasks of one of the sums; over those that have the figure, where that is counted."""
        count = float(self.sums.get(name + COUNTED, self.tasks))
        return float(self.sums[name]) / count if count else math.nan

    def means(self) -> dict[str, float]:
        """The means of all sums; counts as they are.

        >>> Answer({}, {"loss": 6.0, "auroc": 1.5, "auroc_tasks": 2.0}, 3).means()
        {'loss': 2.0, 'auroc': 0.75, 'auroc_tasks': 2.0}
        """
        counts = {name + COUNTED for name in self.sums} & set(self.sums)
        return {name: float(total) if name in counts else self.mean(name) for name, total in self.sums.items()}


def add(a: Answer, b: Answer, into: Answer | None = None) -> Answer:
    """The sum over the tasks of both; its vectors take the memory of those of ``into``, where given."""
    import torch

    out: Mapping[str, Tensor | None] = {} if into is None else into.vectors
    vectors = {name: torch.add(value, b.vectors[name], out=out.get(name)) for name, value in a.vectors.items()}
    sums = {name: total + b.sums[name] for name, total in a.sums.items()}
    seconds = {name: spent + b.seconds[name] for name, spent in a.seconds.items()}
    found = a.found + b.found
    return Answer(vectors, sums, a.tasks + b.tasks, None, a.nonfinite + b.nonfinite, seconds, found)
