"""The transport of clusters: shards are handed out to Ray actors as these become free, and again where one is lost."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.exceptions import RayTaskError

from distmeta.config import Config
from distmeta.errors import ClusterError, ConfigError, DistmetaError, TaskError
from distmeta.plan import Plan, RunPlan
from distmeta.records import FAULTS, MetaState, Shard
from distmeta.transports.base import Check, Kind, Part, Workers
from distmeta.transports.board import DEPTH, Board, Pace, Piece, hold
from distmeta.transports.ray_crew import LOST, POLL, Crew, Seat, reason
from distmeta.transports.ray_metrics import Reporter
from distmeta.transports.ray_worker import view
from distmeta.tree import Node, cover, share
from distmeta.worker import keep_freed_memory

log = logging.getLogger(__name__)

PIECES = 4
"""Pieces a worker that a meta-batch is cut into at least, where it has that many shards and the model is not big."""

BIG = 50_000_000
"""Bytes of meta-parameters from which a vector's way costs more than an uneven share of the work: then a worker sends
one vector a step, or two."""

TRIES = 3
"""Exceptions over one piece after which a worker is given up."""

EVERYWHERE = 2
"""Workers that have to be given up over one piece for it to be the piece's fault."""

DEATHS = 3
"""Workers that may die or hang at one piece for reasons of their own."""

SOON = 0.02
"""Seconds between looks at whether somebody is late, while others have nothing to do."""


@dataclass(frozen=True)
class _Sent:
    """Work under way."""

    seat: Seat
    piece: Piece


class RayTransport:
    """Workers on a Ray cluster.

    A worker that dies, hangs or fails is replaced and its pieces are computed elsewhere; workers come and go with their
    nodes. The tree makes the result the same to the bit.

    Attributes:
        crew: the workers, of the class ``crew_of``.

    Raises:
        ClusterError: no cluster at the address, too few resources, workers of different hardware, workers that keep
            dying.
        TaskError: the model's code fails on the same tasks wherever they are computed.
    """

    crew_of = Crew

    def __init__(self, config: Config, check: Check) -> None:
        self.faults = dict.fromkeys(FAULTS, 0)
        self._sent: dict[Any, _Sent] = {}
        self._pace = Pace(config.cluster.hang_seconds)
        self._board = Board([], self._pace, self.faults)
        self._state: tuple[int, Any] = (0, None)
        self._name = config.name
        self._reporter: Reporter | None = None
        self._bytes = 0  # of the meta-parameters; known from the first step on
        keep_freed_memory()  # here too, for the sums
        self.crew = self.crew_of(config, check, self.faults, self._left)

    def open(self, plan: Plan | RunPlan | None) -> None:
        """Wait for as many workers as the run needs."""
        self.crew.open(plan)

    @property
    def plan(self) -> Plan:
        """How the workers compute."""
        return self.crew.plan

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What decides the workers' rounding."""
        return self.crew.fingerprint

    def run(self, kind: Kind, state: MetaState, shards: Sequence[Shard]) -> Iterator[Part]:
        """Records as they come; a gradient piece is an aligned subtree of shards, summed by its worker."""
        self._bytes = state.vector.nbytes
        self._state = state.step, ray.put(state.vector.numpy())
        nodes = self._cut(kind, len(shards))
        pieces = [Piece(kind, node, [shards[leaf] for leaf in node.leaves(len(shards))]) for node in nodes]
        self._board = Board(pieces, self._pace, self.faults)
        self.crew.resume()
        while self._board.unanswered:
            for seat, piece in self._board.assign(self.crew.seats):
                self._send(seat, piece)
            there = self.crew.wait(list(self._sent), self._moment())
            for ref in there:
                if ref in self._sent and (part := self._receive(ref)) is not None:
                    yield part
            self._give_up_hung(there)
            self._tend(there)

    def prefetch(self, shards: Sequence[Shard]) -> None:
        """Ask each worker to sample the shards that it will be handed first."""
        firsts = [shards[node.leaves(len(shards))[0]] for node in self._cut("gradient", len(shards))]
        seats = [seat for seat in self.crew.ready if not self._pace.late(seat)]
        for place, seat in enumerate(seats):
            mine = firsts[place :: len(seats)][:DEPTH]
            if mine:
                seat.actor.prefetch.remote(mine)

    def workers(self) -> Workers:
        """Workers at work now, and shards done by each that ever was."""
        shards_each = [*self.crew.retired, *(seat.done for seat in self.crew.seats if seat.ready)]
        return Workers(len(self.crew.ready), shards_each)

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
            self.crew.close()

    # Work ---------------------------------------------------------------------------------------------------------

    def _cut(self, kind: Kind, count: int) -> list[Node]:
        """Subtrees: a big model's as large as can be, others' as large as leaves every worker enough to balance."""
        workers = max(1, len(self.crew.ready))
        if kind != "gradient":
            return cover(count, 0)
        if self._bytes >= BIG:
            return share(count, workers)
        return cover(count, max(0, (count // (PIECES * workers)).bit_length() - 1))

    def _send(self, seat: Seat, piece: Piece) -> None:
        step, vector = self._state
        if piece.kind == "gradient":
            ref = seat.actor.gradient.remote(step, vector, piece.shards)
        else:
            ref = seat.actor.evaluate.remote(step, vector, piece.shards[0], piece.kind == "test")
        self._sent[ref] = _Sent(seat, piece)

    def _tend(self, there: list[Any]) -> None:
        try:
            self.crew.tend(there)
        except ConfigError as error:
            for piece in self._board.open():  # what made a worker fail may keep its successor from opening
                if piece.trace:
                    raise _everywhere(piece, f"one worker, and no other could be opened ({error})") from None
            raise

    def _moment(self) -> float:
        """How long to wait at most: not long where somebody could help those who are late."""
        return SOON if any(not seat.held for seat in self.crew.ready) else POLL

    def _receive(self, ref: Any) -> Part | None:
        """A record, if it is the first answer to its piece."""
        sent = self._sent[ref]
        try:
            record = ray.get(ref)
            if sent.piece.kind == "gradient":
                fields, vector = record
                record = replace(fields, vector=view(vector))
        except RayTaskError as error:
            if isinstance(error.cause, DistmetaError):
                raise error.cause from None
            del self._sent[ref]
            self._failed(sent.seat, sent.piece, error)
            return None
        except LOST as error:
            self._blame(sent.seat, reason(error))
            self.crew.lose(sent.seat, "workers_lost", reason(error))
            return None
        del self._sent[ref]
        self.crew.finished(sent.seat)
        counts = self._board.answer(sent.seat, sent.piece)
        return (sent.piece.node, record) if counts else None

    # What goes wrong ----------------------------------------------------------------------------------------------

    def _left(self, seat: Seat) -> None:
        """A worker is gone: what it held is for others."""
        if not seat.held:
            return
        self._sent = {ref: sent for ref, sent in self._sent.items() if sent.seat is not seat}
        self._board.give_back(seat, self.crew.seats)

    def _failed(self, seat: Seat, piece: Piece, error: RayTaskError) -> None:
        """The model's code has raised: the worker tries again, then another worker does."""
        seat.held.remove(piece)
        seat.waited = 0.0
        self.faults["shards_failed"] += len(piece.shards)
        piece.failures[seat.number] += 1
        tries = piece.failures[seat.number]
        log.warning(
            "worker %d failed at %s (%s; %d of %d tries)", seat.number, piece.tasks, _cause(error), tries, TRIES
        )
        if not self._board.is_open(piece):  # another worker was faster
            return
        piece.trace = str(error).strip()
        hold(seat, piece)
        if tries < TRIES:
            self._send(seat, piece)
            return
        given_up = [number for number, times in piece.failures.items() if times >= TRIES]
        if len(given_up) >= EVERYWHERE:
            raise _everywhere(piece, f"each of {len(given_up)} workers") from error.cause
        self.crew.lose(seat, "workers_failed", f"{TRIES} exceptions at {piece.tasks}")

    def _give_up_hung(self, there: Sequence[Any]) -> None:
        """Replace workers that are silent for longer than their work can take."""
        answered = {self._sent[ref].seat.number for ref in there if ref in self._sent}
        for seat in [seat for seat in self.crew.ready if seat.held and seat.number not in answered]:
            if seat.waited > self._pace.limit(seat):
                why = f"no answer for {seat.waited:.0f} s"
                self._blame(seat, why)
                self.crew.lose(seat, "workers_hung", why)

    def _blame(self, seat: Seat, why: str) -> None:
        """A worker died or hung: perhaps what it was at is the reason."""
        piece = seat.held[0]
        piece.deaths += 1
        if piece.deaths > DEATHS and self._board.is_open(piece):
            raise ClusterError(
                f"{piece.deaths} workers died one after the other at {piece.tasks}; the last one: {why}. Look for a "
                "lack of memory, or a crash or endless loop in the model's code, with cluster.workers=0"
            )


def _everywhere(piece: Piece, where: str) -> TaskError:
    return TaskError(
        f"{piece.tasks} failed {TRIES} times on {where}. The last exception was:\n{piece.trace}\nCorrect the model's "
        "code, or look into these tasks with cluster.workers=0; the steps before are saved, go on with --resume"
    )


def _cause(error: RayTaskError) -> str:
    """The exception that the worker's code raised, in one line."""
    cause = error.cause
    return f"{type(cause).__name__}: {str(cause).splitlines()[0] if str(cause) else ''}".rstrip(": ")
