"""How far long work is, in the log: for where no progress bar shows it."""

from __future__ import annotations

import logging
import time

INTERVAL = 10.0
"""Seconds between two messages."""


class LoggedAdvance:
    """Says now and then how far some work is, how fast it goes and how long it takes still.

    Args:
        log: gets the messages.
        what: is done, with the name of what it is done with.
        things: what is counted, in the plural.

    >>> advance = LoggedAdvance(logging.getLogger("somewhere"), "reading the table", "rows")
    >>> advance(10, 100)  # nothing is said so early
    """

    def __init__(self, log: logging.Logger, what: str, things: str) -> None:
        self._log, self._what, self._things = log, what, things
        self._began = self._last = time.monotonic()

    def __call__(self, done: int, total: int | None = None) -> None:
        """So many are done, of so many where that is known."""
        now = time.monotonic()
        if now - self._last < INTERVAL or done == total:
            return
        self._last = now
        rate = done / (now - self._began)
        of_all = "" if total is None else f" of {total:,}"
        left = "" if total is None or not rate else f", {(total - done) / rate:.0f} s left"
        self._log.info("%s: %s%s %s, %.0f a second%s", self._what, f"{done:,}", of_all, self._things, rate, left)
