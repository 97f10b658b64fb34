"""What a transport is: how shards reach workers and records come back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from distmeta.core.plan import Plan
from distmeta.core.records import Shard
from distmeta.core.requests import Answer, Request
from distmeta.core.tree import Node

if TYPE_CHECKING:  # it brings torch, which what starts Ray beside torch's import does not wait for
    from distmeta.programs.deciding import RunPlan

Part = tuple[Node, Answer]
"""A subtree's answer: the sums of its shards, or one shard's measurements."""


@dataclass(frozen=True)
class Workers:
    """Who did the work.

    Attributes:
        count: workers at work now (1 in process).
        shards_each: shards that each worker, lost ones included, has finished.
    """

    count: int
    shards_each: list[int]


class Transport(Protocol):
    """Runs shards on workers; knows nothing of what they compute.

    Attributes:
        plan: how the workers compute, once it is open.
        fingerprint: what decides the workers' rounding, once it is open.
        faults: counts so far, by names of :data:`~distmeta.core.records.FAULTS` or others; a missing one counts 0.
    """

    plan: Plan
    fingerprint: dict[str, Any]
    faults: dict[str, int]

    def open(self, plan: Plan | RunPlan | None) -> None:
        """Have the workers that are on their way open data, model and plan, and wait for as many as are needed.

        Args:
            plan: of a run that is resumed; of a run that is evaluated, for the first worker to take or to replace;
                ``None`` lets the first worker decide.
        """
        ...

    def run(self, request: Request, shards: Sequence[Shard]) -> Iterator[Part]:
        """Answers in the order in which they come, every shard once."""
        ...

    def prefetch(self, shards: Sequence[Shard]) -> None:
        """Begin to sample the shards that the next :meth:`run` is likely to bring."""
        ...

    def beside_workers(self) -> AbstractContextManager[None]:
        """In it the driver computes with vectors of a step, adds them up for one, and takes no worker's core for it."""
        ...

    def workers(self) -> Workers:
        """Who did the work so far."""
        ...

    def observe(self, values: Mapping[str, float]) -> None:
        """Show what a step measured (see :func:`~distmeta.runs.metrics.flat`) where the cluster's operators look."""
        ...

    def close(self) -> None:
        """Give back everything that was taken."""
        ...


Check = Callable[[], None]
"""Raises ``Interrupted`` when the run should end; called whenever a transport would wait."""
