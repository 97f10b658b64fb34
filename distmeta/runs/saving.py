"""Checkpoints written beside training, in order, in one thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent import futures

from distmeta.runs import checkpoint
from distmeta.runs.checkpoint import Snapshot
from distmeta.runs.metrics import MetricsLog
from distmeta.storage.files import Storage

QUEUE = 2
"""Checkpoints that are held at most: one being written, one waiting behind it."""


class Saver:
    """Writes the checkpoints of a run in a thread of its own, prunes the old ones and publishes the logs.

    What is written is what was handed over: the caller gives copies of what goes on changing. The logs come before
    the checkpoint, so that whoever resumes from it finds every record up to it.

    Args:
        run: the run's directory.
        log: the run's log.
        keep: checkpoints to keep, see :func:`~distmeta.runs.checkpoint.prune`.
        saved: the step that is saved already, in a resumed run.

    Attributes:
        saved: step of the newest checkpoint that is written; ``None`` before the first.
    """

    def __init__(self, run: Storage, log: MetricsLog, keep: int, saved: int | None) -> None:
        self._run = run
        self._log = log
        self._keep = keep
        self.saved = saved
        self._pending: deque[futures.Future[None]] = deque()
        self._thread = futures.ThreadPoolExecutor(1, thread_name_prefix="distmeta-checkpoints")

    def save(self, step: int, snapshot: Callable[[], Snapshot]) -> None:
        """Have a checkpoint written; waits only where another one is still waiting behind the one being written.

        Args:
            step: of the checkpoint.
            snapshot: makes it, in the other thread.

        Raises:
            StorageError: an earlier one could not be written.
        """
        self._settle(QUEUE - 1)
        self._pending.append(self._thread.submit(self._write, step, snapshot))

    def check(self) -> None:
        """Learn of a write that failed; waits for none.

        Raises:
            StorageError: a checkpoint or the logs could not be written.
        """
        while self._pending and self._pending[0].done():
            self._take()

    def wait(self) -> None:
        """Wait until everything is written; what :meth:`check` raises."""
        self._settle(0)

    def close(self) -> None:
        """End the thread, after what it has to do."""
        self._thread.shutdown()

    def _settle(self, most: int) -> None:
        self.check()
        while len(self._pending) > most:
            self._take()

    def _take(self) -> None:
        """Wait for the oldest write; it stays pending where the waiting is interrupted."""
        futures.wait(list(self._pending)[:1])
        self._pending.popleft().result()

    def _write(self, step: int, snapshot: Callable[[], Snapshot]) -> None:
        self._log.sync()
        checkpoint.save(self._run, snapshot())
        self.saved = step
        checkpoint.prune(self._run, self._keep)
