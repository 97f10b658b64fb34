"""What runs in a Ray actor: a worker, and the file server that hands the driver's files to other hosts."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Event
from typing import Any

import numpy as np
import ray
import torch

from distmeta.core.plan import Plan
from distmeta.core.records import Shard
from distmeta.core.requests import Answer, Request, Start
from distmeta.programs.deciding import RunPlan
from distmeta.workers.bundle import Bundle, check_code, read_config, unpack
from distmeta.workers.shared import SharedAddress, SharedRow, SharedRows
from distmeta.workers.worker import Worker, shorten_switch_interval


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


@dataclass(frozen=True)
class Head:
    """A request without its vectors, which go by the side.

    Attributes:
        name: of the request.
        step: meta-steps done so far.
        digest: of the start.
        given: names of the start's vectors.
        own: names of the request's vectors.
        values: the request's numbers.
    """

    name: str
    step: int
    digest: str
    given: tuple[str, ...]
    own: tuple[str, ...]
    values: Mapping[str, float]

    @classmethod
    def of(cls, request: Request) -> Head:
        """What there is beside a request's vectors."""
        start = request.start
        return cls(request.name, start.step, start.digest, tuple(start.vectors), tuple(request.vectors), request.values)

    def request(self, vectors: Sequence[torch.Tensor]) -> Request:
        """The request again, with its vectors in the order of :attr:`given` and :attr:`own`."""
        count = len(self.given)
        start = Start(self.step, dict(zip(self.given, vectors[:count], strict=True)), self.digest)
        return Request(self.name, start, dict(zip(self.own, vectors[count:], strict=True)), self.values)


@dataclass(frozen=True)
class Call:
    """All of a call but vectors in Ray's object store. It travels as bytes: Ray takes its time over each argument.

    Attributes:
        head: the request without its vectors.
        shards: of one subtree.
        ahead: shards of the next step that this worker will begin with.
        back: where a vector of this size is wanted in shared memory; among the answer's fields otherwise.
        rows: where the start's and the request's vectors lie in shared memory; ``None`` for each that comes beside.
    """

    head: Head
    shards: Sequence[Shard]
    ahead: Sequence[Shard]
    back: SharedRow | None
    rows: Sequence[SharedRow | None]


CALLS = 4
"""Calls that an actor answers at once: while one computes, Ray brings arguments of others and takes results away."""


@ray.remote(max_concurrency=CALLS)
class RayWorker:
    """A :class:`~distmeta.workers.worker.Worker` behind Ray.

    Vectors travel as NumPy arrays, which Ray reads without a copy.

    All computing is done in one thread, one call after the other: a number of threads is torch's setting of a thread.
    """

    def __init__(self, driver: str, environment: Mapping[str, str]) -> None:
        shorten_switch_interval()
        self._at_home = ray.util.get_node_ip_address() == driver
        if self._at_home:  # elsewhere the driver's folders mean nothing
            os.environ.update(environment)
        self._computing = ThreadPoolExecutor(max_workers=1, thread_name_prefix="compute")
        self._worker: Worker
        self._shared: SharedRows | None = None

    def arrive(self) -> str:
        """The node that this worker has come to."""
        return str(ray.get_runtime_context().get_node_id())

    def prepare(self, values: Mapping[str, Any], bundle: Bundle, file_server: Any) -> None:
        """Open data and model: all that needs no plan, so that workers do it while another one decides the plan."""
        if self._at_home:
            check_code(bundle, values)
            config = read_config(bundle, values)
        else:
            config = unpack(bundle, values, lambda *place: ray.get(file_server.read.remote(*place)))
        self._worker = self._computing.submit(Worker, config).result()

    def open(self, given: Plan | RunPlan | None, shared: SharedAddress | None) -> Opened:
        """Follow the given plan; decide one where there is none yet, or the given one does not serve."""
        self._shared = SharedRows.at(shared)
        return self._computing.submit(self._open, given).result()

    def _open(self, given: Plan | RunPlan | None) -> Opened:
        plan = self._worker.settle(given)
        self._worker.follow(plan)
        return Opened(self._worker.fingerprint(), plan, self._shared is not None)

    def answer(self, packed: bytes, *arrays: np.ndarray) -> dict[str, Any]:
        """The answer's fields; while it is computed, shards of the next step are sampled.

        Plain values: a class of torch's, an empty tensor too, takes longer to send than all else.

        Args:
            packed: a :class:`Call`.
            arrays: the vectors that come beside it.
        """
        call: Call = pickle.loads(packed)
        request = call.head.request(self._vectors(call.rows, arrays))
        self._worker.prefetch(call.shards[1:])  # before what is for the next step
        begun = Event()
        computing = self._computing.submit(self._compute, request, call.shards, begun)
        begun.wait()  # sampling would have Python first, and computing wait for it
        self._worker.prefetch(call.ahead)
        answer = computing.result()
        vectors: dict[str, Any] = {name: vector.numpy() for name, vector in answer.vectors.items()}
        back = call.back
        fitting = [name for name, vector in vectors.items() if back is not None and vector.size == back.size]
        if fitting:
            assert back is not None
            self._shared_rows.write(back, vectors[fitting[0]])
            vectors[fitting[0]] = None
        return {**vars(answer), "vectors": vectors}

    def _compute(self, request: Request, shards: Sequence[Shard], begun: Event) -> Answer:
        begun.set()
        return self._worker.answer(request, shards)

    def _vectors(self, rows: Sequence[SharedRow | None], beside: Sequence[np.ndarray]) -> list[torch.Tensor]:
        rest = iter(beside)
        return [view(next(rest) if row is None else self._shared_rows.read(row)) for row in rows]

    @property
    def _shared_rows(self) -> SharedRows:
        assert self._shared is not None
        return self._shared


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
