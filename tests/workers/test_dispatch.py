"""Who gets which item, who is late, who is given up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest

from distmeta.core.tree import Node, cover, share
from distmeta.runs.evaluate import cut
from distmeta.workers.dispatch import DEPTH, SOON, Dispatcher
from distmeta.workers.pace import ABSENT, COLD, HUNG, LATE, SLACK, STALE, UNKNOWN, Clock, Pace, WorkerSlot, WorkItem


def items(count: int, kind: str = "gradient", level: int = 0) -> list[WorkItem]:
    shards = cut("train", 0, 2 * count, 2)
    return [WorkItem(kind, node, [shards[leaf] for leaf in node.leaves(count)]) for node in cover(count, level)]


def slots(count: int) -> list[WorkerSlot]:
    return [WorkerSlot(number, ready=True) for number in range(1, count + 1)]


class SimulatedWorkers:
    """A dispatcher of single shards, its slots, and what was counted."""

    def __init__(self, count: int, workers: int, hang_seconds: float = 10.0) -> None:
        self.slots = slots(workers)
        self.clock = Clock()
        self.pace = Pace(hang_seconds, self.clock)
        self.faults: Counter[str] = Counter()
        self.start(cover(count, 0), count)

    def start(self, nodes: Sequence[Node], count: int, *, whole: bool = False) -> None:
        """A new dispatcher."""
        shards = cut("train", 0, 2 * count, 2)
        self.dispatcher: Dispatcher[WorkerSlot] = Dispatcher(
            "gradient", shards, nodes, self.pace, self.faults, whole=whole
        )
        self.dispatcher.enrol(self.slots)

    def assign(self) -> list[tuple[int, int]]:
        """Pairs of a slot's number and an item's index."""
        return [(slot.number, item.node.index) for slot, item in self.dispatcher.assign()]

    def answer(self, number: int, seconds: float = 1.0) -> bool:
        """A slot finishes what it is at, for which it has taken so long."""
        (slot,) = (slot for slot in self.slots if slot.number == number)
        slot.since = self.clock.now - seconds
        return self.dispatcher.answer(slot, slot.held[0])

    def lose(self, number: int) -> WorkerSlot:
        """A slot is gone."""
        (slot,) = (slot for slot in self.slots if slot.number == number)
        self.slots.remove(slot)
        self.dispatcher.give_back(slot)
        return slot


def take(slot: WorkerSlot, item: WorkItem, pace: Pace, ago: float = 0.0) -> None:
    """A slot is at an item, and was so long."""
    slot.held.append(item)
    slot.since = pace.clock.now - ago


def warm(workers: SimulatedWorkers, seconds: float = 1.0) -> None:
    """Every slot has done such work before, in this many seconds a shard."""
    for slot in workers.slots:
        for _ in range(2):
            (item,) = items(1)
            take(slot, item, workers.pace, seconds)
            item.holders += 1
            workers.dispatcher.answer(slot, item)


def slow_and_fast() -> SimulatedWorkers:
    """Four shards, and a second slot of which it is known that it takes 100 times as long as the first one."""
    workers = SimulatedWorkers(4, 2)
    for _ in range(4):
        for slot, seconds in zip(workers.slots, (1.0, 100.0), strict=True):
            (item,) = items(1)
            take(slot, item, workers.pace, seconds)
            item.holders += 1
            workers.dispatcher.answer(slot, item)
    return workers


def test_items_go_round_until_every_slot_holds_enough() -> None:
    workers = SimulatedWorkers(8, 2)
    assert workers.assign() == [(1, 0), (2, 1), (1, 2), (2, 3)]
    assert [len(slot.held) for slot in workers.slots] == [DEPTH, DEPTH]
    assert workers.assign() == []
    assert workers.answer(2)
    assert workers.assign() == [(2, 4)]


def test_slots_that_are_not_ready_or_leave_get_nothing() -> None:
    workers = SimulatedWorkers(4, 3)
    workers.slots[0].ready = False
    workers.slots[1].leaving = True
    workers.start(cover(4, 0), 4)
    assert {number for number, _ in workers.assign()} == {3}


def test_a_slot_that_is_told_to_leave_gets_nothing_more_and_is_helped() -> None:
    workers = SimulatedWorkers(3, 2)
    workers.assign()
    workers.slots[0].leaving = True
    workers.dispatcher.enrol(workers.slots)
    assert workers.answer(2)
    assert workers.assign() == [(2, 2)]
    assert workers.answer(2)
    assert workers.assign() == [(2, 0)]
    assert workers.answer(1)
    assert workers.assign() == []
    assert not workers.dispatcher.unanswered


def test_a_slot_that_comes_later_takes_work() -> None:
    workers = SimulatedWorkers(8, 1)
    workers.assign()
    assert not workers.dispatcher.idle
    workers.slots.append(WorkerSlot(2, ready=True))
    workers.dispatcher.enrol(workers.slots)
    assert workers.dispatcher.idle
    assert workers.assign() == [(2, 2), (2, 3)]


def test_all_answers_end_a_dispatcher() -> None:
    workers = SimulatedWorkers(3, 1)
    while workers.dispatcher.unanswered:
        workers.assign()
        assert workers.answer(1)
    assert workers.slots[0].done == 3
    assert workers.faults == {}


def test_what_a_lost_slot_held_is_first_in_line() -> None:
    workers = SimulatedWorkers(8, 2)
    workers.assign()
    workers.lose(1)
    assert workers.faults["shards_redone"] == 2
    assert workers.answer(2)
    assert workers.assign() == [(2, 0)]


def test_a_late_slot_gets_no_more_and_the_idle_help_it() -> None:
    workers = SimulatedWorkers(4, 2)
    warm(workers)
    assert workers.assign() == [(1, 0), (2, 1), (1, 2), (2, 3)]
    assert workers.answer(2)
    assert workers.answer(2)
    assert workers.assign() == [], "slot 1 is not late yet"
    workers.clock.now += LATE * 1.0 + SLACK + 0.01
    assert workers.assign() == [(2, 2)], "first what it has not begun"
    assert workers.answer(2)
    assert workers.assign() == [(2, 0)]
    assert workers.assign() == [], "nobody gets an item that two have"
    assert workers.faults["shards_duplicated"] == 2
    assert workers.answer(1, 5.0), "the late one was first after all"
    assert not workers.dispatcher.unanswered
    assert not workers.answer(2)


def test_the_first_answer_counts() -> None:
    workers = SimulatedWorkers(1, 2)
    warm(workers)
    workers.assign()
    workers.clock.now += 10.0
    assert workers.assign() == [(2, 0)]
    done = workers.slots[0].done
    assert workers.answer(2)
    assert not workers.dispatcher.unanswered
    assert not workers.answer(1)
    assert workers.slots[0].done == done, "an answer that came too late is nobody's work"


def test_losing_a_slot_whose_item_another_has_redoes_nothing() -> None:
    workers = SimulatedWorkers(1, 2)
    warm(workers)
    workers.assign()
    workers.clock.now += 10.0
    workers.assign()
    workers.lose(1)
    assert workers.faults["shards_redone"] == 0
    assert workers.assign() == []


def test_items_of_an_earlier_dispatcher_are_nothing_to_this_one() -> None:
    workers = SimulatedWorkers(1, 2)
    workers.assign()
    workers.start(cover(1, 0), 1)
    assert not workers.answer(1)
    assert workers.dispatcher.unanswered


def test_lost_work_is_divided_among_those_who_are_there() -> None:
    """What an item has done to workers counts for each of its parts: one of them is the reason."""
    workers = SimulatedWorkers(1, 2)
    workers.start([Node(5, 0)], 32)
    (_, item), *_ = workers.dispatcher.assign()
    item.deaths, item.trace = 2, "what it said"
    assert len(item.shards) == 4
    workers.lose(1)
    workers.slots += [WorkerSlot(number, ready=True) for number in range(3, 40)]
    workers.dispatcher.enrol(workers.slots)
    parts = [part for _, part in workers.dispatcher.assign() if part.deaths]
    assert [(part.shards[0].index, len(part.shards)) for part in parts] == [(0, 1), (1, 1), (2, 1), (3, 1)]
    assert {(part.deaths, part.trace) for part in parts} == {(2, "what it said")}
    assert not workers.dispatcher.is_open(item)


def test_halves_are_subtrees() -> None:
    (item,) = items(7, level=3)
    first, second = item.halves()
    assert [list(half.node.leaves(7)) for half in (first, second)] == [[0, 1, 2, 3], [4, 5, 6]]
    assert [[shard.index for shard in half.shards] for half in (first, second)] == [[0, 1, 2, 3], [4, 5, 6]]
    (small,) = items(3, level=4)
    assert [list(half.node.leaves(3)) for half in small.halves()] == [[0, 1], [2]]


def test_what_failed_is_tried_again_unless_another_was_faster() -> None:
    workers = SimulatedWorkers(2, 2)
    warm(workers)
    assert workers.assign() == [(1, 0), (2, 1)]
    slot, item = workers.slots[0], workers.slots[0].held[0]
    assert workers.dispatcher.failed(slot, item)
    assert slot.held == [item]
    assert workers.answer(2)
    workers.clock.now += 10.0
    assert workers.assign() == [(2, 0)]
    assert workers.answer(2)
    assert not workers.dispatcher.failed(slot, item)
    assert slot.held == []


def test_big_subtrees_are_given_out_as_they_are() -> None:
    workers = SimulatedWorkers(1, 3)
    workers.start(share(8, 3), 8, whole=True)
    given = [(slot.number, list(item.node.leaves(8))) for slot, item in workers.dispatcher.assign()]
    assert given == [(1, [0, 1]), (2, [2, 3]), (3, [4, 5]), (1, [6]), (2, [7])]


def test_first_shards_are_those_that_the_next_dispatcher_gives_out() -> None:
    workers = SimulatedWorkers(32, 2)
    warm(workers)
    assert workers.assign()
    shards = cut("train", 64, 64, 2)
    ahead: Dispatcher[WorkerSlot] = Dispatcher("gradient", shards, [Node(5, 0)], workers.pace, workers.faults)
    told = {slot.number: [shard.start for shard in firsts] for slot, firsts in ahead.first_shards(workers.slots)}
    assert all(slot.held for slot in workers.slots), "they go on with what they hold"
    for slot in workers.slots:
        slot.held.clear()
    later: Dispatcher[WorkerSlot] = Dispatcher("gradient", shards, [Node(5, 0)], workers.pace, workers.faults)
    later.enrol(workers.slots)
    given: dict[int, list[int]] = {1: [], 2: []}
    for slot, item in later.assign():
        given[slot.number].append(item.shards[0].start)
    assert told == given


def test_whatever_nobody_wants_is_done_all_the_same() -> None:
    """A slow slot leaves work to the others; when these are gone it does it."""
    workers = slow_and_fast()
    assert {number for number, _ in workers.assign()} == {1}
    workers.lose(1)
    assert {number for number, _ in workers.assign()} == {2}


def test_a_slow_slot_is_tried_again_after_a_while() -> None:
    workers = slow_and_fast()
    workers.clock.now += STALE + 0.1
    assert workers.assign()[:2] == [(1, 0), (2, 1)]
    assert workers.answer(2)
    rate = workers.pace.rate(workers.slots[1], "gradient")
    assert rate is not None
    assert rate.value == 1.0, "what it was does not count any more"


def test_who_is_late_with_an_earlier_dispatcher_gets_nothing_of_the_next() -> None:
    workers = SimulatedWorkers(1, 2)
    warm(workers)
    assert workers.assign() == [(1, 0)]
    workers.clock.now += 10.0
    assert workers.assign() == [(2, 0)]
    assert workers.answer(2)
    workers.start(cover(4, 0), 4)
    assert {number for number, _ in workers.assign()} == {2}


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
    workers = SimulatedWorkers(2, 2)
    warm(workers, 0.001)
    assert workers.assign() == [(1, 0), (2, 1)]
    assert workers.answer(2)
    workers.clock.now += SLACK + 2 * LATE * 0.001 + SOON
    assert workers.assign() == [(2, 0)]


@pytest.mark.parametrize(("known", "seen", "limit"), [(False, [], UNKNOWN), (True, [0.1], 10.0), (True, [3.0], 30.0)])
def test_limits(known: bool, seen: Sequence[float], limit: float) -> None:
    workers = SimulatedWorkers(1, 2)
    for seconds in seen:
        warm(workers, seconds)
    slot = WorkerSlot(9, ready=True, known={"gradient"} if known else set())
    take(slot, items(1)[0], workers.pace)
    assert workers.pace.limit(slot) == pytest.approx(limit)


def test_a_new_slot_has_more_time_for_its_first_item() -> None:
    workers = SimulatedWorkers(1, 2)
    warm(workers, 0.1)
    slot = WorkerSlot(9, ready=True)
    take(slot, items(1)[0], workers.pace)
    assert workers.pace.limit(slot) == COLD * 10.0
    warm_up = SimulatedWorkers(1, 1)
    warm_up.assign()
    warm_up.answer(1, 20.0)
    assert warm_up.pace.limit(slot) == HUNG * 20.0


@pytest.mark.parametrize("kind", ["validate", "test"])
def test_measurements_have_more_time_at_any_item(kind: str) -> None:
    """They are recorded in the midst of a run, which may take a busy machine a hundred times as long as an item."""
    workers = SimulatedWorkers(1, 1)
    (slot,) = workers.slots
    for _ in range(5):
        (item,) = items(1, kind)
        take(slot, item, workers.pace, 0.1)
        item.holders += 1
        workers.dispatcher.answer(slot, item)
    take(slot, items(1, kind)[0], workers.pace)
    assert workers.pace.limit(slot) == COLD * 10.0
    slot.held.clear()
    workers.assign()
    workers.answer(1, 100.0)  # a gradient, recorded first
    take(slot, items(1, kind)[0], workers.pace)
    assert workers.pace.limit(slot) == LATE * 100.0


def test_tasks_are_named() -> None:
    assert items(4, level=1)[1].tasks == "training tasks 4 to 7"
    (shard,) = cut("test", 5, 1, 1)
    assert WorkItem("test", cover(1, 0)[0], [shard]).tasks == "meta-test task 5"


# What is held in memory ---------------------------------------------------------------------------------------------


HELD = "compare, sampled before"


def holding(workers: SimulatedWorkers, held: dict[int, list[int]]) -> None:
    """A later request of a meta-step, of whose shards slots have sampled some: by the slot's number."""
    shards = cut("train", 0, 8, 2)
    places = [(Node(0, index), workers.slots[number - 1]) for number, indices in held.items() for index in indices]
    workers.dispatcher = Dispatcher("compare", shards, [], workers.pace, workers.faults, held=places)
    workers.dispatcher.enrol(workers.slots)


def finish(workers: SimulatedWorkers) -> dict[int, list[tuple[str, int]]]:
    """Who was given what, in order, until all is answered."""
    given: dict[int, list[tuple[str, int]]] = {slot.number: [] for slot in workers.slots}
    while workers.dispatcher.unanswered:
        for slot, item in workers.dispatcher.assign():
            given[slot.number].append((item.kind, item.node.index))
        for slot in workers.slots:
            while slot.held:
                assert workers.dispatcher.answer(slot, slot.held[0])
    return given


def test_a_slot_gets_what_it_has_in_memory() -> None:
    """However unevenly that is shared out."""
    workers = SimulatedWorkers(1, 2)
    holding(workers, {1: [0, 2, 3], 2: [1]})
    assert finish(workers) == {1: [(HELD, 0), (HELD, 2), (HELD, 3)], 2: [(HELD, 1)]}


def test_what_a_lost_slot_has_had_is_sampled_anew() -> None:
    workers = SimulatedWorkers(1, 2)
    holding(workers, {1: [0, 1, 2], 2: [3]})
    assert (1, 0) in workers.assign()
    workers.lose(1)
    found = finish(workers)[2]
    assert sorted(found) == [("compare", index) for index in (0, 1, 2)]  # 2 was never handed out
    assert not workers.dispatcher.unanswered


def test_a_slot_that_was_lost_before_is_not_waited_for() -> None:
    workers = SimulatedWorkers(1, 2)
    gone = workers.slots.pop(0)
    shards = cut("train", 0, 4, 2)
    held = [(Node(0, 0), gone), (Node(0, 1), workers.slots[0])]
    workers.dispatcher = Dispatcher("compare", shards, [], workers.pace, workers.faults, held=held)
    workers.dispatcher.enrol(workers.slots)
    assert sorted(finish(workers)[2]) == [("compare", 0), (HELD, 1)]


def test_a_request_that_is_asked_again_and_again_tells_nothing_of_the_first_time() -> None:
    """Clipped steps: tasks are sampled for seconds once, and then computed with in moments."""
    workers = SimulatedWorkers(4, 2)
    for _ in range(4):  # meta-steps
        shards = cut("train", 0, 8, 2)
        workers.dispatcher = Dispatcher("compare", shards, cover(4, 0), workers.pace, workers.faults)
        workers.dispatcher.enrol(workers.slots)
        while workers.dispatcher.unanswered:
            workers.assign()
            for slot in workers.slots:
                while slot.held:
                    workers.clock.now += 3.0
                    workers.answer(slot.number, 3.0)
                workers.assign()  # it has nothing to do, while the other one is at work
        for _ in range(4):
            holding(workers, {1: [0, 1], 2: [2, 3]})
            while workers.dispatcher.unanswered:
                workers.assign()
                workers.clock.now += 0.05
                for slot in workers.slots:
                    if slot.held:
                        workers.answer(slot.number, 0.05)
    assert not workers.faults["shards_duplicated"]
