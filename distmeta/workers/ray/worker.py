"""What runs in a Ray actor: a worker, and the file_server that hands the driver's files to other hosts."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import torch

from distmeta.config.schema import Config
from distmeta.core.plan import Plan
from distmeta.core.records import MetaState, Shard, TaskMetrics
from distmeta.programs.deciding import RunPlan
from distmeta.workers.bundle import Bundle, check_code, unpack
from distmeta.workers.shared import SharedAddress, SharedRow, SharedRows
from distmeta.workers.worker import Worker


@dataclass(frozen=True)
class Opened:
    """What a worker says when it is ready.

    Attributes:
        fingerprint: what decides its rounding.
        plan: how it computes.
        shares: whether it has found the driver's vectors in this host's memory.
    """

    fingerprint: dict[str, Any]
    plan: Plan
    shares: bool


CALLS = 4
"""Calls that an actor answers at once: while one computes, Ray brings arguments of others and takes results away."""


@ray.remote(max_concurrency=CALLS)
class RayWorker:
    """A :class:`~distmeta.workers.worker.Worker` behind Ray.

    Vectors travel as NumPy arrays, which Ray reads without a copy.

    All computing is done in one thread, one call after the other: a number of threads is torch's setting of a thread.
    """

    def __init__(self, driver: str, environment: Mapping[str, str]) -> None:
        self._at_home = ray.util.get_node_ip_address() == driver
        if self._at_home:  # elsewhere the driver's folders mean nothing
            os.environ.update(environment)
        self._computing = ThreadPoolExecutor(max_workers=1, thread_name_prefix="compute")
        self._worker: Worker
        self._shared: SharedRows | None = None

    def arrive(self) -> str:
        """The node that this worker has come to."""
        return str(ray.get_runtime_context().get_node_id())

    def prepare(self, config: Config, bundle: Bundle, file_server: Any) -> None:
        """Open data and model: all that needs no plan, so that workers do it while another one decides the plan."""
        if self._at_home:
            check_code(bundle, config)
        else:
            config = unpack(bundle, config, lambda *place: ray.get(file_server.read.remote(*place)))
        self._worker = self._computing.submit(Worker, config).result()

    def open(self, given: Plan | RunPlan | None, shared: SharedAddress | None) -> Opened:
        """Follow the given plan; decide one where there is none yet, or the given one does not serve."""
        self._shared = SharedRows.at(shared)
        return self._computing.submit(self._open, given).result()

    def _open(self, given: Plan | RunPlan | None) -> Opened:
        plan = self._worker.settle(given)
        self._worker.follow(plan)
        return Opened(self._worker.fingerprint(), plan, self._shared is not None)

    def gradient(
        self,
        step: int,
        vector: np.ndarray | SharedRow,
        shards: Sequence[Shard],
        ahead: Sequence[Shard],
        back: SharedRow | None,
    ) -> dict[str, Any]:
        """The sum's fields; while it is computed, shards of the next step are sampled.

        Plain values: a class of torch's, an empty tensor too, takes longer to send than all else.

        Args:
            step: of the meta-parameters.
            vector: the meta-parameters, or where they lie in shared memory.
            shards: whose gradients are added.
            ahead: shards of the next step that this worker will begin with.
            back: where the sum's vector is wanted in shared memory; among the fields otherwise.
        """
        computing = self._computing.submit(self._worker.gradient, self._state(step, vector), shards)
        self._worker.prefetch(ahead)
        total = computing.result()
        if back is None:
            return {**vars(total), "vector": total.vector.numpy()}
        assert self._shared is not None
        self._shared.write(back, total.vector.numpy())
        return {**vars(total), "vector": None}

    def evaluate(self, step: int, vector: np.ndarray | SharedRow, shard: Shard, details: bool) -> TaskMetrics:
        """A shard's measurements."""
        state = self._state(step, vector)
        return self._computing.submit(self._worker.evaluate, state, shard, details=details).result()

    def _state(self, step: int, vector: np.ndarray | SharedRow) -> MetaState:
        if isinstance(vector, SharedRow):
            assert self._shared is not None
            vector = self._shared.read(vector)
        return MetaState(step, view(vector))


@ray.remote
class FileServer:
    """Reads the driver's files, on its host, for workers elsewhere."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle

    def read(self, name: str, offset: int, length: int) -> bytes:
        """A part of one of the bundle's files."""
        with self._bundle.files[name].path.open("rb") as file:
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
