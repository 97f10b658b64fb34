"""What runs in a Ray actor: a worker, and the courier that hands the driver's files to other hosts."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import torch

from distmeta.config import Config
from distmeta.plan import Plan, RunPlan
from distmeta.records import MetaState, Shard, TaskMetrics
from distmeta.transports.parcel import Parcel, check_code, unpack
from distmeta.worker import Worker


@dataclass(frozen=True)
class Opened:
    """What a worker says when it is ready.

    Attributes:
        fingerprint: what decides its rounding.
        plan: how it computes.
    """

    fingerprint: dict[str, Any]
    plan: Plan


CALLS = 4
"""Calls that an actor answers at once: while one computes, Ray brings arguments of others and takes results away."""


@ray.remote(max_concurrency=CALLS)
class RayWorker:
    """A :class:`~distmeta.worker.Worker` behind Ray. Vectors travel as NumPy arrays, which Ray reads without a copy.

    All computing is done in one thread, one call after the other: a number of threads is torch's setting of a thread.
    """

    def __init__(self, driver: str, environment: Mapping[str, str]) -> None:
        self._at_home = ray.util.get_node_ip_address() == driver
        if self._at_home:  # elsewhere the driver's folders mean nothing
            os.environ.update(environment)
        self._computing = ThreadPoolExecutor(max_workers=1, thread_name_prefix="compute")
        self._worker: Worker

    def arrive(self) -> str:
        """The node that this worker has come to."""
        return str(ray.get_runtime_context().get_node_id())

    def prepare(self, config: Config, parcel: Parcel, courier: Any) -> None:
        """Open data and model: all that needs no plan, so that workers do it while another one decides the plan."""
        if self._at_home:
            check_code(parcel, config)
        else:
            config = unpack(parcel, config, lambda *place: ray.get(courier.read.remote(*place)))
        self._worker = self._computing.submit(Worker, config).result()

    def open(self, given: Plan | RunPlan | None) -> Opened:
        """Follow the given plan; decide one where there is none yet, or the given one does not serve."""
        return self._computing.submit(self._open, given).result()

    def _open(self, given: Plan | RunPlan | None) -> Opened:
        plan = self._worker.settle(given)
        self._worker.follow(plan)
        return Opened(self._worker.fingerprint(), plan)

    def gradient(
        self, step: int, vector: np.ndarray, shards: Sequence[Shard], ahead: Sequence[Shard]
    ) -> dict[str, Any]:
        """The sum's fields; while it is computed, shards of the next step are sampled.

        Plain values and an array: a class of torch's, an empty tensor too, takes longer to send than all else.
        """
        computing = self._computing.submit(self._worker.gradient, MetaState(step, view(vector)), shards)
        self._worker.prefetch(ahead)
        total = computing.result()
        return {**vars(total), "vector": total.vector.numpy()}

    def evaluate(self, step: int, vector: np.ndarray, shard: Shard, details: bool) -> TaskMetrics:
        """A shard's measurements."""
        state = MetaState(step, view(vector))
        return self._computing.submit(self._worker.evaluate, state, shard, details=details).result()


@ray.remote
class Courier:
    """Reads the driver's files, on its host, for workers elsewhere."""

    def __init__(self, parcel: Parcel) -> None:
        self._parcel = parcel

    def read(self, name: str, offset: int, length: int) -> bytes:
        """A part of one of the parcel's files."""
        with self._parcel.files[name].path.open("rb") as file:
            file.seek(offset)
            return file.read(length)


class _Shown:
    """An array's memory, told of as if it could be written: torch warns of memory that cannot."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array  # keeps the memory
        interface = array.__array_interface__
        self.__array_interface__ = {**interface, "data": (interface["data"][0], False)}


def view(array: np.ndarray) -> torch.Tensor:
    """A tensor on the array's memory. What Ray hands out is read-only, and nothing here writes into it."""
    return torch.from_numpy(np.asarray(_Shown(array)))
