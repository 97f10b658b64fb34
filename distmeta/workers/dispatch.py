"""Who computes which piece of a step, who is late, and whose answer counts. Knows nothing of Ray.

Pieces go to the desk that has least to do, and are cut to its rate (see :mod:`~distmeta.workers.balance`). A desk
that is late gets nothing new, and what it holds is also given to desks that have nothing to do; the first answer
counts. Since every piece has one place in the tree of additions, it makes no difference who computed it.

There may be hundreds of desks. So whatever happens costs as much as concerns it, however many others there are; only
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
from distmeta.workers.balance import AnyDesk, Balance
from distmeta.workers.base import Kind
from distmeta.workers.pace import Pace, Piece

log = logging.getLogger(__name__)

DEPTH = 2
"""Pieces that a desk holds: one at work, one waiting, so that a worker never waits for the driver."""

SOON = 0.02
"""Seconds between looks at whether somebody is late."""


class Board(Generic[AnyDesk]):
    """The work of one step, until all of it is answered.

    Args:
        kind: what is to be done.
        shards: with these.
        nodes: the largest subtrees that one desk may be given.
        whole: give out these subtrees as they are.
        pace: how long such work takes.
        faults: counts ``shards_redone`` and ``shards_duplicated``.
    """

    def __init__(
        self,
        kind: Kind,
        shards: Sequence[Shard],
        nodes: Sequence[Node],
        pace: Pace,
        faults: MutableMapping[str, int],
        *,
        whole: bool = False,
    ) -> None:
        self._kind = kind
        self._shards = shards
        self._pool = Pool(len(shards), nodes)
        self._whole = whole
        self._pace = pace
        self._faults = faults
        self._balance: Balance[AnyDesk] = Balance(kind, pace)
        self._lost: deque[Piece] = deque()  # given back, first in line
        self._open: dict[Piece, None] = {}  # given out, or given back, and not answered
        self._left = len(shards)  # shards that nobody has yet
        self._ask: list[dict[AnyDesk, None]] = [{} for _ in range(DEPTH)]  # desks to be asked, by what they hold
        self._idle: dict[AnyDesk, None] = {}
        self._slow: dict[AnyDesk, None] = {}  # late or leaving
        self._looked = -SOON  # at once: who is late with an earlier step's work gets nothing of this one

    @property
    def unanswered(self) -> bool:
        """Whether there is something to wait for."""
        return bool(self._pool.left or self._open)

    @property
    def idle(self) -> bool:
        """Whether a desk that takes work has none."""
        return bool(self._idle)

    def open(self) -> list[Piece]:
        """Pieces that were given out, or given back, and are not answered."""
        return list(self._open)

    def enrol(self, desks: Iterable[AnyDesk]) -> None:
        """These desks are there now; those that are ready and do not leave take work."""
        for desk in desks:
            if desk.leaving:
                self._retire(desk)
                self._slow[desk] = None
            elif desk.ready and desk not in self._slow and desk not in self._balance:
                self._change(desk)

    def assign(self) -> Iterator[tuple[AnyDesk, Piece]]:
        """Hand out what can be handed out now: each pair is to be sent on."""
        self._look()
        if self._left and not self._balance.load:
            self._ask_all()  # whoever has let others go first, these may be gone
        for asked in self._ask:
            while asked:
                desk = next(iter(asked))
                del asked[desk]
                piece = self._next(desk)
                if piece is None and not desk.held and not self._left:
                    piece = self._second_try()
                if piece is not None:
                    self._hold(desk, piece)
                    yield desk, piece

    def first_shards(self, desks: Iterable[AnyDesk]) -> Iterator[tuple[AnyDesk, list[Shard]]]:
        """The shards that desks without work would begin with, a shard of each piece; nothing is handed out."""
        copies = {copy(desk): desk for desk in desks if desk.ready and not desk.leaving and not self._pace.late(desk)}
        for each in copies:
            each.held = []
        self.enrol(copies)
        for _ in self.assign():
            pass
        for each, desk in copies.items():
            if each.held:
                yield desk, [piece.shards[0] for piece in each.held]

    def is_open(self, piece: Piece) -> bool:
        """Whether this board still waits for a piece."""
        return piece in self._open

    def answer(self, desk: AnyDesk, piece: Piece, computing: float | None = None) -> bool:
        """A desk has finished a piece; whether this is the answer that counts.

        Args:
            desk: the desk.
            piece: one that it holds.
            computing: seconds that its shards took themselves, where that is known.
        """
        if piece is desk.held[0]:
            self._pace.saw(desk, piece, computing)
        self._put_down(desk, piece)
        counts = self.is_open(piece)
        if counts:
            desk.done += len(piece.shards)
            del self._open[piece]
        piece.answered = True
        return counts

    def failed(self, desk: AnyDesk, piece: Piece) -> bool:
        """A desk could not do a piece; whether it is to try again, after what else it holds."""
        self._put_down(desk, piece)
        if self.is_open(piece):
            self._hold(desk, piece)
            return True
        return False

    def give_back(self, desk: AnyDesk) -> None:
        """What a lost desk held, and nobody else has, is first in line now."""
        held, desk.held = desk.held, []
        for piece in held:
            piece.holders -= 1
        alone = [piece for piece in held if self.is_open(piece) and not piece.holders]
        self._lost.extendleft(reversed(alone))
        shards = sum(len(piece.shards) for piece in alone)
        self._left += shards
        self._faults["shards_redone"] += shards
        self._retire(desk)
        self._slow.pop(desk, None)
        self._ask_all()

    # Who takes work -----------------------------------------------------------------------------------------------

    def _change(self, desk: AnyDesk) -> None:
        """What a desk holds has changed, or its rate."""
        if desk.leaving:
            return
        self._balance.put(desk)
        for asked in self._ask:
            asked.pop(desk, None)
        self._idle.pop(desk, None)
        if not desk.held:
            self._idle[desk] = None
        if len(desk.held) < DEPTH:
            self._ask[len(desk.held)][desk] = None

    def _retire(self, desk: AnyDesk) -> None:
        """A desk takes no more work."""
        self._balance.drop(desk)
        for asked in (*self._ask, self._idle):
            asked.pop(desk, None)

    def _ask_all(self) -> None:
        """What desks were asked before may be answered otherwise now."""
        for desk in self._balance.desks():
            self._change(desk)

    def _look(self) -> None:
        """See who is late."""
        if self._pace.clock.now < self._looked + SOON:
            return
        self._looked = self._pace.clock.now
        late = [desk for desk in self._balance.desks() if self._pace.late(desk)]
        for desk in late:
            self._retire(desk)
            self._slow[desk] = None
        if late or self._slow:
            self._ask_all()

    # What is handed out -------------------------------------------------------------------------------------------

    def _next(self, desk: AnyDesk) -> Piece | None:
        """What a desk is given of what nobody has."""
        size = self._balance.size(desk, self._left) if self._left else 0
        if not size:
            return None
        most = len(self._shards) if self._whole else size
        piece = self._again(most) if self._lost else self._new(most)
        self._left -= len(piece.shards)
        return piece

    def _new(self, most: int) -> Piece:
        node = self._pool.take(most)
        piece = Piece(self._kind, node, [self._shards[leaf] for leaf in node.leaves(len(self._shards))])
        self._open[piece] = None
        return piece

    def _again(self, most: int) -> Piece:
        """The first piece that was given back, or a part of it."""
        piece = self._lost.popleft()
        while len(piece.shards) > most:
            del self._open[piece]
            piece, other = piece.halves()
            self._open |= {piece: None, other: None}
            self._lost.appendleft(other)
        return piece

    def _second_try(self) -> Piece | None:
        """A piece of a late desk that nobody else has; rather one that it has not begun."""
        for desk in sorted(self._slow, key=lambda desk: desk.since):
            for piece in reversed(desk.held):
                if self.is_open(piece) and piece.holders == 1:
                    self._faults["shards_duplicated"] += len(piece.shards)
                    self._tell(desk)
                    return piece
        return None

    def _tell(self, desk: AnyDesk) -> None:
        if not desk.told and not desk.leaving:
            desk.told = True
            waited = self._pace.waited(desk)
            log.info("worker %d is late (%.1f s): others compute its shards too", desk.number, waited)

    def _hold(self, desk: AnyDesk, piece: Piece) -> None:
        """A desk takes a piece."""
        if not desk.held:
            desk.since = self._pace.clock.now
        desk.held.append(piece)
        piece.holders += 1
        if desk not in self._slow:
            self._change(desk)

    def _put_down(self, desk: AnyDesk, piece: Piece) -> None:
        """A desk has a piece no more, and begins with the next one."""
        desk.held.remove(piece)
        piece.holders -= 1
        desk.since, desk.told = self._pace.clock.now, False
        if not desk.leaving:
            self._slow.pop(desk, None)
        self._change(desk)
