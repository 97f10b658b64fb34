"""Vectors in memory that the driver and the workers of its host share, so that messages carry only their places."""

from __future__ import annotations

import fcntl
import mmap
import os
import secrets
from collections import defaultdict
from dataclasses import dataclass

import numpy as np

LARGEST_SHARED = 8 * 2**20
"""Bytes of a vector beyond which its way is short beside the work on it, and the memory would be too much."""

_NAME = "distmeta"
_TOKEN = 16
_FLOAT = 4


@dataclass(frozen=True)
class SharedAddress:
    """Where another process finds the memory, if it is on the same host.

    Attributes:
        path: of its owner's open file.
        token: what it begins with; a process elsewhere finds another file under this path, or none.
    """

    path: str
    token: bytes


@dataclass(frozen=True)
class SharedRow:
    """The place of a vector of float32.

    Attributes:
        offset: of its first byte; a whole number of pages.
        size: elements, one at least.
    """

    offset: int
    size: int


class SharedRows:
    """Memory that is gone when the last process that has opened it has ended; it has no name that could stay behind.

    Its owner makes it longer, and nobody can make it shorter. Pages are taken when they are first written.

    >>> import numpy as np
    >>> mine = SharedRows.make()
    >>> row = mine.add(3)
    >>> mine.write(row, np.array([1, 2, 3], np.float32))
    >>> SharedRows.at(mine.address).read(row).tolist()
    [1.0, 2.0, 3.0]
    """

    def __init__(self, descriptor: int, address: SharedAddress) -> None:
        self._descriptor = descriptor
        self._rows: dict[tuple[SharedRow, bool], np.ndarray] = {}
        self._length = mmap.PAGESIZE  # the first page holds the token
        self.address = address

    @classmethod
    def make(cls) -> SharedRows | None:
        """New memory, of which the caller is the owner; ``None`` where the system gives none of this kind."""
        if not hasattr(os, "memfd_create"):
            return None
        try:
            descriptor = os.memfd_create(_NAME, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        except OSError:
            return None
        token = secrets.token_bytes(_TOKEN)
        try:
            os.pwrite(descriptor, token, 0)
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)  # it would pull memory from under others
        except OSError:
            os.close(descriptor)
            return None
        return cls(descriptor, SharedAddress(f"/proc/{os.getpid()}/fd/{descriptor}", token))

    @classmethod
    def at(cls, address: SharedAddress | None) -> SharedRows | None:
        """The memory that another process has made; ``None`` where it cannot be reached from here."""
        if address is None:
            return None
        try:
            if not os.readlink(address.path).startswith(f"/memfd:{_NAME}"):
                return None  # another process's; merely opening it might mean something
            descriptor = os.open(address.path, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return None
        if os.pread(descriptor, _TOKEN, 0) != address.token:
            os.close(descriptor)
            return None
        return cls(descriptor, address)

    def add(self, size: int) -> SharedRow | None:
        """A new row, for the owner to hand out; ``None`` where the system gives no more memory."""
        row = SharedRow(self._length, size)
        length = row.offset + -(-size * _FLOAT // mmap.PAGESIZE) * mmap.PAGESIZE
        try:
            os.ftruncate(self._descriptor, length)
        except OSError:
            return None
        self._length = length
        return row

    def write(self, row: SharedRow, vector: np.ndarray) -> None:
        """Fill a row."""
        self._map(row, writable=True)[:] = vector

    def read(self, row: SharedRow) -> np.ndarray:
        """A row's memory, which cannot be written through it and changes when the row is written."""
        return self._map(row, writable=False)

    def close(self) -> None:
        """Let go of it; arrays that were read keep their memory."""
        self._rows.clear()
        os.close(self._descriptor)

    def _map(self, row: SharedRow, writable: bool) -> np.ndarray:
        known = self._rows.get((row, writable))
        if known is None:
            access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
            memory = mmap.mmap(self._descriptor, row.size * _FLOAT, access=access, offset=row.offset)
            known = self._rows[row, writable] = np.frombuffer(memory, np.float32)
        return known


class Exchange:
    """The driver's side: a request's vectors for all to read, and a row for each result that is under way.

    Attributes:
        address: for workers; ``None`` where the system has no such memory.
    """

    def __init__(self) -> None:
        self._rows = SharedRows.make()
        self._published: dict[str, SharedRow] = {}
        self._free: dict[tuple[int, int], list[SharedRow]] = defaultdict(list)  # by worker and size
        self.address = self._rows.address if self._rows else None

    def publish(self, name: str, vector: np.ndarray) -> SharedRow | None:
        """Put down a vector; the earlier one of this name is gone, and with it what late workers make of it.

        What such a worker gives back counts no more: others have computed its shards, else the request had not ended.

        Returns:
            Their place; ``None`` where they have to go another way.
        """
        if self._rows is None or not 0 < vector.nbytes <= LARGEST_SHARED:
            return None
        row = self._published.get(name)
        if row is None or row.size != vector.size:
            row = self._rows.add(vector.size)
            if row is None:
                return None
            self._published[name] = row
        self._rows.write(row, vector)
        return row

    def take(self, worker: int, size: int) -> SharedRow | None:
        """A row for a result of this worker, for it alone: lost, it may still write. ``None`` where there is none."""
        assert self._rows is not None
        free = self._free[worker, size]
        return free.pop() if free else self._rows.add(size)

    def collect(self, row: SharedRow) -> np.ndarray:
        """A copy of a result."""
        assert self._rows is not None
        return np.array(self._rows.read(row))

    def give_back(self, worker: int, row: SharedRow) -> None:
        """The worker will not write into this row any more."""
        self._free[worker, row.size].append(row)

    def close(self) -> None:
        """Let go of the memory."""
        if self._rows is not None:
            self._rows.close()
            self._rows = None
