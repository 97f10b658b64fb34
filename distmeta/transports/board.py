"""Who computes which piece of a step, who is late, and whose answer counts. Knows nothing of Ray.

Pieces go to the desk that has least to do. A desk that is late gets nothing new, and what it holds is also given to
desks that have nothing to do; the first answer counts. Since every piece has one place in the tree of additions, it
makes no difference who computed it.
"""

from __future__ import annotations

import logging
import statistics
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from distmeta.records import Shard
from distmeta.transports.base import Kind
from distmeta.tree import Node

log = logging.getLogger(__name__)

DEPTH = 2
"""Pieces that a desk holds: one at work, one waiting, so that a worker never waits for the driver."""

LATE = 2.0
"""Times the usual after which a desk is late."""

SLACK = 0.1
"""Seconds that are no delay, however short the usual is."""

HUNG = 10.0
"""Times the longest seen after which a desk is given up, if ``cluster.hang_seconds`` have passed too."""

COLD = 6.0
"""Times ``cluster.hang_seconds`` that a desk may take at least for work that it does for the first time."""

UNKNOWN = 1800.0
"""Seconds after which a desk is given up whose work nobody has finished before: it may be compiling."""

MEMORY = 64
"""Durations that are remembered of each kind of work."""


@dataclass(eq=False)
class Piece:
    """Shards that one worker computes in one go: a subtree of a step's tree.

    Attributes:
        kind: what is computed.
        node: the subtree.
        shards: its shards.
        answered: whether an answer is there.
        failures: exceptions that it raised, by the number of the desk.
        deaths: workers that died at it.
        trace: what the last of its exceptions said.
    """

    kind: Kind
    node: Node
    shards: Sequence[Shard]
    answered: bool = False
    failures: Counter[int] = field(default_factory=Counter)
    deaths: int = 0
    trace: str = ""

    @property
    def tasks(self) -> str:
        """Its tasks, for people."""
        first, last = self.shards[0].ids[0], self.shards[-1].ids[-1]
        split = {"train": "training", "validation": "meta-validation", "test": "meta-test"}[self.shards[0].split]
        return f"{split} tasks {first} to {last}" if first < last else f"{split} task {first}"


@dataclass(eq=False)
class Desk:
    """A worker's place.

    Attributes:
        number: counts the workers of a run (1, 2, ...).
        ready: whether it takes work.
        leaving: whether it takes no new work, since its host goes away.
        held: its pieces, in the order in which it computes them.
        waited: seconds that it has been at the first of them.
        known: kinds of work that it has done before; the first time may take compiling.
        done: shards that it was the first to finish.
        told: whether its being late was said.
    """

    number: int
    ready: bool = False
    leaving: bool = False
    held: list[Piece] = field(default_factory=list)
    waited: float = 0.0
    known: set[Kind] = field(default_factory=set)
    done: int = 0
    told: bool = False


AnyDesk = TypeVar("AnyDesk", bound=Desk)


class Pace:
    """How long work takes, as far as it was seen; so what is late, and what will not come any more.

    Args:
        hang_seconds: no desk is given up before.
    """

    def __init__(self, hang_seconds: float) -> None:
        self._least = hang_seconds
        self._each: dict[Kind, deque[float]] = defaultdict(lambda: deque(maxlen=MEMORY))
        self._first: dict[Kind, deque[float]] = defaultdict(lambda: deque(maxlen=MEMORY))

    def saw(self, desk: Desk, piece: Piece) -> None:
        """A desk has finished its first piece."""
        if piece.kind in desk.known:
            self._each[piece.kind].append(desk.waited / len(piece.shards))
        else:
            self._first[piece.kind].append(desk.waited)
            desk.known.add(piece.kind)

    def usual(self, desk: Desk) -> float | None:
        """Seconds that what this desk is at has taken elsewhere; ``None`` where that is not known."""
        seen, times = self._seen(desk)
        return times * (statistics.median(seen) if desk.held[0].kind in desk.known else max(seen)) if seen else None

    def late(self, desk: Desk) -> bool:
        """Whether a desk takes clearly longer than usual."""
        usual = self.usual(desk) if desk.held else None
        return usual is not None and desk.waited > LATE * usual + SLACK

    def limit(self, desk: Desk) -> float:
        """Seconds after which what this desk is at will not come any more."""
        seen, times = self._seen(desk)
        least = self._least * (1 if desk.held[0].kind in desk.known else COLD)
        return max(least, HUNG * times * max(seen)) if seen else UNKNOWN

    def _seen(self, desk: Desk) -> tuple[deque[float], int]:
        piece = desk.held[0]
        if piece.kind in desk.known:
            return self._each[piece.kind], len(piece.shards)
        return self._first[piece.kind], 1


class Board:
    """The pieces of one step, until all of them are answered.

    Args:
        pieces: what is to be done.
        pace: how long such work takes.
        faults: counts ``shards_redone`` and ``shards_duplicated``.
    """

    def __init__(self, pieces: Sequence[Piece], pace: Pace, faults: MutableMapping[str, int]) -> None:
        self._pieces = pieces
        self._todo = deque(pieces)
        self._pace = pace
        self._faults = faults

    @property
    def unanswered(self) -> bool:
        """Whether there is something to wait for."""
        return bool(self.open())

    def open(self) -> list[Piece]:
        """Pieces that are not answered."""
        return [piece for piece in self._pieces if not piece.answered]

    def assign(self, desks: Sequence[AnyDesk]) -> Iterator[tuple[AnyDesk, Piece]]:
        """Hand out what can be handed out now: each pair is to be sent on."""
        for held in range(DEPTH):
            for desk in desks:
                if desk.ready and not desk.leaving and len(desk.held) <= held and not self._pace.late(desk):
                    piece = self._next()
                    if piece is None and not desk.held:
                        piece = self._second_try(desks)
                    if piece is not None:
                        hold(desk, piece)
                        yield desk, piece

    def _next(self) -> Piece | None:
        while self._todo:
            piece = self._todo.popleft()
            if not piece.answered:
                return piece
        return None

    def _second_try(self, desks: Sequence[Desk]) -> Piece | None:
        """A piece of a late desk that nobody else has; rather one that it has not begun."""
        slow = [desk for desk in desks if desk.leaving or self._pace.late(desk)]
        for desk in sorted(slow, key=lambda desk: -desk.waited):
            for piece in reversed(desk.held):
                if self.is_open(piece) and holders(piece, desks) == 1:
                    self._faults["shards_duplicated"] += len(piece.shards)
                    self._tell(desk)
                    return piece
        return None

    def _tell(self, desk: Desk) -> None:
        if not desk.told and not desk.leaving:
            desk.told = True
            log.info("worker %d is late (%.1f s): others compute its shards too", desk.number, desk.waited)

    def is_open(self, piece: Piece) -> bool:
        """Whether this board still waits for a piece."""
        return not piece.answered and piece in self._pieces

    def answer(self, desk: Desk, piece: Piece) -> bool:
        """A desk has finished a piece; whether this is the answer that counts."""
        if piece is desk.held[0]:
            self._pace.saw(desk, piece)
        desk.held.remove(piece)
        desk.waited, desk.told = 0.0, False
        counts = self.is_open(piece)
        desk.done += len(piece.shards) if counts else 0
        piece.answered = True
        return counts

    def give_back(self, desk: Desk, desks: Sequence[Desk]) -> None:
        """What a lost desk held, and nobody else has, is first in line now."""
        lost = [piece for piece in desk.held if self.is_open(piece)]
        desk.held.clear()
        alone = [piece for piece in lost if not holders(piece, desks)]
        self._todo.extendleft(reversed(alone))
        self._faults["shards_redone"] += sum(len(piece.shards) for piece in alone)


def hold(desk: Desk, piece: Piece) -> None:
    """A desk takes a piece."""
    if not desk.held:
        desk.waited = 0.0
    desk.held.append(piece)


def holders(piece: Piece, desks: Sequence[Desk]) -> int:
    """How many desks have a piece."""
    return sum(piece in desk.held for desk in desks)
