"""Copies of a configuration's parts, so that several threads may use one model at the same time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from distmeta.programs.engine.assembly import Assembly


class Replicas:
    """Lends parts to whoever computes with them, each to one at a time.

    A module that runs with given parameters has them put into its layers and taken out again, and its layers may keep
    state of a call; so two calls need two modules. They differ in their structure alone: all tensors are those of the
    parts that this was made with. There are as many as there have been calls at one time, and after these at most one
    for each core; they belong to no thread, and so end with none.

    Args:
        parts: to be copied, and not used by anybody.
    """

    def __init__(self, parts: Assembly) -> None:
        self._parts = parts
        self._idle: list[Assembly] = []  # appending and popping are atomic, which is all that threads need here

    @contextmanager
    def borrow(self) -> Iterator[Assembly]:
        """Parts that nobody else uses within the block; after an error in it they are not used again."""
        try:
            parts = self._idle.pop()
        except IndexError:
            parts = self._parts.replica()
        yield parts
        if len(self._idle) < (os.cpu_count() or 1):
            self._idle.append(parts)
