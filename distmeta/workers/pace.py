"""Pieces, desks, and how long work takes: what is late, what will not come any more, how fast each desk is."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict, deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from distmeta.core.records import Shard
from distmeta.core.tree import Node
from distmeta.workers.base import Kind

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

RECENT, PROVEN = 8, 4
"""Of one desk: durations that are remembered, and those without which its rate is a guess."""

STALE = 30.0
"""Seconds without an answer after which a desk's rate is doubted: a slow desk that gets no work may be well again."""

GUESSED, DOUBTED = 0.75, 0.5
"""Relative error that a guessed rate may have, and the largest that a proven one is taken to have."""

TICK = 1e-6
"""Seconds that a piece takes at least; of two answers that are taken in together the second seems to take none."""

ABSENT = 1.0
"""Seconds between two looks at the clock that count at most: in a longer time this process itself was stopped."""


class Clock:
    """Seconds that count as the workers': those in which the driver waits for them or takes in what they send."""

    def __init__(self) -> None:
        self.now = 0.0
        self.resume()

    def resume(self) -> None:
        """The time since the last tick was nobody's."""
        self._last = time.monotonic()

    def tick(self) -> None:
        """Count the time since the last tick."""
        last, self._last = self._last, time.monotonic()
        self.now += min(self._last - last, ABSENT)


@dataclass(eq=False)
class Piece:
    """Shards that one worker computes in one go: a subtree of a step's tree.

    Attributes:
        kind: what is computed.
        node: the subtree.
        shards: its shards.
        answered: whether an answer is there.
        holders: desks that have it.
        failures: exceptions that it raised, by the number of the desk.
        deaths: workers that died at it.
        trace: what the last of its exceptions said.
    """

    kind: Kind
    node: Node
    shards: Sequence[Shard]
    answered: bool = False
    holders: int = 0
    failures: dict[int, int] = field(default_factory=dict)
    deaths: int = 0
    trace: str = ""

    @property
    def tasks(self) -> str:
        """Its tasks, for people."""
        first, last = self.shards[0].ids[0], self.shards[-1].ids[-1]
        split = {"train": "training", "validation": "meta-validation", "test": "meta-test"}[self.shards[0].split]
        return f"{split} tasks {first} to {last}" if first < last else f"{split} task {first}"

    def halves(self) -> tuple[Piece, Piece]:
        """Two pieces of which each may be the reason for what has happened to this one; only of two shards or more."""
        node = self.node
        left, right = node.halves()
        while len(self.shards) <= 1 << left.level:  # at the tree's right end a subtree may have no right half
            node = left
            left, right = node.halves()
        cut = 1 << left.level
        first, second = (
            Piece(self.kind, half, shards, failures=self.failures.copy(), deaths=self.deaths, trace=self.trace)
            for half, shards in ((left, self.shards[:cut]), (right, self.shards[cut:]))
        )
        return first, second


@dataclass(eq=False)
class Desk:
    """A worker's place.

    Attributes:
        number: counts the workers of a run (1, 2, ...).
        ready: whether it takes work.
        leaving: whether it takes no new work, since its host goes away.
        held: its pieces, in the order in which it computes them.
        since: when it began with the first of them, by the run's clock.
        known: kinds of work that it has done before; the first time may take compiling.
        rates: how fast it does each kind.
        done: shards that it was the first to finish.
        told: whether its being late was said.
    """

    number: int
    ready: bool = False
    leaving: bool = False
    held: list[Piece] = field(default_factory=list)
    since: float = 0.0
    known: set[Kind] = field(default_factory=set)
    rates: dict[Kind, Rate] = field(default_factory=dict)
    done: int = 0
    told: bool = False

    @property
    def load(self) -> int:
        """Shards that it holds."""
        return sum(len(piece.shards) for piece in self.held)


class Rate:
    """Shards a second of one desk, as far as it was seen.

    Attributes:
        value: the median.
        error: its relative error: by how much single pieces have differed from it in the mean.
        seen: when the last piece was done, by the run's clock.
    """

    def __init__(self) -> None:
        self.value = 0.0
        self.error = GUESSED
        self.seen = 0.0
        self._each: deque[float] = deque(maxlen=RECENT)

    def add(self, seconds: float, now: float) -> None:
        """A piece took so many seconds a shard."""
        if self.stale(now):
            self._each.clear()
            self.error = GUESSED
        self._each.append(seconds)
        middle = _median(self._each)
        self.value, self.seen = 1 / middle, now
        if len(self._each) >= PROVEN:
            self.error = min(DOUBTED, sum(abs(each - middle) for each in self._each) / (len(self._each) * middle))

    def stale(self, now: float) -> bool:
        """Whether that was long ago."""
        return now > self.seen + STALE


class Pace:
    """How long work takes, as far as it was seen.

    Args:
        hang_seconds: no desk is given up before.
        clock: the run's.
    """

    def __init__(self, hang_seconds: float, clock: Clock) -> None:
        self.clock = clock
        self._least = hang_seconds
        self._each: dict[Kind, Durations] = defaultdict(Durations)
        self._first: dict[Kind, Durations] = defaultdict(Durations)
        self._computing: dict[Kind, Durations] = defaultdict(Durations)
        self._messages: dict[Kind, Durations] = defaultdict(Durations)

    def waited(self, desk: Desk) -> float:
        """Seconds that a desk has been at the first of its pieces."""
        return self.clock.now - desk.since

    def saw(self, desk: Desk, piece: Piece, computing: float | None) -> None:
        """A desk has finished its first piece.

        Args:
            desk: the desk.
            piece: what it has finished.
            computing: seconds of it that went to the shards themselves, where that is known; the others went to
                messages.
        """
        waited, kind, count = max(self.waited(desk), computing or TICK), piece.kind, len(piece.shards)
        if kind not in desk.known:
            self._first[kind].add(waited)
            desk.known.add(kind)
            return
        self._each[kind].add(waited / count)
        spent = waited if computing is None else max(computing, TICK)
        self._messages[kind].add(waited - spent)
        self._computing[kind].add(spent / count)
        desk.rates.setdefault(kind, Rate()).add(spent / count, self.clock.now)

    def rate(self, desk: Desk, kind: Kind) -> Rate | None:
        """How fast a desk is; ``None`` where that was not seen."""
        return desk.rates.get(kind)

    def usual_rate(self, kind: Kind) -> float:
        """Shards a second of a desk of which nothing else is known."""
        computing = self._computing[kind]
        return 1 / computing.median if computing else 1.0

    def message(self, kind: Kind) -> float:
        """Seconds that a piece takes besides its shards; 0 where that was not seen."""
        messages = self._messages[kind]
        return messages.median if messages else 0.0

    def usual(self, desk: Desk) -> float | None:
        """Seconds that what this desk is at has taken elsewhere; ``None`` where that is not known."""
        seen, times = self._seen(desk)
        return times * (seen.median if desk.held[0].kind in desk.known else seen.longest) if seen else None

    def late(self, desk: Desk) -> bool:
        """Whether a desk takes clearly longer than usual."""
        waited = self.waited(desk)
        if not desk.held or waited <= SLACK:
            return False
        usual = self.usual(desk)
        return usual is not None and waited > LATE * usual + SLACK

    def limit(self, desk: Desk) -> float:
        """Seconds after which what this desk is at will not come any more."""
        seen, times = self._seen(desk)
        least = self._least * (1 if desk.held[0].kind in desk.known else COLD)
        return max(least, HUNG * times * seen.longest) if seen else UNKNOWN

    def _seen(self, desk: Desk) -> tuple[Durations, int]:
        piece = desk.held[0]
        if piece.kind in desk.known:
            return self._each[piece.kind], len(piece.shards)
        return self._first[piece.kind], 1


class Durations:
    """The last durations of some work; what is asked of them is computed once for each that comes."""

    def __init__(self) -> None:
        self._each: deque[float] = deque(maxlen=MEMORY)
        self._median: float | None = None
        self._longest: float | None = None

    def __len__(self) -> int:
        return len(self._each)

    def add(self, seconds: float) -> None:
        """One more."""
        self._each.append(seconds)
        self._median = self._longest = None

    @property
    def median(self) -> float:
        """Their median."""
        if self._median is None:
            self._median = _median(self._each)
        return self._median

    @property
    def longest(self) -> float:
        """The longest of them."""
        if self._longest is None:
            self._longest = max(self._each)
        return self._longest


def _median(values: Collection[float]) -> float:
    return float(statistics.median(values))
