"""The transport of clusters: shards are handed out to Ray actors as these become free, and again where one is lost."""

from __future__ import annotations

import logging
import pickle
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
import torch
from ray.exceptions import RayTaskError
from torch import Tensor

from distmeta.config.schema import Config
from distmeta.core.plan import Plan
from distmeta.core.records import FAULTS, Shard
from distmeta.core.requests import MEASUREMENTS, Answer, Request, Start
from distmeta.core.tree import Node, cover, share
from distmeta.errors import ClusterError, ConfigError, DistmetaError, TaskError
from distmeta.programs.deciding import RunPlan
from distmeta.workers.base import Check, Part, Workers
from distmeta.workers.dispatch import SOON, Dispatcher
from distmeta.workers.pace import Clock, Pace, WorkItem
from distmeta.workers.ray.metrics import Reporter
from distmeta.workers.ray.pool import LOST, POLL, ActorSlot, WorkerPool, reason
from distmeta.workers.ray.worker import Call, Head, view
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
        self._head: Head | None = None
        self._start: Start | None = None
        self._vectors: dict[str, Tensor] = {}  # the start's and the request's
        self._rows: dict[str, SharedRow | None] = {}  # of them in shared memory
        self._refs: dict[str, Any] = {}  # of them in Ray's object store, for workers elsewhere
        self._holders: list[tuple[Node, ActorSlot]] = []  # who has the samples of a meta-step in memory
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

    def run(self, request: Request, shards: Sequence[Shard]) -> Iterator[Part]:
        """Answers as they come; an item is an aligned subtree of shards, summed by its worker."""
        self._bytes = request.start.theta.nbytes
        held = self._publish(request)
        self._dispatcher = self._new_dispatcher(request, shards, held)
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
        firsts = self._new_dispatcher(None, shards).first_shards(self.pool.slots)
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

    def _publish(self, request: Request) -> list[tuple[Node, ActorSlot]]:
        """Put down the request's vectors, those of the start once a meta-step.

        Returns:
            Who holds which samples, where the request is not the first one of its meta-step.
        """
        self._head, known = Head.of(request), self._start if request.start.digest else None
        again = request.start is known
        given = {} if again else request.start.vectors
        kept = request.start.vectors if again else {}
        self._start = request.start
        self._vectors = {**request.start.vectors, **request.vectors}
        self._rows = {name: self._rows.get(name) for name in kept}
        self._refs = {name: ref for name, ref in self._refs.items() if name in kept}
        for name, vector in {**given, **request.vectors}.items():
            self._rows[name] = self._exchange.publish(name, vector.numpy())
        held, self._holders = self._holders if again else [], []
        return held

    def _new_dispatcher(
        self, request: Request | None, shards: Sequence[Shard], held: Sequence[tuple[Node, ActorSlot]] = ()
    ) -> Dispatcher[ActorSlot]:
        """A request's work. A big model's is cut once, as large as can be; measurements come shard by shard.

        Args:
            request: what is wanted; ``None`` for the first request of the next meta-step.
            shards: of the meta-batch.
            held: who has which samples in memory.
        """
        count, big = len(shards), self._bytes >= BIG
        kind = "gradient" if request is None else request.name
        if request is not None and request.measures:
            nodes = cover(count, 0)
        elif big:
            nodes = share(count, max(1, len(self.pool.ready)))
        else:
            nodes = [Node((count - 1).bit_length(), 0)]
        return Dispatcher(kind, shards, nodes, self._pace, self.faults, whole=big, held=held)

    def _send(self, slot: ActorSlot, item: WorkItem) -> None:
        assert self._head is not None
        vectors, back = [self._given(slot, name) for name in self._vectors], None
        measures = self._head.name in MEASUREMENTS
        if isinstance(vectors[0], SharedRow) and not measures:
            back = self._exchange.take(slot.number, vectors[0].size)
        ahead = () if measures else self._ahead.pop(slot, ())
        rows = [vector if isinstance(vector, SharedRow) else None for vector in vectors]
        call = pickle.dumps(Call(self._head, item.shards, ahead, back, rows))
        ref = slot.actor.answer.remote(call, *(vector for vector in vectors if not isinstance(vector, SharedRow)))
        self._sent[ref] = _Sent(slot, item, back)

    def _free(self, sent: _Sent) -> None:
        """The worker has written its result, or will not."""
        if sent.back is not None:
            self._exchange.give_back(sent.slot.number, sent.back)

    def _given(self, slot: ActorSlot, name: str) -> Any:
        """One of the request's vectors, as this worker gets it."""
        row = self._rows.get(name)
        if slot.shares and row is not None:
            return row
        if name not in self._refs:
            self._refs[name] = ray.put(self._vectors[name].numpy())
        return self._refs[name]

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
            fields = ray.get(ref)
            answer = Answer(**{**fields, "vectors": self._collect(fields["vectors"], sent.back)})
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
        computing = sum(answer.seconds.values()) if answer.seconds else None
        if not self._dispatcher.answer(sent.slot, sent.item, computing):
            return None
        if self._start is not None and self._start.digest:
            self._holders.append((sent.item.node, sent.slot))
        return sent.item.node, answer

    def _collect(self, vectors: Mapping[str, Any], back: SharedRow | None) -> dict[str, Tensor]:
        """An answer's vectors; what is ``None`` among them lies in shared memory."""
        return {
            name: view(array if array is not None or back is None else self._exchange.collect(back))
            for name, array in vectors.items()
        }

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
