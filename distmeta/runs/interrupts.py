"""Ctrl-C and SIGTERM ask a run to end at its next safe point."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from distmeta.errors import Interrupted

if TYPE_CHECKING:
    from distmeta.workers.base import Check


@contextmanager
def interruptible() -> Iterator[Check]:
    """Within this block (main thread only) the first Ctrl-C or SIGTERM is remembered; a second one acts at once.

    Yields:
        A function that raises ``Interrupted`` when the run was asked to end.
    """
    asked: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    def check() -> None:
        if asked:
            raise Interrupted(f"interrupted by {signal.Signals(asked[0]).name}")

    before = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield check
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
