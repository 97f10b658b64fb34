"""Who gets which piece, who is late, who is given up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest

from distmeta.evaluate import cut
from distmeta.transports.base import Kind
from distmeta.transports.board import COLD, DEPTH, HUNG, LATE, SLACK, UNKNOWN, Board, Desk, Pace, Piece, hold
from distmeta.tree import cover


def pieces(count: int, kind: Kind = "gradient", level: int = 0) -> list[Piece]:
    shards = cut("train", 0, 2 * count, 2)
    return [Piece(kind, node, [shards[leaf] for leaf in node.leaves(count)]) for node in cover(count, level)]


def desks(count: int) -> list[Desk]:
    return [Desk(number, ready=True) for number in range(1, count + 1)]


class Room:
    """A board, its desks, and what was counted."""

    def __init__(self, count: int, workers: int, hang_seconds: float = 10.0) -> None:
        self.pieces = pieces(count)
        self.desks = desks(workers)
        self.pace = Pace(hang_seconds)
        self.faults: Counter[str] = Counter()
        self.board = Board(self.pieces, self.pace, self.faults)

    def assign(self) -> list[tuple[int, int]]:
        """Pairs of a desk's number and a piece's index."""
        return [(desk.number, piece.node.index) for desk, piece in self.board.assign(self.desks)]

    def answer(self, number: int, seconds: float = 1.0) -> bool:
        """A desk finishes what it is at."""
        (desk,) = (desk for desk in self.desks if desk.number == number)
        desk.waited = seconds
        return self.board.answer(desk, desk.held[0])


def warm(room: Room, seconds: float = 1.0) -> None:
    """Every desk has done such work before, in this many seconds a shard."""
    for desk in room.desks:
        for _ in range(2):
            (piece,) = pieces(1)
            hold(desk, piece)
            desk.waited = seconds
            room.board.answer(desk, piece)


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
    assert {number for number, _ in room.assign()} == {3}


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
    lost = room.desks.pop(0)
    room.board.give_back(lost, room.desks)
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
    room.desks[0].waited = LATE * 1.0 + SLACK + 0.01
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
    room.desks[0].waited = 10.0
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
    room.desks[0].waited = 10.0
    room.assign()
    lost = room.desks.pop(0)
    room.board.give_back(lost, room.desks)
    assert room.faults["shards_redone"] == 0
    assert room.assign() == []


def test_pieces_of_an_earlier_board_are_nothing_to_this_one() -> None:
    room = Room(1, 2)
    room.assign()
    later = Board(pieces(1), room.pace, room.faults)
    assert not later.answer(room.desks[0], room.desks[0].held[0])
    assert later.unanswered


@pytest.mark.parametrize(("known", "seen", "limit"), [(False, [], UNKNOWN), (True, [0.1], 10.0), (True, [3.0], 30.0)])
def test_limits(known: bool, seen: Sequence[float], limit: float) -> None:
    room = Room(1, 2)
    for seconds in seen:
        warm(room, seconds)
    desk = Desk(9, ready=True, known={"gradient"} if known else set())
    hold(desk, room.pieces[0])
    assert room.pace.limit(desk) == pytest.approx(limit)


def test_a_new_desk_has_more_time_for_its_first_piece() -> None:
    room = Room(1, 2)
    warm(room, 0.1)
    desk = Desk(9, ready=True)
    hold(desk, room.pieces[0])
    assert room.pace.limit(desk) == COLD * 10.0
    warm_up = Room(1, 1)
    warm_up.assign()
    warm_up.answer(1, 20.0)
    hold(desk, room.pieces[0])
    assert warm_up.pace.limit(desk) == HUNG * 20.0


def test_tasks_are_named() -> None:
    assert pieces(4, level=1)[1].tasks == "training tasks 4 to 7"
    (shard,) = cut("test", 5, 1, 1)
    assert Piece("test", cover(1, 0)[0], [shard]).tasks == "meta-test task 5"
