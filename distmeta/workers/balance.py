"""How many shards a slot is given at a time, so that all of them end together and few messages are sent.

All work that is left, at the rate of all slots together, ends at some time from now: the horizon. Until then a slot
does its share, which is in proportion to its rate. It is given that share less what it holds, and less what its rate
may be in error by: what is held back goes to whoever turns out to be early. So slots whose rate is well known get their
whole share as one item, others get items that become smaller towards the end, down to single shards or what takes as
long as a message. A slot that is so slow that it would be waited for gets nothing, except for a single shard now and
then: it may be well again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Generic, TypeVar

from distmeta.workers.pace import GUESSED, Pace, WorkerSlot

HALF = 0.5
"""Of a shard; an item may be larger than it should be by so much, as no shard is divided. One that is larger by no more
than a quarter may be larger by what half a message takes: the rest would be sent by itself."""

AnySlot = TypeVar("AnySlot", bound=WorkerSlot)


@dataclass(frozen=True)
class _Entry:
    """What a slot counts for in the sums; no rate where it is a guess. Its progress counts while it is at work."""

    rate: float | None
    load: int
    since: float


class Balance(Generic[AnySlot]):
    """The slots that take work of one kind now.

    Args:
        kind: of the work.
        pace: how long it takes.
    """

    def __init__(self, kind: str, pace: Pace) -> None:
        self._kind = kind
        self._pace = pace
        self._entries: dict[AnySlot, _Entry] = {}
        self._guesses = 0  # slots whose rate is a guess
        self._rates = 0.0  # of the others, summed
        self._moving = 0.0  # rates of those of them that are at work
        self._began = 0.0  # the same, each times when it began
        self.load = 0
        """Shards that these slots hold."""

    def __contains__(self, slot: AnySlot) -> bool:
        return slot in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def slots(self) -> list[AnySlot]:
        """All of them."""
        return list(self._entries)

    def put(self, slot: AnySlot) -> None:
        """A slot takes work, or what it holds or its rate has changed."""
        self.drop(slot)
        rate = self._pace.rate(slot, self._kind)
        self._count(slot, _Entry(rate.value if rate else None, slot.load, slot.since), 1)

    def drop(self, slot: AnySlot) -> None:
        """A slot takes no more work."""
        if slot in self._entries:
            self._count(slot, self._entries[slot], -1)
            del self._entries[slot]

    def _count(self, slot: AnySlot, entry: _Entry, times: int) -> None:
        self._entries[slot] = entry
        self.load += times * entry.load
        if entry.rate is None:
            self._guesses += times
            return
        self._rates += times * entry.rate
        if entry.load:
            self._moving += times * entry.rate
            self._began += times * entry.rate * entry.since

    def _undone(self) -> float:
        """Shards that these slots hold and have not done yet, if all keep to their rates."""
        done = self._moving * self._pace.clock.now - self._began
        return max(0.0, self.load - max(0.0, done))

    def size(self, slot: AnySlot, left: int) -> int:
        """Shards to give to a slot now, a power of two; 0 where others are to have them.

        Args:
            slot: one that takes work.
            left: shards that nobody has yet.
        """
        usual = self._pace.usual_rate(self._kind)
        known = self._pace.rate(slot, self._kind)
        rate, error = (known.value, known.error) if known else (usual, GUESSED)
        together = self._rates + self._guesses * usual
        mean = together / len(self)
        horizon = (left + self._undone()) / together
        share, held = rate * horizon, float(slot.load)
        if held and known:
            held = max(0.0, held - rate * self._pace.waited(slot))
        if share - held < 1 - rate / mean:  # others, of the mean rate, would wait for it
            return int(known is not None and not slot.held and known.stale(self._pace.clock.now))
        message = max(1.0, self._pace.message(self._kind) * rate)  # in shards, of which none is divided
        back = min(GUESSED, error * _worst(len(self))) * share
        if back < message or (known and len(self) == 1):
            back = 0.0
        due = max(share - back - held, min(message, share - held))
        return _rounded(due, max(HALF, min(message / 2, due / 4)))


def _worst(count: int) -> float:
    """How many times the usual error the largest of ``count`` independent ones has, about."""
    return max(1.0, math.sqrt(2 * math.log(count)))


def _rounded(due: float, excess: float) -> int:
    """The largest power of two that is not above ``due`` by more than ``excess``; at least 1.

    >>> [_rounded(due, 0.5) for due in (0.2, 1.4, 1.6, 3.4, 3.6, 100.0)]
    [1, 1, 2, 2, 4, 64]
    """
    return 1 << max(0, int(due + excess).bit_length() - 1)
