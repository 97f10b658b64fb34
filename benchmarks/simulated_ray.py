"""A stand-in for Ray in one process: simulated workers whose answers are there when they would be.

So the driver can be measured alone against any number of workers: its dispatcher, its sums, its learner. What Ray
itself takes for a message is not in it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from distmeta.config.schema import Config
from distmeta.core.plan import Plan
from distmeta.core.records import Shard
from distmeta.core.requests import Request
from distmeta.core.tree import Node, cover
from distmeta.workers.dispatch import Dispatcher
from distmeta.workers.ray import actors as ray_actors
from distmeta.workers.ray import pool as ray_pool
from distmeta.workers.ray.actors import RayTransport
from distmeta.workers.ray.cluster import Changes
from distmeta.workers.ray.pool import ActorSlot, WorkerPool
from distmeta.workers.ray.worker import Head, Opened

MESSAGE = 0.005
"""Seconds of a worker that a message takes besides its shards, as seen with Ray."""


class Ref:
    """A result that is there from some time on."""

    __slots__ = ("at", "value")

    def __init__(self, value: Any, at: float = 0.0) -> None:
        self.value = value
        self.at = at


class SimulatedActor:
    """A worker that takes so many seconds a shard, and answers with ones.

    Its methods are called as a Ray actor's are: ``actor.answer.remote(...)``.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._free = 0.0
        self._ones = np.ones(0, np.float32)
        for name in ("arrive", "prepare", "open", "answer"):
            setattr(self, name, SimpleNamespace(remote=getattr(self, f"_{name}")))

    def _arrive(self) -> Ref:
        return Ref("here")

    def _prepare(self, *_: Any) -> Ref:
        return Ref(None)

    def _open(self, *_: Any) -> Ref:
        return Ref(Opened({"device": "none"}, Plan(), shares=False))

    def _answer(self, head: Head, shards: Sequence[Shard], ahead: Sequence[Shard], back: None, *vectors: Ref) -> Ref:
        if len(self._ones) != len(vectors[0].value):
            self._ones = np.ones_like(vectors[0].value)
        computing = len(shards) * self._seconds
        self._free = max(self._free, time.perf_counter()) + computing + MESSAGE
        tasks = sum(shard.count for shard in shards)
        sums, seconds = {"loss": 0.0, "accuracy": 0.0}, {"compute": computing, "data": 0.0}
        total = {"vectors": {"gradient": self._ones}, "sums": sums, "tasks": tasks, "seconds": seconds}
        return Ref(total, self._free)


class SimulatedCluster:
    """A cluster that has room for all workers, and of which nothing becomes known later."""

    private = True

    def __init__(self, config: Config) -> None:
        assert isinstance(config.cluster.workers, int)
        self.least = self.wanted = config.cluster.workers
        self.need: Mapping[str, float] = {"CPU": 1.0, "GPU": 0.0}
        self.turned_away: set[str] = set()

    def look(self) -> Changes:
        """Nothing has changed."""
        return Changes([], [])

    def holds(self, node: str) -> bool:
        """Its one node is there."""
        return True

    def draining(self) -> dict[str, float]:
        """None."""
        return {}

    def close(self) -> None:
        """Nothing to give back."""


class SimulatedRay:
    """The functions of ``ray`` that a transport calls.

    Attributes:
        slept: seconds that the driver has waited for workers.
    """

    def __init__(self) -> None:
        self.slept = 0.0

    def put(self, value: Any) -> Ref:
        """A ref of a value."""
        return Ref(value)

    def get(self, refs: Any) -> Any:
        """The value of a ref, or of several."""
        return refs.value if isinstance(refs, Ref) else [ref.value for ref in refs]

    def wait(self, refs: Sequence[Ref], num_returns: int, timeout: float) -> tuple[list[Ref], list[Ref]]:
        """As Ray's, but tells of those only that are there."""
        now = time.perf_counter()
        ready = [ref for ref in refs if ref.at <= now]
        if not ready and timeout:
            first = min((ref.at for ref in refs), default=math.inf)
            time.sleep(max(0.0, min(timeout, first - now)))
            woken = time.perf_counter()
            self.slept += woken - now
            ready = [ref for ref in refs if ref.at <= woken]
        return ready[:num_returns], []

    def kill(self, actor: SimulatedActor) -> None:
        """Nothing runs that would have to end."""


@contextmanager
def simulated_ray() -> Iterator[SimulatedRay]:
    """Put the stand-in in Ray's place; one thread computes, so that the processor's time is the driver's."""
    stand_in, threads = SimulatedRay(), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with (
            patch.object(ray_actors, "ray", stand_in),
            patch.object(ray_pool, "ray", stand_in),
            patch.object(ray_pool, "Cluster", SimulatedCluster),
        ):
            yield stand_in
    finally:
        torch.set_num_threads(threads)


class CutTransport(RayTransport):
    """A run's transport, and how it cuts a step.

    Attributes:
        tree: as a run does; otherwise every shard's vector is sent by itself.
    """

    tree = True

    def _new_dispatcher(
        self, request: Request | None, shards: Sequence[Shard], held: Sequence[tuple[Node, ActorSlot]] = ()
    ) -> Dispatcher[ActorSlot]:
        if self.tree:
            return super()._new_dispatcher(request, shards, held)
        return Dispatcher("gradient", shards, cover(len(shards), 0), self._pace, self.faults)


def simulated_transport(config: Config, seconds: float, tree: bool) -> RayTransport:
    """A run's transport over workers that take so many seconds a shard; with ``tree`` they add up subtrees."""

    class SimulatedPool(WorkerPool):
        def start(self) -> Any:
            return SimulatedActor(seconds)

    class SimulatedTransport(CutTransport):
        pool_of = SimulatedPool

    transport = SimulatedTransport(config, lambda: None)
    transport.tree = tree
    transport.open(None)
    return transport
