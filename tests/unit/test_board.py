"""Who gets which piece, who is late, who is given up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest

from distmeta.core.tree import Node, cover, share
from distmeta.runs.evaluate import cut
from distmeta.workers.base import Kind
from distmeta.workers.dispatch import DEPTH, SOON, Board
from distmeta.workers.pace import ABSENT, COLD, HUNG, LATE, SLACK, STALE, UNKNOWN, Clock, Desk, Pace, Piece


def pieces(count: int, kind: Kind = "gradient", level: int = 0) -> list[Piece]:
    shards = cut("train", 0, 2 * count, 2)
    return [Piece(kind, node, [shards[leaf] for leaf in node.leaves(count)]) for node in cover(count, level)]


def desks(count: int) -> list[Desk]:
    return [Desk(number, ready=True) for number in range(1, count + 1)]


class Room:
    """A board of single shards, its desks, and what was counted."""

    def __init__(self, count: int, workers: int, hang_seconds: float = 10.0) -> None:
        self.desks = desks(workers)
        self.clock = Clock()
        self.pace = Pace(hang_seconds, self.clock)
        self.faults: Counter[str] = Counter()
        self.start(cover(count, 0), count)

    def start(self, nodes: Sequence[Node], count: int, *, whole: bool = False) -> None:
        """A new board."""
        shards = cut("train", 0, 2 * count, 2)
        self.board: Board[Desk] = Board("gradient", shards, nodes, self.pace, self.faults, whole=whole)
        self.board.enrol(self.desks)

    def assign(self) -> list[tuple[int, int]]:
        """Pairs of a desk's number and a piece's index."""
        return [(desk.number, piece.node.index) for desk, piece in self.board.assign()]

    def answer(self, number: int, seconds: float = 1.0) -> bool:
        """A desk finishes what it is at, for which it has taken so long."""
        (desk,) = (desk for desk in self.desks if desk.number == number)
        desk.since = self.clock.now - seconds
        return self.board.answer(desk, desk.held[0])

    def lose(self, number: int) -> Desk:
        """A desk is gone."""
        (desk,) = (desk for desk in self.desks if desk.number == number)
        self.desks.remove(desk)
        self.board.give_back(desk)
        return desk


def take(desk: Desk, piece: Piece, pace: Pace, ago: float = 0.0) -> None:
    """A desk is at a piece, and was so long."""
    desk.held.append(piece)
    desk.since = pace.clock.now - ago


def warm(room: Room, seconds: float = 1.0) -> None:
    """Every desk has done such work before, in this many seconds a shard."""
    for desk in room.desks:
        for _ in range(2):
            (piece,) = pieces(1)
            take(desk, piece, room.pace, seconds)
            piece.holders += 1
            room.board.answer(desk, piece)


def slow_and_fast() -> Room:
    """Four shards, and a second desk of which it is known that it takes 100 times as long as the first one."""
    room = Room(4, 2)
    for _ in range(4):
        for desk, seconds in zip(room.desks, (1.0, 100.0), strict=True):
            (piece,) = pieces(1)
            take(desk, piece, room.pace, seconds)
            piece.holders += 1
            room.board.answer(desk, piece)
    return room


def test_pieces_go_round_until_every_desk_holds_enough() -> None:
    room = Room(8, 2)
    assert room.assign() == [(1, 0), (2, 1), (1, 2), (2, 3)]
    assert [len(desk.held) for desk in room.desks] == [DEPTH, DEPTH]
    assert room.assign() == []
    assert room.answer(2)
    assert room.assign() == [(2, 4)]


def test_desks_that_are_not_ready_or_leave_get_nothing() -> None:
    room = Room(4, 3)
    room.desks[0].ready = False
    room.desks[1].leaving = True
    room.start(cover(4, 0), 4)
    assert {number for number, _ in room.assign()} == {3}


def test_a_desk_that_is_told_to_leave_gets_nothing_more_and_is_helped() -> None:
    room = Room(3, 2)
    room.assign()
    room.desks[0].leaving = True
    room.board.enrol(room.desks)
    assert room.answer(2)
    assert room.assign() == [(2, 2)]
    assert room.answer(2)
    assert room.assign() == [(2, 0)]
    assert room.answer(1)
    assert room.assign() == []
    assert not room.board.unanswered


def test_a_desk_that_comes_later_takes_work() -> None:
    room = Room(8, 1)
    room.assign()
    assert not room.board.idle
    room.desks.append(Desk(2, ready=True))
    room.board.enrol(room.desks)
    assert room.board.idle
    assert room.assign() == [(2, 2), (2, 3)]


def test_all_answers_end_a_board() -> None:
    room = Room(3, 1)
    while room.board.unanswered:
        room.assign()
        assert room.answer(1)
    assert room.desks[0].done == 3
    assert room.faults == {}


def test_what_a_lost_desk_held_is_first_in_line() -> None:
    room = Room(8, 2)
    room.assign()
    room.lose(1)
    assert room.faults["shards_redone"] == 2
    assert room.answer(2)
    assert room.assign() == [(2, 0)]


def test_a_late_desk_gets_no_more_and_the_idle_help_it() -> None:
    room = Room(4, 2)
    warm(room)
    assert room.assign() == [(1, 0), (2, 1), (1, 2), (2, 3)]
    assert room.answer(2)
    assert room.answer(2)
    assert room.assign() == [], "desk 1 is not late yet"
    room.clock.now += LATE * 1.0 + SLACK + 0.01
    assert room.assign() == [(2, 2)], "first what it has not begun"
    assert room.answer(2)
    assert room.assign() == [(2, 0)]
    assert room.assign() == [], "nobody gets a piece that two have"
    assert room.faults["shards_duplicated"] == 2
    assert room.answer(1, 5.0), "the late one was first after all"
    assert not room.board.unanswered
    assert not room.answer(2)


def test_the_first_answer_counts() -> None:
    room = Room(1, 2)
    warm(room)
    room.assign()
    room.clock.now += 10.0
    assert room.assign() == [(2, 0)]
    done = room.desks[0].done
    assert room.answer(2)
    assert not room.board.unanswered
    assert not room.answer(1)
    assert room.desks[0].done == done, "an answer that came too late is nobody's work"


def test_losing_a_desk_whose_piece_another_has_redoes_nothing() -> None:
    room = Room(1, 2)
    warm(room)
    room.assign()
    room.clock.now += 10.0
    room.assign()
    room.lose(1)
    assert room.faults["shards_redone"] == 0
    assert room.assign() == []


def test_pieces_of_an_earlier_board_are_nothing_to_this_one() -> None:
    room = Room(1, 2)
    room.assign()
    room.start(cover(1, 0), 1)
    assert not room.answer(1)
    assert room.board.unanswered


def test_lost_work_is_divided_among_those_who_are_there() -> None:
    """What a piece has done to workers counts for each of its parts: one of them is the reason."""
    room = Room(1, 2)
    room.start([Node(5, 0)], 32)
    (_, piece), *_ = room.board.assign()
    piece.deaths, piece.trace = 2, "what it said"
    assert len(piece.shards) == 4
    room.lose(1)
    room.desks += [Desk(number, ready=True) for number in range(3, 40)]
    room.board.enrol(room.desks)
    parts = [part for _, part in room.board.assign() if part.deaths]
    assert [(part.shards[0].index, len(part.shards)) for part in parts] == [(0, 1), (1, 1), (2, 1), (3, 1)]
    assert {(part.deaths, part.trace) for part in parts} == {(2, "what it said")}
    assert not room.board.is_open(piece)


def test_halves_are_subtrees() -> None:
    (piece,) = pieces(7, level=3)
    first, second = piece.halves()
    assert [list(half.node.leaves(7)) for half in (first, second)] == [[0, 1, 2, 3], [4, 5, 6]]
    assert [[shard.index for shard in half.shards] for half in (first, second)] == [[0, 1, 2, 3], [4, 5, 6]]
    (small,) = pieces(3, level=4)
    assert [list(half.node.leaves(3)) for half in small.halves()] == [[0, 1], [2]]


def test_what_failed_is_tried_again_unless_another_was_faster() -> None:
    room = Room(2, 2)
    warm(room)
    assert room.assign() == [(1, 0), (2, 1)]
    desk, piece = room.desks[0], room.desks[0].held[0]
    assert room.board.failed(desk, piece)
    assert desk.held == [piece]
    assert room.answer(2)
    room.clock.now += 10.0
    assert room.assign() == [(2, 0)]
    assert room.answer(2)
    assert not room.board.failed(desk, piece)
    assert desk.held == []


def test_big_subtrees_are_given_out_as_they_are() -> None:
    room = Room(1, 3)
    room.start(share(8, 3), 8, whole=True)
    given = [(desk.number, list(piece.node.leaves(8))) for desk, piece in room.board.assign()]
    assert given == [(1, [0, 1]), (2, [2, 3]), (3, [4, 5]), (1, [6]), (2, [7])]


def test_first_shards_are_those_that_the_next_board_gives_out() -> None:
    room = Room(32, 2)
    warm(room)
    assert room.assign()
    shards = cut("train", 64, 64, 2)
    ahead: Board[Desk] = Board("gradient", shards, [Node(5, 0)], room.pace, room.faults)
    told = {desk.number: [shard.start for shard in firsts] for desk, firsts in ahead.first_shards(room.desks)}
    assert all(desk.held for desk in room.desks), "they go on with what they hold"
    for desk in room.desks:
        desk.held.clear()
    later: Board[Desk] = Board("gradient", shards, [Node(5, 0)], room.pace, room.faults)
    later.enrol(room.desks)
    given: dict[int, list[int]] = {1: [], 2: []}
    for desk, piece in later.assign():
        given[desk.number].append(piece.shards[0].start)
    assert told == given


def test_whatever_nobody_wants_is_done_all_the_same() -> None:
    """A slow desk leaves work to the others; when these are gone it does it."""
    room = slow_and_fast()
    assert {number for number, _ in room.assign()} == {1}
    room.lose(1)
    assert {number for number, _ in room.assign()} == {2}


def test_a_slow_desk_is_tried_again_after_a_while() -> None:
    room = slow_and_fast()
    room.clock.now += STALE + 0.1
    assert room.assign()[:2] == [(1, 0), (2, 1)]
    assert room.answer(2)
    rate = room.pace.rate(room.desks[1], "gradient")
    assert rate is not None
    assert rate.value == 1.0, "what it was does not count any more"


def test_who_is_late_with_an_earlier_board_gets_nothing_of_the_next() -> None:
    room = Room(1, 2)
    warm(room)
    assert room.assign() == [(1, 0)]
    room.clock.now += 10.0
    assert room.assign() == [(2, 0)]
    assert room.answer(2)
    room.start(cover(4, 0), 4)
    assert {number for number, _ in room.assign()} == {2}


def test_the_clock_counts_neither_other_work_nor_long_absence(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 0.25, 7.0, 7.5, 99.0])  # at the start, a tick, a resumption, two ticks
    monkeypatch.setattr("time.monotonic", lambda: next(times))
    clock = Clock()
    clock.tick()
    clock.resume()
    clock.tick()
    assert clock.now == 0.75
    clock.tick()
    assert clock.now == 0.75 + ABSENT


def test_the_late_are_looked_for_now_and_then() -> None:
    room = Room(2, 2)
    warm(room, 0.001)
    assert room.assign() == [(1, 0), (2, 1)]
    assert room.answer(2)
    room.clock.now += SLACK + 2 * LATE * 0.001 + SOON
    assert room.assign() == [(2, 0)]


@pytest.mark.parametrize(("known", "seen", "limit"), [(False, [], UNKNOWN), (True, [0.1], 10.0), (True, [3.0], 30.0)])
def test_limits(known: bool, seen: Sequence[float], limit: float) -> None:
    room = Room(1, 2)
    for seconds in seen:
        warm(room, seconds)
    desk = Desk(9, ready=True, known={"gradient"} if known else set())
    take(desk, pieces(1)[0], room.pace)
    assert room.pace.limit(desk) == pytest.approx(limit)


def test_a_new_desk_has_more_time_for_its_first_piece() -> None:
    room = Room(1, 2)
    warm(room, 0.1)
    desk = Desk(9, ready=True)
    take(desk, pieces(1)[0], room.pace)
    assert room.pace.limit(desk) == COLD * 10.0
    warm_up = Room(1, 1)
    warm_up.assign()
    warm_up.answer(1, 20.0)
    assert warm_up.pace.limit(desk) == HUNG * 20.0


def test_tasks_are_named() -> None:
    assert pieces(4, level=1)[1].tasks == "training tasks 4 to 7"
    (shard,) = cut("test", 5, 1, 1)
    assert Piece("test", cover(1, 0)[0], [shard]).tasks == "meta-test task 5"
