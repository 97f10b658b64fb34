"""Who is answered with whom, and when."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

import pytest

from distmeta.serving.batcher import Batcher


class Slow:
    """A call that ends when it is told to."""

    def __init__(self) -> None:
        self.begun: list[tuple[Any, list[Any]]] = []
        self.ends: list[asyncio.Event] = []

    async def __call__(self, key: Any, works: Sequence[Any]) -> Sequence[Any]:
        self.begun.append((key, [*works]))
        self.ends.append(asyncio.Event())
        await self.ends[len(self.begun) - 1].wait()
        return [("done", key, work) for work in works]


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def within(script: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(script, 30))


def test_those_that_come_together_are_answered_together() -> None:
    async def script() -> None:
        call, sizes = Slow(), []
        batcher = Batcher(call, 3, 0.01, sizes.append)
        asked = [asyncio.create_task(batcher.ask("k", number)) for number in range(5)]
        await asyncio.sleep(0.05)
        assert call.begun == [("k", [0, 1, 2])]
        call.ends[0].set()
        await settle()
        assert call.begun == [("k", [0, 1, 2]), ("k", [3, 4])]
        call.ends[1].set()
        assert await asyncio.gather(*asked) == [("done", "k", number) for number in range(5)]
        assert sizes == [3, 2]

    within(script())


def test_a_full_call_is_at_hand_when_the_one_before_ends() -> None:
    """A third is not, nor one that could still become larger."""

    async def script() -> None:
        call = Slow()
        batcher = Batcher(call, 2)
        asked = []

        async def ask(*numbers: int) -> None:
            asked.extend(asyncio.create_task(batcher.ask("k", number)) for number in numbers)
            await settle()

        await ask(0)
        await ask(1)
        assert call.begun == [("k", [0])]
        await ask(2)
        assert call.begun == [("k", [0]), ("k", [1, 2])]
        await ask(3, 4, 5)
        assert len(call.begun) == 2
        call.ends[0].set()
        await settle()
        assert call.begun[2:] == [("k", [3, 4])]
        call.ends[1].set()
        await settle()
        assert len(call.begun) == 3
        call.ends[2].set()
        await settle()
        assert call.begun[3:] == [("k", [5])]
        call.ends[3].set()
        assert await asyncio.gather(*asked) == [("done", "k", number) for number in range(6)]
        await settle()
        await ask(6)
        call.ends[4].set()
        assert await asked[6] == ("done", "k", 6)

    within(script())


def test_of_another_key_is_another_call() -> None:
    async def script() -> None:
        call = Slow()
        batcher = Batcher(call, 8, 0.01)
        asked = [asyncio.create_task(batcher.ask(key, key)) for key in "abab"]
        for count in (1, 2):
            await asyncio.sleep(0.05)
            assert len(call.begun) == count
            call.ends[-1].set()
        assert call.begun == [("a", ["a", "a"]), ("b", ["b", "b"])]
        assert await asyncio.gather(*asked) == [("done", key, key) for key in "abab"]

    within(script())


def test_without_a_bound_all_that_wait_are_one_call() -> None:
    async def script() -> None:
        call = Slow()
        batcher = Batcher(call)
        asked = [asyncio.create_task(batcher.ask(None, number)) for number in range(100)]
        await settle()
        asked += [asyncio.create_task(batcher.ask(None, number)) for number in range(100, 300)]
        await settle()
        assert [len(works) for _, works in call.begun] == [100]
        call.ends[0].set()
        await settle()
        assert [len(works) for _, works in call.begun] == [100, 200]
        call.ends[1].set()
        await asyncio.gather(*asked)

    within(script())


def test_an_error_is_everybodys_and_a_result_that_is_one_its_owners() -> None:
    async def script() -> None:
        async def call(key: Any, works: Sequence[Any]) -> Sequence[Any]:
            if key == "all":
                raise ValueError("for all")
            return [ValueError(work) if work == "bad" else work for work in works]

        batcher = Batcher(call, 4, 0.01)
        found = await asyncio.gather(*(batcher.ask("all", 0) for _ in range(2)), return_exceptions=True)
        assert [str(each) for each in found] == ["for all"] * 2
        assert await asyncio.gather(batcher.ask("one", "good"), batcher.ask("one", "fine")) == ["good", "fine"]
        with pytest.raises(ValueError, match="bad"):
            await batcher.ask("one", "bad")

    within(script())


def test_who_has_gone_keeps_nobody_waiting() -> None:
    async def script() -> None:
        call = Slow()
        batcher = Batcher(call, 4, 0.01)
        gone, stays = (asyncio.create_task(batcher.ask("k", number)) for number in range(2))
        await asyncio.sleep(0.05)
        gone.cancel()
        await settle()
        call.ends[0].set()
        assert await stays == ("done", "k", 1)

    within(script())
