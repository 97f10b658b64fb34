"""Processes that a benchmark starts, prepares and then times together.

Every child builds a ``Work`` and waits for calls of its methods. A call to several children carries one start time,
read from the machine's monotonic clock, so that all of them begin the timed region together; between calls they sleep.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

import torch

PATIENCE = 900.0
"""Seconds that a child may take to answer; the first call of an engine may compile."""


class Work(Protocol):
    """What a child computes."""

    def unit(self) -> int:
        """Compute the next unit of work; the number of tasks in it."""
        ...


class ChildError(RuntimeError):
    """A child failed, with its own traceback, or went away."""


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def timed(work: Work, seconds: float) -> tuple[int, float]:
    """Tasks and the seconds they took, over at least this long; on CUDA the device's queue is drained."""
    _synchronise()
    tasks, began = 0, time.perf_counter()
    while True:
        tasks += work.unit()
        _synchronise()
        taken = time.perf_counter() - began
        if taken >= seconds:
            return tasks, taken


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _end_with(parent: int) -> None:
    """End this process soon after the one that started it, however that ended."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _serve(pipe: Connection, make: Callable[..., Any], arguments: Sequence[Any], threads: int) -> None:
    torch.set_num_threads(threads)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    try:
        work = make(*arguments)
        pipe.send((True, None))
    except BaseException:
        pipe.send((False, traceback.format_exc()))
        return
    while True:
        try:
            name, values, start = pipe.recv()
        except (EOFError, ConnectionError):
            os._exit(0)  # whatever threads and files the work has left open
        try:
            time.sleep(max(0.0, start - time.monotonic()))
            function = timed if name == "timed" else getattr(type(work), name)
            pipe.send((True, function(work, *values)))
        except BaseException:
            pipe.send((False, traceback.format_exc()))


class Child:
    """One process with one work; the caller awaits its answers."""

    def __init__(self, make: Callable[..., Any], arguments: Sequence[Any], threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(target=_serve, args=(theirs, make, arguments, threads))
        self.process.start()
        theirs.close()

    def send(self, name: str, values: Sequence[Any], start: float = 0.0) -> None:
        """Ask for ``work.name(*values)`` at this time of the monotonic clock."""
        self._pipe.send((name, tuple(values), start))

    def answer(self) -> Any:
        """What the last call returned; the first answer is to the child's start."""
        try:
            if not self._pipe.poll(PATIENCE):
                raise ChildError(f"a child process did not answer for {PATIENCE:g} s")
            good, value = self._pipe.recv()
        except (EOFError, ConnectionError) as error:
            self.process.join(5)
            raise ChildError(f"a child process ended with exit code {self.process.exitcode}") from error
        if not good:
            raise ChildError(f"a child process failed:\n{value}")
        return value

    def call(self, name: str, *values: Any) -> Any:
        """Send and await."""
        self.send(name, values)
        return self.answer()

    def release(self) -> None:
        """Let the process end."""
        with suppress(OSError):
            self._pipe.close()

    def join(self) -> None:
        """Await its end; a process that does not end is stopped."""
        self.process.join(10)
        if self.process.is_alive():
            self.process.terminate()
            self.process.join(10)


def together(children: Sequence[Child], name: str, *values: Any) -> list[Any]:
    """Call a method of all children at one moment and await them all."""
    start = time.monotonic() + 0.05
    for child in children:
        child.send(name, values, start)
    return [child.answer() for child in children]


def rate(children: Sequence[Child], seconds: float) -> float:
    """Tasks a second of all children at work at once."""
    return float(sum(tasks / taken for tasks, taken in together(children, "timed", seconds)))


@dataclass(frozen=True)
class Group:
    """Processes alike: how many, each with how many threads, the work that each makes, its units ahead of timing."""

    count: int
    threads: int
    make: Callable[..., Any]
    arguments: tuple[Any, ...] = ()
    warm: int = 3


@contextmanager
def running(groups: Mapping[str, Group]) -> Iterator[dict[str, list[Child]]]:
    """Processes of every group, ready to be timed; they end with the block.

    Some units are computed ahead of any timing, by the first process of each group and then by the others, so that the
    others find what the first has compiled.
    """
    started: dict[str, list[Child]] = {name: [] for name in groups}
    try:
        for first in (True, False):
            fresh = {
                name: [
                    Child(group.make, group.arguments, group.threads) for _ in range(1 if first else group.count - 1)
                ]
                for name, group in groups.items()
            }
            for name, children in fresh.items():
                started[name] += children
            for child in chain(*fresh.values()):
                child.answer()
            for name, children in fresh.items():
                for _ in range(groups[name].warm):
                    together(children, "unit")
        yield started
    finally:
        for child in chain(*started.values()):
            child.release()
        for child in chain(*started.values()):
            child.join()
