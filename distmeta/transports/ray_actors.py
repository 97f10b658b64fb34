"""The transport of clusters: one Ray actor a worker, shards handed out as workers become free."""

from __future__ import annotations

import logging
import math
import os
import signal
import socket
import threading
import time
import warnings
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import ray
import torch
from ray._private import ray_constants
from ray.exceptions import (
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayTaskError,
    WorkerCrashedError,
)

from distmeta.config import Config
from distmeta.errors import ClusterError, DistmetaError
from distmeta.plan import Plan
from distmeta.records import MetaGradient, MetaState, Shard, TaskMetrics
from distmeta.transports.base import Check, Kind, Part, Workers
from distmeta.transports.ray_metrics import Reporter
from distmeta.tree import Node, cover, share
from distmeta.worker import Worker, keep_freed_memory

log = logging.getLogger(__name__)

LOST = (RayActorError, OutOfMemoryError, NodeDiedError, WorkerCrashedError, ObjectLostError)
"""What Ray raises for a worker that is gone; these share no base class of their own."""

QUIET = {
    "RAY_SCHEDULER_EVENTS": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
}
"""Ray's own chatter, off unless the user's environment says otherwise."""

DEPTH = 2
"""Pieces that a worker holds: one at work, one waiting, so that it never waits for the driver."""

PIECES = 4
"""Pieces a worker that a meta-batch is cut into at least, where it has that many shards and the model is not big."""

BIG = 50_000_000
"""Bytes of meta-parameters from which a vector's way costs more than an uneven share of the work: then a worker sends
one vector a step, or two."""

POLL = 0.5
"""Seconds between looks at whether the run should end."""

SHARED_ENVIRONMENT = ("DISTMETA_CACHE", "DISTMETA_DATA")
"""Settings of the driver's environment that workers on its own host follow."""

PATIENCE = 3
"""Workers that may be lost, one after the other, without a single piece finished between."""


def connect(config: Config) -> bool:
    """Connect to the configured cluster, or start a private one on this machine.

    Returns:
        Whether this call connected, and so has to disconnect; false where the process was connected before.

    Raises:
        ClusterError: there is no cluster at the address.
    """
    if ray.is_initialized():
        return False
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    address = config.cluster.address or os.environ.get("RAY_ADDRESS")
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        if address is None:
            _start_private(_cores(config), quiet)
        else:
            _knock(address)
            ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        where = f"at {address}" if address else "on this machine"
        raise ClusterError(
            f"cannot {'reach' if address else 'start'} Ray {where}: {_first_line(error)}. Check cluster.address and "
            "RAY_AUTH_MODE (as the cluster was started), or use cluster.workers=0 to compute in this process"
        ) from None
    finally:
        # Ray takes SIGTERM for itself, in C++ too, and then the process would abort without a checkpoint.
        if callable(on_sigterm) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)
    return True


def _start_private(cores: int, quiet: Mapping[str, Any]) -> None:
    """Start Ray on this machine's loopback address alone.

    Out of others' reach it needs no token, and leaves none behind in the user's home for later clusters to trip over.
    Ray binds to loopback only where it believes that the platform has no clusters (as on macOS); on Linux it replaces
    127.0.0.1 by the machine's own address.
    """
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    before = ray_constants.ENABLE_RAY_CLUSTER
    os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = "0"
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        ray.init(num_cpus=cores, include_dashboard=False, **quiet)
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
        del os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR]


def _cores(config: Config) -> int:
    """CPUs of a private cluster: this machine's, or as many as the configured workers ask for."""
    workers = config.cluster.workers
    wanted = 0 if workers == "auto" else math.ceil(workers * config.cluster.cpus_per_worker)
    return max(len(os.sched_getaffinity(0)), wanted)


def _knock(address: str) -> None:
    """Fail at once where nothing listens; Ray itself would try for a long time."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if address not in ("auto", "local") and host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()


def gpus_each(config: Config) -> float:
    """GPUs of a worker: as configured, else one where the cluster has any and the device may be one."""
    if config.cluster.gpus_per_worker is not None:
        return config.cluster.gpus_per_worker
    return 1.0 if ray.cluster_resources().get("GPU") and config.run.device != "cpu" else 0.0


def worker_count(config: Config) -> int:
    """How many workers to start; ``auto`` is one a GPU, or one a core where there is none.

    Raises:
        ClusterError: the cluster can never hold them.
    """
    count, total = config.cluster.workers, ray.cluster_resources()
    need = {"CPU": config.cluster.cpus_per_worker, "GPU": gpus_each(config)}
    if count == "auto":
        scarce = "GPU" if need["GPU"] else "CPU"
        return max(1, int(total.get(scarce, 0) // need[scarce]))
    short = [kind for kind, each in need.items() if count * each > total.get(kind, 0)]
    if short:
        asked = ", ".join(f"{count * need[kind]:g} {kind}" for kind in short)
        there = ", ".join(f"{total.get(kind, 0):g} {kind}" for kind in short)
        raise ClusterError(
            f"cluster.workers = {count} ask for {asked}, and the cluster has {there}; ask for fewer workers, or "
            "for less in cluster.cpus_per_worker and cluster.gpus_per_worker"
        )
    return count


@ray.remote
class RayWorker:
    """A :class:`~distmeta.worker.Worker` behind Ray. Vectors travel as NumPy arrays, which Ray reads without a copy."""

    def __init__(self, driver: str, environment: Mapping[str, str]) -> None:
        if ray.util.get_node_ip_address() == driver:  # elsewhere the driver's folders mean nothing
            os.environ.update(environment)
        self._worker: Worker

    def open(self, config: Config, plan: Plan | None) -> tuple[dict[str, Any], Plan]:
        """Open data and model; decide the plan where there is none yet."""
        self._worker = Worker(config)
        plan = plan or self._worker.probe()
        self._worker.follow(plan)
        return self._worker.fingerprint(), plan

    def prefetch(self, shards: Sequence[Shard]) -> None:
        """Begin to sample these shards."""
        self._worker.prefetch(shards)

    @ray.method(num_returns=2)  # type: ignore[untyped-decorator]
    def gradient(self, step: int, vector: np.ndarray, shards: Sequence[Shard]) -> tuple[MetaGradient, np.ndarray]:
        """The sum's small fields, and its vector."""
        total = self._worker.gradient(MetaState(step, _view(vector)), shards)
        return replace(total, vector=torch.empty(0)), total.vector.numpy()

    def evaluate(self, step: int, vector: np.ndarray, shard: Shard, details: bool) -> TaskMetrics:
        """A shard's measurements."""
        return self._worker.evaluate(MetaState(step, _view(vector)), shard, details=details)


@dataclass(eq=False)
class _Seat:
    """A worker's place: its actor, what it holds, and how many shards it has finished.

    Work is held by the ref of its largest result: a gradient's vector. ``fields`` has the ref of what comes with it.
    """

    actor: Any
    opening: Any = None
    ready: bool = False
    held: dict[Any, tuple[Node, list[Shard]]] = field(default_factory=dict)
    fields: dict[Any, Any] = field(default_factory=dict)
    done: int = 0


class RayTransport:
    """Workers on a Ray cluster.

    A worker that dies is replaced and its pieces are computed elsewhere; the tree makes the result the same to the bit.

    Raises:
        ClusterError: no cluster at the address, too few resources, workers of different
            hardware, workers that keep dying.
    """

    def __init__(self, config: Config, plan: Plan | None, check: Check) -> None:
        self._config = config
        self._check = check
        self._connected = connect(config)
        self._reporter: Reporter | None = None
        self._retired: list[int] = []
        self._fruitless = 0
        self._bytes = 0  # of the meta-parameters; known from the first step on
        keep_freed_memory()  # here too, for the sums
        self.faults = {"workers_lost": 0, "shards_redone": 0}
        self.fingerprint: dict[str, Any] = {}
        self._seats: list[_Seat] = []
        try:
            # All processes start together, though only the first may decide the plan.
            actors = [self._start() for _ in range(worker_count(config))]
            self._seats = [_Seat(actor) for actor in actors]
            self.plan = self._open_first(self._seats[0], plan)
            self._open_others(self._seats[1:])
        except BaseException:
            self.close()
            raise

    # Workers ------------------------------------------------------------------------------------------------------

    def _start(self) -> Any:
        cluster = self._config.cluster
        environment = {name: os.environ[name] for name in SHARED_ENVIRONMENT if name in os.environ}
        options = {"num_cpus": cluster.cpus_per_worker, "num_gpus": gpus_each(self._config), "max_restarts": 0}
        return cast(Any, RayWorker).options(**options).remote(ray.util.get_node_ip_address(), environment)

    def _open_first(self, seat: _Seat, plan: Plan | None) -> Plan:
        seat.opening = seat.actor.open.remote(self._config, plan)
        self._wait([seat.opening], f"a worker of {self._config.cluster.cpus_per_worker:g} CPU")
        self.fingerprint, decided = self._get(seat.opening)
        seat.ready = True
        return plan or decided

    def _open_others(self, seats: Sequence[_Seat]) -> None:
        for seat in seats:
            seat.opening = seat.actor.open.remote(self._config, self.plan)
        for number, seat in enumerate(seats, 2):
            self._wait([seat.opening], f"worker {number} of {len(self._seats)}")
            self._admit(seat, self._get(seat.opening)[0])

    def _admit(self, seat: _Seat, fingerprint: dict[str, Any]) -> None:
        """Let a worker in that has opened, if it computes as the others do."""
        if fingerprint != self.fingerprint and not self._config.cluster.allow_mixed:
            raise ClusterError(
                f"workers differ in what decides rounding: {self.fingerprint} and {fingerprint}. Results would depend "
                "on which worker computes what; use alike workers, or set cluster.allow_mixed=true to give that up"
            )
        seat.ready = True

    def _wait(self, refs: list[Any], what: str) -> list[Any]:
        """The refs whose values are on this host, at least one; looks up now and then whether the run should end.

        From other hosts the values of all of them are fetched at the same time, in the background.
        """
        began, said = time.monotonic(), False
        while True:
            self._check()
            ready, _ = ray.wait(refs, num_returns=1, timeout=POLL)
            if ready:
                return list(ready)
            if what and not said and time.monotonic() - began > 10:
                said = True
                log.warning("waiting for %s to start (it may be compiling); the cluster has %s free", what, _free())

    def _get(self, ref: Any) -> Any:
        try:
            return ray.get(ref)
        except RayTaskError as error:
            if isinstance(error.cause, DistmetaError):
                raise error.cause from None
            raise
        except LOST as error:
            raise ClusterError(f"a worker died while it started: {_first_line(error)}") from None

    # Work ---------------------------------------------------------------------------------------------------------

    def run(self, kind: Kind, state: MetaState, shards: Sequence[Shard]) -> Iterator[Part]:
        """Records as they come; a gradient piece is an aligned subtree of shards, summed by its worker."""
        self._bytes = state.vector.nbytes
        vector = ray.put(state.vector.numpy())
        todo = deque((node, [shards[i] for i in node.leaves(len(shards))]) for node in self._cut(kind, len(shards)))
        while todo or any(seat.held for seat in self._seats):
            self._hand_out(kind, state.step, vector, todo)
            refs = [ref for seat in self._seats for ref in seat.held]
            refs += [seat.opening for seat in self._seats if not seat.ready]
            for ref in self._wait(refs, ""):
                part = self._receive(ref, todo)
                if part is not None:
                    yield part

    def _cut(self, kind: Kind, count: int) -> list[Node]:
        """Subtrees: a big model's as large as can be, others' as large as leaves every worker enough to balance."""
        if kind != "gradient":
            return cover(count, 0)
        if self._bytes >= BIG:
            return share(count, len(self._seats))
        return cover(count, max(0, (count // (PIECES * len(self._seats))).bit_length() - 1))

    def _hand_out(self, kind: Kind, step: int, vector: Any, todo: deque[tuple[Node, list[Shard]]]) -> None:
        for held in range(DEPTH):
            for seat in self._seats:
                if todo and seat.ready and len(seat.held) <= held:
                    node, shards = todo.popleft()
                    if kind == "gradient":
                        fields, ref = seat.actor.gradient.remote(step, vector, shards)
                        seat.fields[ref] = fields
                    else:
                        ref = seat.actor.evaluate.remote(step, vector, shards[0], kind == "test")
                    seat.held[ref] = node, shards

    def _receive(self, ref: Any, todo: deque[tuple[Node, list[Shard]]]) -> Part | None:
        seat = next((seat for seat in self._seats if ref in seat.held or ref is seat.opening), None)
        if seat is None:  # its worker was lost a moment ago, with another piece
            return None
        try:
            if ref is seat.opening:
                self._admit(seat, ray.get(ref)[0])
                return None
            record = ray.get(ref)
            if ref in seat.fields:
                record = replace(ray.get(seat.fields[ref]), vector=_view(record))
        except RayTaskError as error:
            if isinstance(error.cause, DistmetaError):
                raise error.cause from None
            raise
        except LOST as error:
            self._replace(seat, todo, error)
            return None
        node, shards = seat.held.pop(ref)
        seat.fields.pop(ref, None)
        seat.done += len(shards)
        self._fruitless = 0
        return node, record

    def _replace(self, seat: _Seat, todo: deque[tuple[Node, list[Shard]]], error: Exception) -> None:
        """Give a dead worker's pieces to others, first in line, and start another worker in its place."""
        lost = list(seat.held.values())
        todo.extendleft(reversed(lost))
        self.faults["workers_lost"] += 1
        self.faults["shards_redone"] += sum(len(shards) for _, shards in lost)
        self._fruitless += 1
        if self._fruitless > PATIENCE:
            raise ClusterError(
                f"{self._fruitless} workers died one after the other without finishing any work; the last one said: "
                f"{_first_line(error)}. Look for a lack of memory, or a crash in the model's code, with "
                "cluster.workers=0"
            )
        log.warning("a worker died (%s); its work is redone and a new one started", _first_line(error))
        ray.kill(seat.actor)
        self._retired.append(seat.done)
        successor = _Seat(self._start())
        successor.opening = successor.actor.open.remote(self._config, self.plan)
        self._seats[self._seats.index(seat)] = successor

    def prefetch(self, shards: Sequence[Shard]) -> None:
        """Ask each worker to sample the shards that it will be handed first."""
        firsts = [shards[node.leaves(len(shards))[0]] for node in self._cut("gradient", len(shards))]
        seats = [seat for seat in self._seats if seat.ready]
        for place, seat in enumerate(seats):
            mine = firsts[place :: len(seats)][:DEPTH]
            if mine:
                seat.actor.prefetch.remote(mine)

    def workers(self) -> Workers:
        """Workers at work now, and shards done by each that ever was."""
        return Workers(len(self._seats), [*self._retired, *(seat.done for seat in self._seats)])

    def observe(self, values: Mapping[str, float]) -> None:
        """Set Ray's gauges of this run."""
        self._reporter = self._reporter or Reporter(self._config.name)
        self._reporter.report(values)

    def close(self) -> None:
        """End the workers, and Ray if it was started here."""
        if self._reporter is not None:
            self._reporter.close()
            self._reporter = None
        for seat in self._seats:
            ray.kill(seat.actor)
        self._seats = []
        if self._connected:
            ray.shutdown()


def _view(array: np.ndarray) -> torch.Tensor:
    """A tensor on the array's memory. What Ray hands out is read-only, and nothing here writes into it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writ")
        return torch.from_numpy(array)


def _free() -> str:
    """What the cluster has left, for people."""
    left = ray.available_resources()
    return " and ".join(f"{left.get(kind, 0):g} {kind}" for kind in ("CPU", "GPU"))


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
