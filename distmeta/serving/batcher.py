"""Requests that come together are answered together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass
class _Waiting:
    """A request that waits for others."""

    work: Any
    key: Any
    done: asyncio.Future[Any]


class Batcher:
    """Collects requests for a moment and answers those of one key in one call.

    Args:
        call: gives the results of several works of one key, in their order.
        most: works of a call; ``None``: all that wait.
        wait: seconds that the first of them waits.
        note: told of the size of each call.
    """

    def __init__(
        self,
        call: Callable[[Any, Sequence[Any]], Awaitable[Sequence[Any]]],
        most: int | None = None,
        wait: float = 0.0,
        note: Callable[[int], None] | None = None,
    ) -> None:
        self._call, self._most, self._wait, self._note = call, most, wait, note
        self._waiting: list[_Waiting] = []
        self._calls: set[asyncio.Task[None]] = set()
        self._running: asyncio.Task[None] | None = None

    async def ask(self, key: Any, work: Any) -> Any:
        """The result of one work."""
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(work, key, done))
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run())
        elif self._calls:
            self._call_ahead()
        return await done

    async def _run(self) -> None:
        """Calls, until nothing waits; while one is answered, the next one's works come together."""
        if self._most != 1:
            await asyncio.sleep(self._wait)
        while self._waiting or self._calls:
            if not self._calls:
                self._call_next()
            self._call_ahead()
            await asyncio.wait(self._calls, return_when=asyncio.FIRST_COMPLETED)
            self._calls = {each for each in self._calls if not each.done()}

    def _call_ahead(self) -> None:
        """Have the next call at hand as the one before it ends, if it cannot become larger by waiting for that."""
        if self._most is not None and len(self._calls) < 2 and len(self._next()) == self._most:
            self._call_next()

    def _call_next(self) -> None:
        chosen = self._next()
        taken = set(map(id, chosen))
        self._waiting = [each for each in self._waiting if id(each) not in taken]
        self._calls.add(asyncio.create_task(self._answer(chosen)))

    def _next(self) -> list[_Waiting]:
        """Of what waits, the works of the next call."""
        return [each for each in self._waiting if each.key == self._waiting[0].key][: self._most]

    async def _answer(self, chosen: Sequence[_Waiting]) -> None:
        if self._note is not None:
            self._note(len(chosen))
        try:
            results = await self._call(chosen[0].key, [each.work for each in chosen])
        except Exception as error:  # of all of them: none may wait for ever
            results = [error] * len(chosen)
        for each, result in zip(chosen, results, strict=True):
            if each.done.cancelled():
                continue
            if isinstance(result, Exception):
                each.done.set_exception(result)
            else:
                each.done.set_result(result)
