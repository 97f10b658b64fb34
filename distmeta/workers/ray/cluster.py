"""The Ray cluster that a run works on: reaching or starting it, what fits on it, its nodes, its autoscaler."""

from __future__ import annotations

import logging
import math
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import ray
from ray.autoscaler.sdk import request_resources

from distmeta.config.schema import Config
from distmeta.config.sections import WorkerRange
from distmeta.errors import ClusterError, DistmetaError
from distmeta.workers.ray.internals import draining_nodes, most_resources, on_loopback, silence_errors
from distmeta.workers.ray.private import Connection
from distmeta.workers.ray.tmpdir import check_tmpdir

RAY_VARIABLES = {
    "RAY_SCHEDULER_EVENTS": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",  # a worker's exceptions are told once, by the transport
}
"""Ray's own chatter, off unless the user's environment says otherwise."""

NODE_LABEL = "ray.io/node-id"
"""Ray's own label of a node."""

ROUNDING = 1e-6
"""Fractions of a GPU that add up to one may fall short of it by as much."""

_made_ahead: list[Connection] = []
"""Connections that nobody has asked for yet."""


@contextmanager
def connected_ahead(config: Config, modules: Sequence[str]) -> Iterator[None]:
    """Connect to the configured cluster while a thread imports modules; the first :func:`connect` then takes it over.

    To start Ray is mostly to wait for its processes, and this thread has to do it: they end with the thread that has
    started them.

    Raises:
        ClusterError: see :func:`connect`.
    """
    with ThreadPoolExecutor(1, "imports") as executor:
        imported = executor.map(import_module, modules)
        connection = connect(config)
    if connection is not None:
        _made_ahead.append(connection)
    try:
        list(imported)
        yield
    finally:
        if connection in _made_ahead:  # the run has ended before it had a use for it
            _made_ahead.remove(connection)
            connection.close()


def connect(config: Config) -> Connection | None:
    """Connect to the configured cluster, or start a private one on this machine.

    Returns:
        What the caller has to close; ``None`` where the process was connected before.

    Raises:
        ClusterError: there is no cluster at the address, or the process is connected to another one.
    """
    if _made_ahead:
        return _made_ahead.pop()
    if ray.is_initialized():
        _check_same(config.cluster.address)
        return None
    connection = Connection()
    for name, value in RAY_VARIABLES.items():
        os.environ.setdefault(name, value)
    address = _address(config)
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        if address is None:
            check_tmpdir()
            connection.start_private(_cores(config), **quiet)
        else:
            with on_loopback() if _only_on_loopback(address) else nullcontext():
                ray.init(address=address, **quiet)
        silence_errors()  # on standard output are results; the transport tells of lost workers once
        connection.made()
    except BaseException as error:
        connection.close()
        # Of any class: a Ray that takes too long to start raises a bare Exception.
        if isinstance(error, DistmetaError) or not isinstance(error, Exception):
            raise
        where = f"at {address}" if address else "on this machine"
        raise ClusterError(
            f"cannot {'reach' if address else 'start'} Ray {where}: {first_line(error)}. Check cluster.address and "
            "RAY_AUTH_MODE (as the cluster was started), or use cluster.workers=0 to compute in this process"
        ) from None
    finally:
        # Ray takes SIGTERM for itself, in C++ too, and then the process would abort without a checkpoint.
        if callable(on_sigterm) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)
    return connection


def _check_same(address: str | None) -> None:
    """Refuse an address that is not that of the cluster to which this process is connected already."""
    host, _, port = (address or "").rpartition(":")
    if not host or not port.isdigit() or host.startswith("ray:"):
        return
    there = ray.get_runtime_context().gcs_address
    its_host, _, its_port = there.rpartition(":")
    if port != its_port or (host != its_host and not _is_loopback(host.strip("[]"))):
        raise ClusterError(
            f"this process is connected to the Ray cluster at {there} already, so it cannot use the one at {address}; "
            "call ray.shutdown() first, or leave the address out"
        )


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


def _address(config: Config) -> str | None:
    return config.cluster.address or os.environ.get("RAY_ADDRESS")


def _cores(config: Config) -> int:
    """CPUs of a private cluster: as many as the configured workers ask for, since Ray starts a process for each."""
    workers = config.cluster.workers
    if workers == "auto":
        return len(os.sched_getaffinity(0))
    count = workers.max if isinstance(workers, WorkerRange) else workers
    return math.ceil(count * config.cluster.cpus_per_worker)


def _only_on_loopback(address: str) -> bool:
    """Whether a cluster listens at this address, which is loopback, and not at the machine's own address.

    Raises:
        OSError: nothing listens there; Ray itself would try for a long time.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    host = host.strip("[]")
    if address in ("auto", "local") or not host or not port.isdigit():
        return False
    _knock(host, int(port))
    if not _is_loopback(host):
        return False
    try:
        _knock(ray.util.get_node_ip_address(), int(port))
    except OSError:
        return True
    return False


def _knock(host: str, port: int) -> None:
    socket.create_connection((host, port), timeout=5).close()


@dataclass(frozen=True)
class Changes:
    """What has happened to the cluster's nodes since the last look: their addresses.

    Attributes:
        joined: nodes that are new.
        lost: nodes that are gone without having been drained.
    """

    joined: list[str]
    lost: list[str]


class Cluster:
    """What a run's workers may use, and how many there should be.

    Args:
        config: the resolved configuration.

    Attributes:
        need: resources of a worker.
        private: whether this run started the cluster, on this machine alone.
        turned_away: nodes whose workers this run cannot use.
        least: workers without which the run does not start.

    Raises:
        ClusterError: no cluster at the address, or one that can never hold the configured number of workers.
    """

    def __init__(self, config: Config) -> None:
        self._connection = connect(config)
        options = config.cluster
        self.private = self._connection is not None and not _address(config)
        self.need = {"CPU": options.cpus_per_worker, "GPU": self._gpus_each(config)}
        self.turned_away: set[str] = set()
        self._drained: set[str] = set()
        self._nodes = self._alive()
        self._asked = False
        workers = options.workers
        self.least = workers.min if isinstance(workers, WorkerRange) else 1 if workers == "auto" else workers
        self._most = workers.max if isinstance(workers, WorkerRange) else math.inf if workers == "auto" else workers
        if isinstance(workers, int):
            self._check_room(workers)
        self._ask()

    @property
    def wanted(self) -> int:
        """Workers that there should be now: as many as the configuration allows and live nodes hold."""
        return int(max(self.least, min(self._most, self._capacity())))

    def placement(self) -> dict[str, Any]:
        """Options of an actor that keep it off nodes that were turned away."""
        away = sorted(self.turned_away & set(self._nodes))
        return {"label_selector": {NODE_LABEL: f"!in({','.join(away)})"}} if away else {}

    def look(self) -> Changes:
        """Look at the nodes again."""
        draining = set(self.draining())
        self._drained |= draining
        before, self._nodes = self._nodes, self._alive()
        joined = [node["NodeManagerAddress"] for name, node in self._nodes.items() if name not in before]
        gone = {name: node for name, node in before.items() if name not in self._nodes}
        lost = [node["NodeManagerAddress"] for name, node in gone.items() if name not in self._drained]
        return Changes(joined, lost)

    def holds(self, node: str) -> bool:
        """Whether a node was there at the last look."""
        return node in self._nodes

    def announced(self, node: str) -> bool:
        """Whether a node had said that it would leave."""
        return node in self._drained

    def draining(self) -> dict[str, float]:
        """Nodes that are about to leave, and the seconds that they have left (infinite where nobody said)."""
        return {name: at / 1000 - time.time() if at else math.inf for name, at in draining_nodes().items()}

    def free(self) -> int:
        """Workers for which the cluster has room now."""
        return fit(ray.available_resources(), self.need)

    def describe(self) -> str:
        """What the cluster has, and what of it is free, for people."""
        total, free = ray.cluster_resources(), ray.available_resources()
        kinds = [kind for kind, each in self.need.items() if each]
        return " and ".join(f"{free.get(kind, 0):g} of {total.get(kind, 0):g} {kind} free" for kind in kinds)

    def close(self) -> None:
        """Take back what the autoscaler was asked for, and disconnect."""
        if self._asked and ray.is_initialized():
            request_resources(bundles=[])
        if self._connection is not None:
            self._connection.close()

    def _ask(self) -> None:
        """Tell the autoscaler how many workers there may be; without one this is a note that nobody reads."""
        if self._most < math.inf and self._capacity() < self._most:
            bundle = {kind: each for kind, each in self.need.items() if each}
            request_resources(bundles=[bundle] * int(self._most))
            self._asked = True

    def _alive(self) -> dict[str, Mapping[str, Any]]:
        return {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}

    def _capacity(self) -> int:
        """Workers that live nodes hold, each on one node, whoever else works there now."""
        away = self.turned_away | set(self.draining())
        rooms = [node["Resources"] for name, node in self._nodes.items() if name not in away]
        return sum(fit(room, self.need) for room in rooms)

    @staticmethod
    def _gpus_each(config: Config) -> float:
        """GPUs of a worker: as configured, else one where the cluster has or may get any and the device may be one."""
        if config.cluster.gpus_per_worker is not None:
            return config.cluster.gpus_per_worker
        return 1.0 if config.run.device != "cpu" and may_hold().get("GPU") else 0.0

    def _check_room(self, count: int) -> None:
        """Refuse a number that neither the cluster nor its autoscaler can reach."""
        there = may_hold()
        short = [kind for kind, each in self.need.items() if count * each > there.get(kind, 0) + ROUNDING]
        if short:
            asked = ", ".join(f"{count * self.need[kind]:g} {kind}" for kind in short)
            has = ", ".join(f"{there.get(kind, 0):g} {kind}" for kind in short)
            self.close()
            raise ClusterError(
                f"cluster.workers = {count} ask for {asked}, and the cluster has {has}; ask for fewer workers, for "
                "less in cluster.cpus_per_worker and cluster.gpus_per_worker, or for {min: 1, max: "
                f"{count}}}, which waits for nodes to join"
            )


def fit(room: Mapping[str, float], need: Mapping[str, float]) -> int:
    """How many workers a node holds that need so much each; a part of a GPU is a part of one GPU.

    >>> fit({"CPU": 8.0, "GPU": 2.0}, {"CPU": 1.0, "GPU": 0.6})
    2
    """
    counts = []
    for kind, each in need.items():
        there = room.get(kind, 0)
        if kind == "GPU" and 0 < each < 1:
            counts.append(int(there) * int(1 / each + ROUNDING))
        elif each:
            counts.append(int(there / each + ROUNDING))
    return min(counts)


def may_hold() -> dict[str, float]:
    """Resources that the cluster has, or that its autoscaler may bring it to."""
    total = dict(ray.cluster_resources())
    for kind, most in most_resources().items():
        total[kind] = max(total.get(kind, 0), most)
    return total


def first_line(error: Exception) -> str:
    """What an error says in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
