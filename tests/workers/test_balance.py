"""Items cut to the slots' rates: simulated slots, whose time passes only in the simulation."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
import torch

from distmeta.core.requests import Answer, add
from distmeta.core.tree import Node, Sum
from distmeta.runs.evaluate import cut
from distmeta.workers.dispatch import Dispatcher
from distmeta.workers.pace import Clock, Pace, WorkerSlot, WorkItem

Noise = Callable[[], float]


@dataclass(frozen=True)
class Step:
    """What a simulated step did.

    Attributes:
        seconds: until its last answer.
        items: in the order of their answers, with the number of the slot.
        shards: that each slot did.
        total: the sum of all shards.
    """

    seconds: float
    items: list[tuple[int, WorkItem]]
    shards: list[int]
    total: Answer


class SimulatedWorkers:
    """Worker slots that take so many seconds a shard, and ``message`` more for each item.

    Args:
        each: a slot's seconds a shard.
        message: seconds of a slot that an item takes besides its shards.
        noise: factor on the seconds of an item.
    """

    def __init__(self, each: Sequence[float], message: float = 0.005, noise: Noise = lambda: 1.0) -> None:
        self.each, self.message, self.noise = each, message, noise
        self.clock = Clock()
        self.pace = Pace(10.0, self.clock)
        self.slots = [WorkerSlot(number, ready=True) for number in range(1, len(each) + 1)]
        self.faults: Counter[str] = Counter()
        self.events: list[tuple[float, int, WorkerSlot, float]] = []  # ends of items

    def steps(self, number: int, count: int) -> list[Step]:
        """So many steps of ``count`` shards."""
        return [self.step(count) for _ in range(number)]

    def step(self, count: int) -> Step:
        """One step of ``count`` shards."""
        root = Node((count - 1).bit_length(), 0)
        dispatcher: Dispatcher[WorkerSlot] = Dispatcher(
            "gradient", cut("train", 0, count, 1), [root], self.pace, self.faults
        )
        dispatcher.enrol(self.slots)
        total = Sum[Answer](count, add)
        shards = dict.fromkeys(self.slots, 0)
        done: list[tuple[int, WorkItem]] = []
        began = self.clock.now
        while dispatcher.unanswered:
            for slot, _ in dispatcher.assign():
                if len(slot.held) == 1:
                    self._begin(slot)
            self.clock.now, _, slot, seconds = heapq.heappop(self.events)
            item = slot.held[0]
            if dispatcher.answer(slot, item, seconds - self.message):
                done.append((slot.number, item))
                shards[slot] += len(item.shards)
                total.add(item.node, gradient(item))
            if slot.held:
                self._begin(slot)
        return Step(self.clock.now - began, done, list(shards.values()), total.result())

    def _begin(self, slot: WorkerSlot) -> None:
        seconds = self.message + self.noise() * self.each[slot.number - 1] * len(slot.held[0].shards)
        heapq.heappush(self.events, (self.clock.now + seconds, slot.number, slot, seconds))


def gradient(item: WorkItem) -> Answer:
    """The sum that a worker sends, of values whose order of addition shows."""
    total = Sum[Answer](len(item.shards), add)
    for place, shard in enumerate(item.shards):
        generator = torch.Generator().manual_seed(shard.start)
        total.add(Node(0, place), Answer({"gradient": torch.randn(4, generator=generator)}, {}, 1))
    return total.result()


MESSAGE = 0.005
SECOND = 0.036  # a shard, on a slot of the usual speed

EVEN = [[SECOND] * count for count in (1, 2, 3, 5, 8, 64, 256)]
UNEVEN = [
    [SECOND, 2 * SECOND],
    [SECOND] * 7 + [2 * SECOND],
    [SECOND] * 7 + [4 * SECOND],
    [SECOND] * 7 + [20 * SECOND],
    [SECOND, 1.3 * SECOND, 1.7 * SECOND, 3 * SECOND],
    [SECOND] * 32 + [2 * SECOND] * 32,
]
COUNTS = [1, 4, 7, 32, 33, 250, 1024]


def ideal(each: Sequence[float], count: int) -> float:
    """Seconds of a step if shards could be divided and messages cost nothing."""
    return count / sum(1 / seconds for seconds in each)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("each", [*EVEN, *UNEVEN], ids=lambda each: f"{len(each)} slots, {max(each) / min(each):g}:1")
def test_steps_end_within_a_shard_of_the_ideal(each: Sequence[float], count: int) -> None:
    """Once the rates are known: no slot is waited for by more than what one shard takes it, beside its messages.

    One that is always late, being 20 times as slow, is left out as it should be, and a shard may be done twice for it.
    """
    steps = SimulatedWorkers(each, MESSAGE).steps(12, count)
    shard = max(each) if max(each) <= 4 * SECOND else 2 * SECOND
    for step in steps[6:]:
        messages = max(Counter(number for number, _ in step.items).values())
        assert step.seconds <= ideal(each, count) + shard + messages * MESSAGE + 1e-9


@pytest.mark.parametrize("each", EVEN, ids=lambda each: f"{len(each)} slots")
def test_even_slots_get_a_subtree_each(each: Sequence[float]) -> None:
    """Where the shards can be divided evenly by halving, one message a slot and step."""
    count = 1 << (2 + len(each).bit_length())
    if count % len(each):
        count = len(each)
    steps = SimulatedWorkers(each).steps(8, count)
    assert all(len(step.items) == len(each) for step in steps[6:])
    assert all(set(step.shards) == {count // len(each)} for step in steps[6:])


def test_two_even_slots_share_four_shards() -> None:
    workers = SimulatedWorkers([SECOND] * 2)
    steps = workers.steps(6, 4)
    assert [len(item.shards) for _, item in steps[-1].items] == [2, 2]


@pytest.mark.parametrize("count", [12, 32, 250])
def test_a_slot_that_is_half_as_fast_gets_half_the_work(count: int) -> None:
    for step in SimulatedWorkers([SECOND, 2 * SECOND]).steps(10, count)[4:]:
        fast, slow = step.shards
        assert abs(fast - 2 * slow) <= 2


def test_a_slot_that_is_far_too_slow_gets_nothing() -> None:
    workers = SimulatedWorkers([SECOND] * 7 + [20 * SECOND])
    assert workers.steps(10, 32)[-1].shards[-1] == 0


def test_items_become_smaller_towards_the_end() -> None:
    """Where nothing is known of the slots, or they are unsteady."""
    rng = random.Random(0)
    workers = SimulatedWorkers([SECOND] * 4, noise=lambda: rng.uniform(0.5, 1.5))
    for step in workers.steps(8, 256):
        sizes = [len(item.shards) for _, item in sorted(step.items, key=lambda done: done[1].node.index)]
        assert max(sizes) >= 8
        assert all(len(item.shards) <= 2 for _, item in step.items[-2:])
        assert len(step.items) < 256 / 4


@pytest.mark.parametrize("count", [2, 8, 64])
def test_unsteady_slots_wait_for_little(count: int) -> None:
    """Items of a fixed size would be waited for by half of what the noise makes of a whole share."""
    rng = random.Random(count)
    shards = 64 * count
    workers = SimulatedWorkers([SECOND] * count, noise=lambda: rng.uniform(0.6, 1.4))
    steps = workers.steps(16, shards)[4:]
    mean = sum(step.seconds for step in steps) / len(steps)
    assert mean < 1.2 * ideal(workers.each, shards)


def test_short_work_is_sent_in_few_messages() -> None:
    """Shards of 0.1 ms and messages of 5 ms: what a message costs is not spent to even out less than that."""
    rng = random.Random(0)
    workers = SimulatedWorkers([0.0001] * 4, message=0.005, noise=lambda: rng.uniform(0.7, 1.3))
    assert all(len(step.items) <= 8 for step in workers.steps(10, 128)[4:])


@pytest.mark.parametrize("count", [1, 7, 32, 100])
def test_the_bits_are_the_same_however_it_is_cut(count: int) -> None:
    rng = random.Random(count)
    (alone,) = SimulatedWorkers([SECOND]).steps(1, count)
    for each in ([SECOND] * 2, [SECOND] * 7 + [5 * SECOND], [SECOND] * 40):
        workers = SimulatedWorkers(each, noise=lambda: rng.uniform(0.5, 2.0))
        for step in workers.steps(5, count):
            assert sorted(shard.index for _, item in step.items for shard in item.shards) == list(range(count))
            assert torch.equal(step.total.vector, alone.total.vector)
            assert step.total.tasks == count
