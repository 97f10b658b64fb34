"""The transport of single-node mode: one worker in this process, no Ray."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from distmeta.config.schema import Config
from distmeta.core.plan import Plan
from distmeta.core.records import Shard
from distmeta.core.requests import Request
from distmeta.core.tree import Node
from distmeta.programs.cuda import memory_explained
from distmeta.programs.deciding import RunPlan
from distmeta.workers.base import Check, Part, Workers
from distmeta.workers.worker import Worker


class LocalTransport:
    """Runs every shard here, in order."""

    plan: Plan
    fingerprint: dict[str, Any]

    def __init__(self, config: Config, check: Check) -> None:
        self._check = check
        self._worker = Worker(config)
        self._done = 0
        self.faults: dict[str, int] = {}  # what fails here ends the run

    def open(self, plan: Plan | RunPlan | None) -> None:
        """Settle and follow the plan."""
        with memory_explained(None):
            self.plan = self._worker.settle(plan)
        self._worker.follow(self.plan)
        self.fingerprint = self._worker.fingerprint()

    def run(self, request: Request, shards: Sequence[Shard]) -> Iterator[Part]:
        """Answers in the shards' order."""
        for place, shard in enumerate(shards):
            self._check()
            self._worker.prefetch(shards[place + 1 : place + 2])
            with memory_explained(self.plan.chunk):
                answer = self._worker.answer(request, [shard])
            yield Node(0, shard.index), answer
            self._done += 1

    def prefetch(self, shards: Sequence[Shard]) -> None:
        """Sample the first shards in a background thread; the others follow as the first are computed."""
        self._worker.prefetch(shards)

    def beside_workers(self) -> AbstractContextManager[None]:
        """Nothing: the driver and its worker take turns."""
        return nullcontext()

    def workers(self) -> Workers:
        """This process."""
        return Workers(1, [self._done])

    def observe(self, values: Mapping[str, float]) -> None:
        """Nothing: there is no cluster, so nobody looks."""

    def close(self) -> None:
        """Put back the process's settings."""
        self._worker.close()
