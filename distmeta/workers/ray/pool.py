"""The workers of a run: started, opened, replaced, and sent away as the cluster's nodes come and go."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Collection, MutableMapping
from dataclasses import dataclass
from typing import Any, cast

import ray
from ray.exceptions import (
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayTaskError,
    WorkerCrashedError,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from distmeta.config.schema import Config
from distmeta.core.plan import Plan
from distmeta.errors import ClusterError, DistmetaError
from distmeta.programs.deciding import RunPlan
from distmeta.workers.base import Check
from distmeta.workers.bundle import pack, values_of
from distmeta.workers.pace import Clock, WorkerSlot
from distmeta.workers.ray.cluster import Cluster, first_line
from distmeta.workers.ray.worker import FileServer, Opened, RayWorker
from distmeta.workers.shared import SharedAddress

log = logging.getLogger(__name__)

LOST = (RayActorError, OutOfMemoryError, NodeDiedError, WorkerCrashedError, ObjectLostError)
"""What Ray raises for a worker that is gone; these share no base class of their own."""

POLL = 0.5
"""Seconds between looks at whether the run should end."""

LOOK = 1.0
"""Seconds between looks at the cluster's nodes."""

SAY_AFTER, SAY_AGAIN = 10.0, 60.0
"""Seconds without the workers that are needed after which that is said, and said again."""

PATIENCE = 3
"""Workers that may be lost, one after the other, without one of them having finished anything."""

HURRY = 5.0
"""Seconds before a draining node's deadline at which its workers' items go elsewhere, finished or not."""

OPENING, OPENING_TIMES = 60.0, 10.0
"""A worker that opens is given up after this many seconds, and after so many times what it took others."""

SHARED_ENVIRONMENT = ("DISTMETA_CACHE", "DISTMETA_DATA")
"""Settings of the driver's environment that workers on its own host follow."""


@dataclass(eq=False)
class ActorSlot(WorkerSlot):
    """A slot with its actor.

    Attributes:
        actor: the Ray actor.
        news: ref of its arrival, of its having prepared, then of its being opened; ``None`` when there is nothing to
            wait for.
        node: where it is, once it has arrived.
        prepared: whether it has data and model, and waits for a plan or follows one.
        shares: whether it has the driver's vectors in its memory too.
    """

    actor: Any = None
    news: Any = None
    node: str = ""
    prepared: bool = False
    shares: bool = False


class WorkerPool:
    """Hires as many workers as the configuration allows and the cluster holds.

    A worker waits for a node, arrives, is prepared, ready, perhaps leaving. :meth:`_dismiss` alone removes one: lost
    (:meth:`lose`), of no use (:meth:`_refuse`), node gone (:meth:`_drain`, :meth:`_miss`), too many (:meth:`_hire`).

    Args:
        config: the resolved configuration.
        check: raises when the run should end.
        faults: counts what happens.
        left: told of every worker that is gone, so that its items go to others.
        clock: counts the time that is the workers'.
        shared: where workers on this host find the driver's vectors.

    Attributes:
        slots: workers that are there, or on their way.
        plan: how all of them compute.
        fingerprint: what decides their rounding.
        retired: shards that those who are gone have done.

    Raises:
        ClusterError: no cluster at the address, too few resources, workers of different hardware, or that keep dying.
    """

    def __init__(
        self,
        config: Config,
        check: Check,
        faults: MutableMapping[str, int],
        left: Callable[[ActorSlot], None],
        clock: Clock,
        shared: SharedAddress | None,
    ) -> None:
        self._shared = shared
        self._config, self._check, self._faults, self._left, self._clock = config, check, faults, left, clock
        self.slots: list[ActorSlot] = []
        self.fingerprint: dict[str, Any] = {}
        self.retired: list[int] = []
        self._given: Plan | RunPlan | None = None
        self._plan: Plan | None = None
        self._deciding: ActorSlot | None = None
        self._hired = 0
        self._fruitless = 0
        self._openings: list[float] = []
        self._file_server: Any = None
        self._looked = self._well = time.monotonic()
        self._say_at = SAY_AFTER
        self._cluster = Cluster(config)
        try:
            self._needed = self._cluster.least
            self._hire()  # now, so that they come while the driver prepares what they will open
        except BaseException:
            self.close()
            raise

    def open(self, plan: Plan | RunPlan | None) -> None:
        """Have the workers open data, model and plan; wait for as many as the run needs.

        Args:
            plan: how to compute; otherwise the first worker that has prepared decides, see :meth:`Worker.settle`.
        """
        self._given = plan
        self._plan = plan if isinstance(plan, Plan) else None
        self._bundle = pack(self._config, elsewhere=not self._cluster.private)
        self._well = time.monotonic()
        while len(self.ready) < self._needed:
            self.tend(self.wait([], POLL))
        self._needed = 1  # a run that has begun goes on with whom it has

    @property
    def need(self) -> dict[str, float]:
        """Resources of a worker."""
        return self._cluster.need

    @property
    def plan(self) -> Plan:
        """How all of them compute."""
        assert self._plan is not None, "the first worker decides before the pool is there"
        return self._plan

    @property
    def ready(self) -> list[ActorSlot]:
        """Workers that take work."""
        return [slot for slot in self.slots if slot.ready and not slot.leaving]

    def wait(self, work: Collection[Any], seconds: float) -> list[Any]:
        """Wait for work or for workers' news; all refs that are there.

        From other hosts the values of all of them are fetched at the same time, in the background. Time that the driver
        spends elsewhere is not counted as the workers'.
        """
        self._check()
        refs = [*work, *(slot.news for slot in self.slots if slot.news is not None)]
        there: list[Any] = []
        if refs:
            there, _ = ray.wait(refs, num_returns=len(refs), timeout=0)  # under load many, for the price of one
            if not there:
                there, _ = ray.wait(refs, num_returns=1, timeout=seconds)
        else:
            time.sleep(seconds)
        self._clock.tick()
        return there

    def tend(self, refs: list[Any]) -> None:
        """Take in the news among these refs, look at the nodes now and then, say whom the run waits for."""
        for slot in [slot for slot in self.slots if slot.news is not None and slot.news in refs]:
            self._hear(slot)
        for slot in [slot for slot in self.slots if slot.news is not None and slot.node]:
            limit = max(OPENING, OPENING_TIMES * max(self._openings)) if self._openings else math.inf
            waited = self._clock.now - slot.since
            if slot.news not in refs and waited > limit:
                self.lose(slot, "workers_hung", f"it has not opened in {waited:.0f} s")
        if time.monotonic() - self._looked > LOOK:
            self._look()
        self._say()

    def finished(self, slot: ActorSlot) -> None:
        """A worker has finished some work."""
        self._fruitless = 0

    def lose(self, slot: ActorSlot, fault: str, why: str) -> None:
        """Count a worker that is lost, and start another one."""
        self._faults[fault] += 1
        self._fruitless += not slot.known
        if self._fruitless > max(PATIENCE, len(self.slots)):
            raise ClusterError(
                f"{self._fruitless} workers died one after the other without finishing any work; the last one: {why}. "
                "Look for a lack of memory, or a crash in the model's code, with cluster.workers=0"
            )
        log.warning("worker %d is lost (%s); its work is redone and a new one started", slot.number, why)
        self._dismiss(slot)
        self._hire()

    def close(self) -> None:
        """End the workers, and Ray if it was started here."""
        for actor in [*(slot.actor for slot in self.slots), *([self._file_server] if self._file_server else [])]:
            ray.kill(actor)
        self.slots = []
        self._cluster.close()

    # Hiring -------------------------------------------------------------------------------------------------------

    def _hire(self) -> None:
        """Start the workers that there should be and are not; drop those that wait for room that is gone."""
        wanted = self._cluster.wanted
        while len(self.slots) < wanted:
            self._hired += 1
            actor = self.start()
            self.slots.append(ActorSlot(self._hired, actor=actor, news=actor.arrive.remote()))
        for slot in [slot for slot in reversed(self.slots) if not slot.node][: max(0, len(self.slots) - wanted)]:
            self._dismiss(slot)

    def start(self) -> Any:
        """A new worker's actor, wherever Ray finds room for it."""
        environment = {name: os.environ[name] for name in SHARED_ENVIRONMENT if name in os.environ}
        options = {
            "num_cpus": self.need["CPU"],
            "num_gpus": self.need["GPU"],
            "max_restarts": 0,
            **self._cluster.placement(),
        }
        return cast(Any, RayWorker).options(**options).remote(ray.util.get_node_ip_address(), environment)

    def _prepare(self, slot: ActorSlot) -> None:
        """Have a worker that has arrived open data and model."""
        if self._file_server is None and self._bundle.files:
            here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
            self._file_server = cast(Any, FileServer).options(num_cpus=0, scheduling_strategy=here).remote(self._bundle)
        slot.news = slot.actor.prepare.remote(values_of(self._config), self._bundle, self._file_server)
        slot.since = self._clock.now

    def _hear(self, slot: ActorSlot) -> None:
        """A worker has arrived, prepared or opened, or will not."""
        try:
            said = ray.get(slot.news)
        except RayTaskError as error:
            if not isinstance(error.cause, DistmetaError):
                raise
            self._refuse(slot, error.cause)
        except LOST as error:
            if self._deciding is slot:
                self._deciding = None
            self.lose(slot, "workers_lost", reason(error))
            self._open_prepared()
        else:
            slot.news = None
            if isinstance(said, Opened):
                self._admit(slot, said)
            elif not slot.node:
                slot.node = said
                self._prepare(slot)
            else:
                slot.prepared = True
                self._open_prepared()

    def _open_prepared(self) -> None:
        """Open those who wait for it; without a plan, only the one who decides it."""
        for slot in self.slots:
            if slot.prepared and not slot.ready and slot.news is None and (self._plan or self._deciding is None):
                if self._plan is None:
                    self._deciding = slot
                slot.news = slot.actor.open.remote(self._plan or self._given, self._shared)

    def _admit(self, slot: ActorSlot, opened: Opened) -> None:
        """Let a worker in, if it computes as the others do."""
        if not self.fingerprint:
            self.fingerprint = opened.fingerprint
        elif opened.fingerprint != self.fingerprint and not self._config.cluster.allow_mixed:
            differing = ClusterError(
                f"workers differ in what decides rounding: {self.fingerprint} and {opened.fingerprint}. Results would "
                "depend on which worker computes what; use alike workers, or set cluster.allow_mixed=true to give "
                "that up"
            )
            self._refuse(slot, differing)
            return
        self._openings.append(self._clock.now - slot.since)
        slot.ready, slot.shares = True, opened.shares
        if self._plan is None:
            self._plan = opened.plan
            self._open_prepared()

    def _refuse(self, slot: ActorSlot, error: DistmetaError) -> None:
        """One that joins a run that goes on does not end it by being of no use; its node is left alone."""
        if len(self.ready) < self._needed:
            raise error from None
        log.warning("a worker that joined cannot be used, and its node is left alone: %s", error)
        self._cluster.turned_away.add(slot.node)
        self._dismiss(slot)

    def _dismiss(self, slot: ActorSlot) -> None:
        ray.kill(slot.actor)
        self.slots.remove(slot)
        if slot.ready:
            self.retired.append(slot.done)
        self._left(slot)

    # The cluster --------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """See which nodes have come, gone, or are about to go."""
        changes = self._cluster.look()
        for address in changes.joined:
            self._faults["nodes_joined"] += 1
            log.info("node %s has joined", address)
        for address in changes.lost:
            self._faults["nodes_lost"] += 1
            log.warning("node %s is lost", address)
        for node, seconds in self._cluster.draining().items():
            for slot in [slot for slot in self.slots if slot.node == node]:
                self._drain(slot, seconds)
        for slot in [
            slot for slot in self.slots if slot.ready and not slot.held and not self._cluster.holds(slot.node)
        ]:
            self._miss(slot)
        self._hire()
        self._looked = time.monotonic()

    def _drain(self, slot: ActorSlot, seconds: float) -> None:
        if not slot.leaving:
            log.info("the node of worker %d is about to leave: the worker gets no more work", slot.number)
        slot.leaving = True
        if not slot.held or seconds < HURRY:
            self._faults["workers_drained"] += 1
            self._dismiss(slot)

    def _miss(self, slot: ActorSlot) -> None:
        """A worker without work, which could tell of its end, went with its node."""
        if slot.leaving or self._cluster.announced(slot.node):
            self._drain(slot, 0.0)
        else:
            self.lose(slot, "workers_lost", "its node is gone")

    def _say(self) -> None:
        """Whom the run waits for, once it has waited for a while."""
        now, ready = time.monotonic(), len(self.ready)
        if ready >= self._needed:
            self._well, self._say_at = now, SAY_AFTER
        elif now - self._well > self._say_at:
            self._say_at += SAY_AGAIN
            arrived = sum(bool(slot.node) for slot in self.slots)
            coming = len(self.slots) - arrived
            full = "" if self._cluster.private or self._cluster.free() >= coming else self._cluster.describe()
            log.warning("%s", waiting(ready, self._needed, arrived - ready, coming, full))


def waiting(ready: int, needed: int, opening: int, coming: int, full: str) -> str:
    """What a run waits for, in words.

    Args:
        ready: workers that take work.
        needed: workers without which the run does not go on.
        opening: workers that have started, and open data, model and plan.
        coming: workers that have not started yet.
        full: what the cluster has, where that may be too little for those that come; empty where it is enough.

    >>> waiting(0, 2, 1, 1, "")
    'waiting for workers: 0 of at least 2 are ready; 1 opens data and model, or compiles; 1 is starting'
    """
    parts = [f"waiting for workers: {ready} of at least {needed} are ready"]
    if opening:
        parts.append(
            f"{opening} {'opens' if opening == 1 else 'open'} data and model, or "
            f"{'compiles' if opening == 1 else 'compile'}"
        )
    if coming and full:
        parts.append(
            f"{coming} {'waits' if coming == 1 else 'wait'} for room, unless just starting: the cluster has "
            f"{full}. Nodes that join are used"
        )
    elif coming:
        parts.append(f"{coming} {'is' if coming == 1 else 'are'} starting")
    return "; ".join(parts)


def reason(error: Exception) -> str:
    """Why a worker is gone, in one line."""
    if "No module named 'distmeta'" in str(error):
        return "its host cannot import distmeta; install the same version there, or use distmeta submit"
    return first_line(error)
