"""Who computes which item of a step, who is late, and whose answer counts. Knows nothing of Ray.

Items go to the slot that has least to do, and are cut to its rate (see :mod:`~distmeta.workers.balance`). A slot
that is late gets nothing new, and what it holds is also given to slots that have nothing to do; the first answer
counts. Since every item has one place in the tree of additions, it makes no difference who computed it.

There may be hundreds of slots. So whatever happens costs as much as concerns it, however many others there are; only
who is late is looked for among all of them, now and then.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator, MutableMapping, Sequence
from copy import copy
from typing import Generic

from distmeta.core.records import Shard
from distmeta.core.tree import Node, Pool
from distmeta.workers.balance import AnySlot, Balance
from distmeta.workers.pace import Pace, WorkItem

log = logging.getLogger(__name__)

AT_HAND = "{}, sampled before"
"""The kind of work on a later request of a meta-step by the worker that has sampled the tasks. Where a request is asked
several times, the first time takes much longer: tasks may be whole episodes."""

DEPTH = 2
"""Items that a slot holds: one at work, one waiting, so that a worker never waits for the driver."""

SOON = 0.02
"""Seconds between looks at whether somebody is late."""


class Dispatcher(Generic[AnySlot]):
    """The work of one step, until all of it is answered.

    Args:
        kind: what is to be done.
        shards: with these.
        nodes: the largest subtrees that one slot may be given.
        whole: give out these subtrees as they are.
        pace: how long such work takes.
        faults: counts ``shards_redone`` and ``shards_duplicated``.
        held: subtrees whose sample a slot has in its memory, in place of ``nodes``. It gets these; another one gets
            what a slot has held that is lost, leaves or is late.
    """

    def __init__(
        self,
        kind: str,
        shards: Sequence[Shard],
        nodes: Sequence[Node],
        pace: Pace,
        faults: MutableMapping[str, int],
        *,
        whole: bool = False,
        held: Sequence[tuple[Node, AnySlot]] = (),
    ) -> None:
        self._kind = kind
        self._held_kind = AT_HAND.format(kind)
        self._shards = shards
        self._pool = Pool(len(shards), () if held else nodes)
        self._reserved: dict[AnySlot, deque[Node]] = {}
        for node, slot in held:
            self._reserved.setdefault(slot, deque()).append(node)
        self._whole = whole
        self._pace = pace
        self._faults = faults
        self._balance: Balance[AnySlot] = Balance(kind, pace)
        self._lost: deque[WorkItem] = deque()  # given back, first in line
        self._open: dict[WorkItem, None] = {}  # given out, or given back, and not answered
        self._left = 0 if held else len(shards)  # shards that nobody has yet, and nobody is to have first
        self._ask: list[dict[AnySlot, None]] = [{} for _ in range(DEPTH)]  # slots to be asked, by what they hold
        self._idle: dict[AnySlot, None] = {}
        self._slow: dict[AnySlot, None] = {}  # late or leaving
        self._looked = -SOON  # at once: who is late with an earlier step's work gets nothing of this one

    @property
    def unanswered(self) -> bool:
        """Whether there is something to wait for."""
        return bool(self._pool.left or self._open or self._reserved)

    @property
    def idle(self) -> bool:
        """Whether a slot that takes work has none."""
        return bool(self._idle)

    def open(self) -> list[WorkItem]:
        """Items that were given out, or given back, and are not answered."""
        return list(self._open)

    def enrol(self, slots: Iterable[AnySlot]) -> None:
        """These slots are there now; those that are ready and do not leave take work."""
        slots = list(slots)
        there = {slot for slot in slots if slot.ready and not slot.leaving}
        for slot in [slot for slot in self._reserved if slot not in there]:
            self._release(slot)
        for slot in slots:
            if slot.leaving:
                self._retire(slot)
                self._slow[slot] = None
            elif slot.ready and slot not in self._slow and slot not in self._balance:
                self._change(slot)

    def assign(self) -> Iterator[tuple[AnySlot, WorkItem]]:
        """Hand out what can be handed out now: each pair is to be sent on."""
        self._look()
        if self._left and not self._balance.load:
            self._ask_all()  # whoever has let others go first, these may be gone
        for asked in self._ask:
            while asked:
                slot = next(iter(asked))
                del asked[slot]
                item = self._next(slot)
                if item is None and not slot.held and not self._left:
                    item = self._second_try()
                if item is not None:
                    self._hold(slot, item)
                    yield slot, item

    def first_shards(self, slots: Iterable[AnySlot]) -> Iterator[tuple[AnySlot, list[Shard]]]:
        """The shards that slots without work would begin with, a shard of each item; nothing is handed out."""
        copies = {copy(slot): slot for slot in slots if slot.ready and not slot.leaving and not self._pace.late(slot)}
        for each in copies:
            each.held = []
        self.enrol(copies)
        for _ in self.assign():
            pass
        for each, slot in copies.items():
            if each.held:
                yield slot, [item.shards[0] for item in each.held]

    def is_open(self, item: WorkItem) -> bool:
        """Whether this dispatcher still waits for an item."""
        return item in self._open

    def answer(self, slot: AnySlot, item: WorkItem, computing: float | None = None) -> bool:
        """A slot has finished an item; whether this is the answer that counts.

        Args:
            slot: the slot.
            item: one that it holds.
            computing: seconds that its shards took themselves, where that is known.
        """
        if item is slot.held[0]:
            self._pace.saw(slot, item, computing)
        self._put_down(slot, item)
        counts = self.is_open(item)
        if counts:
            slot.done += len(item.shards)
            del self._open[item]
        item.answered = True
        return counts

    def failed(self, slot: AnySlot, item: WorkItem) -> bool:
        """A slot could not do an item; whether it is to try again, after what else it holds."""
        self._put_down(slot, item)
        if self.is_open(item):
            self._hold(slot, item)
            return True
        return False

    def give_back(self, slot: AnySlot) -> None:
        """What a lost slot held, and nobody else has, is first in line now."""
        self._release(slot)
        held, slot.held = slot.held, []
        for item in held:
            item.holders -= 1
        alone = [item for item in held if self.is_open(item) and not item.holders]
        for item in alone:
            item.kind = self._kind  # whoever gets it has no sample of it
        self._lost.extendleft(reversed(alone))
        shards = sum(len(item.shards) for item in alone)
        self._left += shards
        self._faults["shards_redone"] += shards
        self._retire(slot)
        self._slow.pop(slot, None)
        self._ask_all()

    # Who takes work -----------------------------------------------------------------------------------------------

    def _change(self, slot: AnySlot) -> None:
        """What a slot holds has changed, or its rate."""
        if slot.leaving:
            return
        self._balance.put(slot)
        for asked in self._ask:
            asked.pop(slot, None)
        self._idle.pop(slot, None)
        if not slot.held:
            self._idle[slot] = None
        if len(slot.held) < DEPTH:
            self._ask[len(slot.held)][slot] = None

    def _retire(self, slot: AnySlot) -> None:
        """A slot takes no more work."""
        self._balance.drop(slot)
        for asked in (*self._ask, self._idle):
            asked.pop(slot, None)

    def _ask_all(self) -> None:
        """What slots were asked before may be answered otherwise now."""
        for slot in self._balance.slots():
            self._change(slot)

    def _look(self) -> None:
        """See who is late."""
        if self._pace.clock.now < self._looked + SOON:
            return
        self._looked = self._pace.clock.now
        late = [slot for slot in self._balance.slots() if self._pace.late(slot)]
        for slot in late:
            self._release(slot)
            self._retire(slot)
            self._slow[slot] = None
        if late or self._slow:
            self._ask_all()

    # What is handed out -------------------------------------------------------------------------------------------

    def _next(self, slot: AnySlot) -> WorkItem | None:
        """What a slot is given of what nobody has."""
        if slot in self._reserved:
            return self._own(slot)
        size = self._balance.size(slot, self._left) if self._left else 0
        if not size:
            return None
        most = len(self._shards) if self._whole else size
        item = self._again(most) if self._lost else self._new(most)
        self._left -= len(item.shards)
        return item

    def _own(self, slot: AnySlot) -> WorkItem:
        """The next subtree whose sample a slot has in its memory."""
        nodes = self._reserved[slot]
        node = nodes.popleft()
        if not nodes:
            del self._reserved[slot]
        return self._item(self._held_kind, node)

    def _release(self, slot: AnySlot) -> None:
        """What was for this slot is for all."""
        for node in self._reserved.pop(slot, ()):
            self._left += self._pool.put(node)

    def _new(self, most: int) -> WorkItem:
        return self._item(self._kind, self._pool.take(most))

    def _item(self, kind: str, node: Node) -> WorkItem:
        item = WorkItem(kind, node, [self._shards[leaf] for leaf in node.leaves(len(self._shards))])
        self._open[item] = None
        return item

    def _again(self, most: int) -> WorkItem:
        """The first item that was given back, or a part of it."""
        item = self._lost.popleft()
        while len(item.shards) > most:
            del self._open[item]
            item, other = item.halves()
            self._open |= {item: None, other: None}
            self._lost.appendleft(other)
        return item

    def _second_try(self) -> WorkItem | None:
        """An item of a late slot that nobody else has; rather one that it has not begun."""
        for slot in sorted(self._slow, key=lambda slot: slot.since):
            for item in reversed(slot.held):
                if self.is_open(item) and item.holders == 1:
                    self._faults["shards_duplicated"] += len(item.shards)
                    self._tell(slot)
                    return item
        return None

    def _tell(self, slot: AnySlot) -> None:
        if not slot.told and not slot.leaving:
            slot.told = True
            waited = self._pace.waited(slot)
            log.info("worker %d is late (%.1f s): others compute its shards too", slot.number, waited)

    def _hold(self, slot: AnySlot, item: WorkItem) -> None:
        """A slot takes an item."""
        if not slot.held:
            slot.since = self._pace.clock.now
        slot.held.append(item)
        item.holders += 1
        if slot not in self._slow:
            self._change(slot)

    def _put_down(self, slot: AnySlot, item: WorkItem) -> None:
        """A slot has an item no more, and begins with the next one."""
        slot.held.remove(item)
        item.holders -= 1
        slot.since, slot.told = self._pace.clock.now, False
        if not slot.leaving:
            self._slow.pop(slot, None)
        self._change(slot)
