"""Processes that make tasks beside a worker's own, where one task takes long. They need no torch.

Each is a new Python that has imported the user's code afresh, nothing of the worker's memory. It ends when its worker
closes it, and by itself when its worker is gone.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import Any

from distmeta.core.records import Split
from distmeta.errors import DataError, DistmetaError
from distmeta.tasks.base import Episode
from distmeta.tasks.reading import TaskArrays

CHUNKS = 4
"""Parts into which each process's share of the tasks is cut, so that none waits long for the slowest."""

GLANCE = 0.2
"""Seconds between looks at whether the parent is there, and at whether the tasks are still wanted."""

ENDING = 2.0
"""Seconds for a process to end by itself."""

Chunk = tuple[Split, list[int]]


class ProcessesGoneError(Exception):
    """No process is left to make tasks, or they are not wanted any more."""


class TaskProcesses:
    """Some processes that make tasks, and give what this one would.

    Args:
        kind: ``module:package.name`` of the user's code.
        options: the settings under ``tasks``, as JSON values.
        episodes: the sizes and seeds of the splits.
        count: how many.
        digest: of the training split's task 0 as this process makes it.
    """

    def __init__(
        self, kind: str, options: Mapping[str, Any], episodes: Mapping[Split, Episode], count: int, digest: str
    ) -> None:
        self._kind, self._digest = kind, digest
        self._lock = threading.Lock()
        self._closing = False
        self._ready: list[Any] = []
        setup = (list(sys.path), kind, dict(options), dict(episodes))
        self._running: dict[Any, subprocess.Popen[bytes]] = dict(_start(setup) for _ in range(count))

    def ready(self) -> bool:
        """Whether at least one of them has begun.

        Raises:
            DataError: the user's code cannot be used there, or gives other tasks than here.
        """
        with self._lock:
            for connection in [each for each in wait(list(self._running), 0) if each not in self._ready]:
                self._hear(connection)
            return bool(self._ready)

    def tasks(self, split: Split, ids: Sequence[int]) -> list[TaskArrays]:
        """These tasks, in their order.

        Raises:
            DataError: of the first of them that cannot be made.
            ProcessesGoneError: all processes have died, or were closed meanwhile.
        """
        with self._lock:
            size = max(1, len(ids) // (CHUNKS * max(1, len(self._running))))
            waiting: list[Chunk] = [(split, list(ids[at : at + size])) for at in range(0, len(ids), size)][::-1]
            under_way: dict[Any, Chunk] = {}
            done: dict[int, TaskArrays | DistmetaError] = {}
            while waiting or under_way:
                for connection in [each for each in self._ready if each not in under_way]:
                    if waiting:
                        self._give(connection, waiting, under_way)
                if self._closing or not self._running:
                    raise ProcessesGoneError
                for found in wait(list(self._running), GLANCE):
                    self._take(found, waiting, under_way, done)
        made = [done[each] for each in ids]
        for each in made:
            if isinstance(each, DistmetaError):
                raise each
        return [each for each in made if isinstance(each, TaskArrays)]

    def close(self) -> None:
        """End them, and wait until they have ended."""
        self._closing = True
        with self._lock:
            for connection in self._running:
                connection.close()
            until = time.monotonic() + ENDING
            for process in self._running.values():
                try:
                    process.wait(max(0.0, until - time.monotonic()))
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
            self._running, self._ready = {}, []

    def _hear(self, connection: Any) -> None:
        """What a process says when it has begun."""
        try:
            said = connection.recv()
        except (EOFError, OSError):
            self._lose(connection)
            return
        if isinstance(said, Failure):
            raise RuntimeError(f"a process that makes tasks has failed:\n{said.trace}")
        if isinstance(said, Exception):
            raise said
        if said != self._digest:
            raise DataError(
                f"tasks.kind = {self._kind!r}: task 0 of the train split is another one in a new process, though its "
                "id is the same: it may depend on the order of a set or on hash() (which differ from process to "
                "process), on a number of threads, on time, or on a file that has changed; make it a function of "
                "split, generator and settings alone"
            )
        self._ready.append(connection)

    def _give(self, connection: Any, waiting: list[Chunk], under_way: dict[Any, Chunk]) -> None:
        try:
            connection.send(waiting[-1])
        except OSError:
            self._lose(connection)
        else:
            under_way[connection] = waiting.pop()

    def _take(
        self,
        connection: Any,
        waiting: list[Chunk],
        under_way: dict[Any, Chunk],
        done: dict[int, TaskArrays | DistmetaError],
    ) -> None:
        """What a process has to say: that it has begun, its tasks, or nothing any more."""
        if connection not in under_way:
            self._hear(connection)
            return
        try:
            answer = connection.recv()
        except (EOFError, OSError):  # another one, or this process, makes them
            waiting.append(under_way.pop(connection))
            self._lose(connection)
            return
        if isinstance(answer, Failure):
            raise RuntimeError(f"a process that makes tasks has failed:\n{answer.trace}")
        done |= zip(under_way.pop(connection)[1], answer, strict=True)

    def _lose(self, connection: Any) -> None:
        self._running.pop(connection).wait()
        connection.close()
        if connection in self._ready:
            self._ready.remove(connection)


class Failure:
    """An exception that is nobody's but ours."""

    def __init__(self, trace: str) -> None:
        self.trace = trace


def _start(setup: Any) -> tuple[Connection, subprocess.Popen[bytes]]:
    """A new process, told what it is for."""
    ours, theirs = Pipe()
    code = f"from distmeta.tasks.serving import serve; serve({theirs.fileno()}, {os.getpid()})"
    path = os.pathsep.join(place for place in sys.path if place)
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": path},
    )
    theirs.close()
    ours.send_bytes(pickle.dumps(setup))
    return ours, process
