"""The transport of clusters: shards are handed out to Ray actors as these become free, and again where one is lost."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
import torch
from ray.exceptions import RayTaskError

from distmeta.config.schema import Config
from distmeta.core.plan import Plan
from distmeta.core.records import FAULTS, MetaGradient, MetaState, Shard
from distmeta.core.tree import Node, cover, share
from distmeta.errors import ClusterError, ConfigError, DistmetaError, TaskError
from distmeta.programs.deciding import RunPlan
from distmeta.workers.base import Check, Kind, Part, Workers
from distmeta.workers.dispatch import SOON, Dispatcher
from distmeta.workers.pace import Clock, Pace, WorkItem
from distmeta.workers.ray.metrics import Reporter
from distmeta.workers.ray.pool import LOST, POLL, ActorSlot, WorkerPool, reason
from distmeta.workers.ray.worker import view
from distmeta.workers.shared import Exchange, SharedRow
from distmeta.workers.worker import keep_freed_memory

log = logging.getLogger(__name__)

BIG = 50_000_000
"""Bytes of meta-parameters from which a vector's way costs more than an uneven share of the work: then a worker sends
one vector a step, or two."""

TRIES = 3
"""Exceptions over one item after which a worker is given up."""

EVERYWHERE = 2
"""Workers that have to be given up over one item for it to be the item's fault."""

DEATHS = 3
"""Workers that may die or hang at one item for reasons of their own."""

TEND = 0.1
"""Seconds between looks at the workers that have sent nothing."""


@dataclass(frozen=True)
class _Sent:
    """Work under way, and where its vector is to be in shared memory."""

    slot: ActorSlot
    item: WorkItem
    back: SharedRow | None


class RayTransport:
    """Workers on a Ray cluster.

    A worker that dies, hangs or fails is replaced and its items are computed elsewhere; workers come and go with their
    nodes. The tree makes the result the same to the bit.

    Attributes:
        pool: the workers, of the class ``pool_of``.

    Raises:
        ClusterError: no cluster at the address, too few resources, workers of different hardware, workers that keep
            dying.
        TaskError: the model's code fails on the same tasks wherever they are computed.
    """

    pool_of = WorkerPool

    def __init__(self, config: Config, check: Check) -> None:
        self.faults = dict.fromkeys(FAULTS, 0)
        self._sent: dict[Any, _Sent] = {}
        self._ahead: dict[ActorSlot, list[Shard]] = {}
        self._clock = Clock()
        self._pace = Pace(config.cluster.hang_seconds, self._clock)
        self._dispatcher: Dispatcher[ActorSlot] = Dispatcher("gradient", [], [], self._pace, self.faults)
        self._tended = 0.0
        self._state: MetaState | None = None
        self._row: SharedRow | None = None  # of its vector in shared memory
        self._ref: Any = None  # of its vector in Ray's object store, for workers elsewhere
        self._exchange = Exchange()
        self._name = config.name
        self._reporter: Reporter | None = None
        self._bytes = 0  # of the meta-parameters; known from the first step on
        keep_freed_memory()  # here too, for the sums
        try:
            self.pool = self.pool_of(config, check, self.faults, self._left, self._clock, self._exchange.address)
        except BaseException:
            self._exchange.close()
            raise

    def open(self, plan: Plan | RunPlan | None) -> None:
        """Wait for as many workers as the run needs."""
        self.pool.open(plan)

    @property
    def plan(self) -> Plan:
        """How the workers compute."""
        return self.pool.plan

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What decides the workers' rounding."""
        return self.pool.fingerprint

    def run(self, kind: Kind, state: MetaState, shards: Sequence[Shard]) -> Iterator[Part]:
        """Records as they come; a gradient item is an aligned subtree of shards, summed by its worker."""
        self._bytes = state.vector.nbytes
        self._state, self._ref = state, None
        self._row = self._exchange.publish(state.vector.numpy())
        self._dispatcher = self._new_dispatcher(kind, shards)
        self._dispatcher.enrol(self.pool.slots)
        self._clock.resume()
        while self._dispatcher.unanswered:
            for slot, item in self._dispatcher.assign():
                self._send(slot, item)
            there = self.pool.wait(self._sent, SOON if self._dispatcher.idle else POLL)
            news = [ref for ref in there if ref not in self._sent]
            for ref in there:
                if ref in self._sent and (part := self._receive(ref)) is not None:
                    yield part
            if news or time.monotonic() > self._tended + TEND:
                self._give_up_hung()
                self._tend(news)
        self._ahead = {}

    def prefetch(self, shards: Sequence[Shard]) -> None:
        """Have each worker sample what it will be handed first; it is told with the next work that it gets."""
        firsts = self._new_dispatcher("gradient", shards).first_shards(self.pool.slots)
        self._ahead = dict(firsts)

    @contextmanager
    def beside_workers(self) -> Iterator[None]:
        """One thread for small vectors: a second one gains nothing there, and waits for more on a worker's core."""
        before = torch.get_num_threads()
        if 0 < self._bytes < BIG:
            torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def workers(self) -> Workers:
        """Workers at work now, and shards done by each that ever was."""
        shards_each = [*self.pool.retired, *(slot.done for slot in self.pool.slots if slot.ready)]
        return Workers(len(self.pool.ready), shards_each)

    def observe(self, values: Mapping[str, float]) -> None:
        """Set Ray's gauges of this run."""
        self._reporter = self._reporter or Reporter(self._name)
        self._reporter.report(values)

    def close(self) -> None:
        """End the workers, and Ray if it was started here; before it, what shows this run's figures."""
        try:
            if self._reporter is not None:
                self._reporter.close()
                self._reporter = None
        finally:
            try:
                self.pool.close()
            finally:
                self._exchange.close()

    # Work ---------------------------------------------------------------------------------------------------------

    def _new_dispatcher(self, kind: Kind, shards: Sequence[Shard]) -> Dispatcher[ActorSlot]:
        """A step's work. A big model's is cut once, as large as can be; measurements come shard by shard."""
        count, big = len(shards), self._bytes >= BIG
        if kind != "gradient":
            nodes = cover(count, 0)
        elif big:
            nodes = share(count, max(1, len(self.pool.ready)))
        else:
            nodes = [Node((count - 1).bit_length(), 0)]
        return Dispatcher(kind, shards, nodes, self._pace, self.faults, whole=big)

    def _send(self, slot: ActorSlot, item: WorkItem) -> None:
        assert self._state is not None
        step, vector, back = self._state.step, self._given(slot), None
        if item.kind == "gradient":
            back = self._exchange.take(slot.number, vector.size) if isinstance(vector, SharedRow) else None
            ref = slot.actor.gradient.remote(step, vector, item.shards, self._ahead.pop(slot, ()), back)
        else:
            ref = slot.actor.evaluate.remote(step, vector, item.shards[0], item.kind == "test")
        self._sent[ref] = _Sent(slot, item, back)

    def _free(self, sent: _Sent) -> None:
        """The worker has written its result, or will not."""
        if sent.back is not None:
            self._exchange.give_back(sent.slot.number, sent.back)

    def _given(self, slot: ActorSlot) -> Any:
        """The step's meta-parameters, as this worker gets them."""
        if slot.shares and self._row is not None:
            return self._row
        if self._ref is None:
            assert self._state is not None
            self._ref = ray.put(self._state.vector.numpy())
        return self._ref

    def _tend(self, news: list[Any]) -> None:
        """Take in what workers say of themselves; they come and go."""
        self._tended = time.monotonic()
        try:
            self.pool.tend(news)
        except ConfigError as error:
            for item in self._dispatcher.open():  # what made a worker fail may keep its successor from opening
                if item.trace:
                    raise _everywhere(item, f"one worker, and no other could be opened ({error})") from None
            raise
        self._dispatcher.enrol(self.pool.slots)

    def _receive(self, ref: Any) -> Part | None:
        """A record, if it is the first answer to its item."""
        sent = self._sent[ref]
        try:
            record = ray.get(ref)
            if sent.item.kind == "gradient":
                vector = record["vector"] if sent.back is None else self._exchange.collect(sent.back)
                record = MetaGradient(**{**record, "vector": view(vector)})
            self._free(sent)
        except RayTaskError as error:
            self._free(sent)
            if isinstance(error.cause, DistmetaError):
                raise error.cause from None
            del self._sent[ref]
            self._failed(sent.slot, sent.item, error)
            return None
        except LOST as error:
            self._blame(sent.slot, reason(error))
            self.pool.lose(sent.slot, "workers_lost", reason(error))
            return None
        del self._sent[ref]
        self.pool.finished(sent.slot)
        computing = sum(record.seconds.values()) if isinstance(record, MetaGradient) and record.seconds else None
        counts = self._dispatcher.answer(sent.slot, sent.item, computing)
        return (sent.item.node, record) if counts else None

    # What goes wrong ----------------------------------------------------------------------------------------------

    def _left(self, slot: ActorSlot) -> None:
        """A worker is gone: what it held is for others."""
        if slot.held:
            self._sent = {ref: sent for ref, sent in self._sent.items() if sent.slot is not slot}
        self._dispatcher.give_back(slot)

    def _failed(self, slot: ActorSlot, item: WorkItem, error: RayTaskError) -> None:
        """The model's code has raised: the worker tries again, then another worker does."""
        self.faults["shards_failed"] += len(item.shards)
        tries = item.failures[slot.number] = item.failures.get(slot.number, 0) + 1
        log.warning("worker %d failed at %s (%s; %d of %d tries)", slot.number, item.tasks, _cause(error), tries, TRIES)
        if not self._dispatcher.failed(slot, item):  # another worker was faster
            return
        item.trace = str(error).strip()
        if tries < TRIES:
            self._send(slot, item)
            return
        given_up = [number for number, times in item.failures.items() if times >= TRIES]
        if len(given_up) >= EVERYWHERE:
            raise _everywhere(item, f"each of {len(given_up)} workers") from error.cause
        self.pool.lose(slot, "workers_failed", f"{TRIES} exceptions at {item.tasks}")

    def _give_up_hung(self) -> None:
        """Replace workers that are silent for longer than their work can take."""
        for slot in [slot for slot in self.pool.ready if slot.held]:
            waited = self._pace.waited(slot)
            if waited > self._pace.limit(slot):
                why = f"no answer for {waited:.0f} s"
                self._blame(slot, why)
                self.pool.lose(slot, "workers_hung", why)

    def _blame(self, slot: ActorSlot, why: str) -> None:
        """A worker died or hung: perhaps what it was at is the reason."""
        item = slot.held[0]
        item.deaths += 1
        if item.deaths > DEATHS and self._dispatcher.is_open(item):
            raise ClusterError(
                f"{item.deaths} workers died one after the other at {item.tasks}; the last one: {why}. Look for a "
                "lack of memory, or a crash or endless loop in the model's code, with cluster.workers=0"
            )


def _everywhere(item: WorkItem, where: str) -> TaskError:
    return TaskError(
        f"{item.tasks} failed {TRIES} times on {where}. The last exception was:\n{item.trace}\nCorrect the model's "
        "code, or look into these tasks with cluster.workers=0; the steps before are saved, go on with --resume"
    )


def _cause(error: RayTaskError) -> str:
    """The exception that the worker's code raised, in one line."""
    cause = error.cause
    return f"{type(cause).__name__}: {str(cause).splitlines()[0] if str(cause) else ''}".rstrip(": ")
