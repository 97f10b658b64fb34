"""Items, slots, and how long work takes: what is late, what will not come any more, how fast each slot is."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict, deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from distmeta.core.records import Shard
from distmeta.core.requests import MEASUREMENTS
from distmeta.core.tree import Node

LATE = 2.0
"""Times the usual after which a slot is late."""

SLACK = 0.1
"""Seconds that are no delay, however short the usual is."""

HUNG = 10.0
"""Times the longest seen after which a slot is given up, if ``cluster.hang_seconds`` have passed too."""

COLD = 6.0
"""Times ``cluster.hang_seconds`` that a slot may take at least for measurements, and for other work the first time."""

UNKNOWN = 1800.0
"""Seconds after which a slot is given up whose work nobody has finished before: it may be compiling."""

MEMORY = 64
"""Durations that are remembered of each kind of work."""

RECENT, PROVEN = 8, 4
"""Of one slot: durations that are remembered, and those without which its rate is a guess."""

STALE = 30.0
"""Seconds without an answer after which a slot's rate is doubted: a slow slot that gets no work may be well again."""

GUESSED, DOUBTED = 0.75, 0.5
"""Relative error that a guessed rate may have, and the largest that a proven one is taken to have."""

TICK = 1e-6
"""Seconds that an item takes at least; of two answers that are taken in together the second seems to take none."""

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
class WorkItem:
    """Shards that one worker computes in one go: a subtree of a step's tree.

    Attributes:
        kind: what is computed: a request's name, and whether its sample was drawn before.
        node: the subtree.
        shards: its shards.
        answered: whether an answer is there.
        holders: slots that have it.
        failures: exceptions that it raised, by the number of the slot.
        deaths: workers that died at it.
        trace: what the last of its exceptions said.
    """

    kind: str
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

    def halves(self) -> tuple[WorkItem, WorkItem]:
        """Two items of which each may be the reason for what has happened to this one; only of two shards or more."""
        node = self.node
        left, right = node.halves()
        while len(self.shards) <= 1 << left.level:  # at the tree's right end a subtree may have no right half
            node = left
            left, right = node.halves()
        cut = 1 << left.level
        first, second = (
            WorkItem(self.kind, half, shards, failures=self.failures.copy(), deaths=self.deaths, trace=self.trace)
            for half, shards in ((left, self.shards[:cut]), (right, self.shards[cut:]))
        )
        return first, second


@dataclass(eq=False)
class WorkerSlot:
    """A worker's place.

    Attributes:
        number: counts the workers of a run (1, 2, ...).
        ready: whether it takes work.
        leaving: whether it takes no new work, since its host goes away.
        held: its items, in the order in which it computes them.
        since: when it began with the first of them, by the run's clock.
        known: kinds of work that it has done before; the first time may take compiling.
        rates: how fast it does each kind.
        done: shards that it was the first to finish.
        told: whether its being late was said.
    """

    number: int
    ready: bool = False
    leaving: bool = False
    held: list[WorkItem] = field(default_factory=list)
    since: float = 0.0
    known: set[str] = field(default_factory=set)
    rates: dict[str, Rate] = field(default_factory=dict)
    done: int = 0
    told: bool = False

    @property
    def load(self) -> int:
        """Shards that it holds."""
        return sum(len(item.shards) for item in self.held)


class Rate:
    """Shards a second of one slot, as far as it was seen.

    Attributes:
        value: the median.
        error: its relative error: by how much single items have differed from it in the mean.
        seen: when the last item was done, by the run's clock.
    """

    def __init__(self) -> None:
        self.value = 0.0
        self.error = GUESSED
        self.seen = 0.0
        self._each: deque[float] = deque(maxlen=RECENT)

    def add(self, seconds: float, now: float) -> None:
        """An item took so many seconds a shard."""
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
        hang_seconds: no slot is given up before.
        clock: the run's.
    """

    def __init__(self, hang_seconds: float, clock: Clock) -> None:
        self.clock = clock
        self._least = hang_seconds
        self._each: dict[str, Durations] = defaultdict(Durations)
        self._first: dict[str, Durations] = defaultdict(Durations)
        self._computing: dict[str, Durations] = defaultdict(Durations)
        self._messages: dict[str, Durations] = defaultdict(Durations)

    def waited(self, slot: WorkerSlot) -> float:
        """Seconds that a slot has been at the first of its items."""
        return self.clock.now - slot.since

    def saw(self, slot: WorkerSlot, item: WorkItem, computing: float | None) -> None:
        """A slot has finished its first item.

        Args:
            slot: the slot.
            item: what it has finished.
            computing: seconds of it that went to the shards themselves, where that is known; the others went to
                messages.
        """
        waited, kind, count = max(self.waited(slot), computing or TICK), item.kind, len(item.shards)
        if kind not in slot.known:
            self._first[kind].add(waited)
            slot.known.add(kind)
            return
        self._each[kind].add(waited / count)
        spent = waited if computing is None else max(computing, TICK)
        self._messages[kind].add(waited - spent)
        self._computing[kind].add(spent / count)
        slot.rates.setdefault(kind, Rate()).add(spent / count, self.clock.now)

    def rate(self, slot: WorkerSlot, kind: str) -> Rate | None:
        """How fast a slot is; ``None`` where that was not seen."""
        return slot.rates.get(kind)

    def usual_rate(self, kind: str) -> float:
        """Shards a second of a slot of which nothing else is known."""
        computing = self._computing[kind]
        return 1 / computing.median if computing else 1.0

    def message(self, kind: str) -> float:
        """Seconds that an item takes besides its shards; 0 where that was not seen."""
        messages = self._messages[kind]
        return messages.median if messages else 0.0

    def usual(self, slot: WorkerSlot) -> float | None:
        """Seconds that what this slot is at has taken elsewhere; ``None`` where that is not known."""
        seen, times = self._seen(slot)
        return times * (seen.median if slot.held[0].kind in slot.known else seen.longest) if seen else None

    def late(self, slot: WorkerSlot) -> bool:
        """Whether a slot takes clearly longer than usual."""
        waited = self.waited(slot)
        if not slot.held or waited <= SLACK:
            return False
        usual = self.usual(slot)
        return usual is not None and waited > LATE * usual + SLACK

    def limit(self, slot: WorkerSlot) -> float:
        """Seconds after which what this slot is at will not come any more."""
        seen, times = self._seen(slot)
        if not seen:
            return UNKNOWN
        kind, longest = slot.held[0].kind, HUNG * times * seen.longest
        if kind in slot.known and kind not in MEASUREMENTS:
            return max(self._least, longest)
        # Measurements are recorded when their shapes have come a few times, amid items that take a moment. That takes
        # about as long as what is recorded in other kinds' first items.
        first = max((each.longest for each in self._first.values() if each), default=0.0)
        return max(COLD * self._least, longest, LATE * first)

    def _seen(self, slot: WorkerSlot) -> tuple[Durations, int]:
        item = slot.held[0]
        if item.kind in slot.known:
            return self._each[item.kind], len(item.shards)
        return self._first[item.kind], 1


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
