"""Vectors in memory that the driver and the workers of its host share, so that messages carry only their places."""

from __future__ import annotations

import mmap
import os
import secrets
from dataclasses import dataclass

import numpy as np

_TOKEN = 16
_FLOAT = 4


@dataclass(frozen=True)
class Address:
    """Where another process finds the memory, if it is on the same host.

    Attributes:
        path: of its owner's open file.
        token: what it begins with; a process elsewhere finds another file under this path, or none.
    """

    path: str
    token: bytes


@dataclass(frozen=True)
class Row:
    """The place of a vector of float32.

    Attributes:
        number: 0, 1, ... of rows that all have this size.
        size: elements.
    """

    number: int
    size: int


class SharedRows:
    """Memory of rows of equal size, which is gone when the last process that has opened it has ended.

    Its pages are taken when they are first written. It has no name that could be left behind.

    >>> import numpy as np
    >>> mine = SharedRows.make()
    >>> mine.write(Row(1, 3), np.array([1, 2, 3], np.float32))
    >>> SharedRows.at(mine.address).read(Row(1, 3)).tolist()
    [1.0, 2.0, 3.0]
    """

    def __init__(self, descriptor: int, address: Address) -> None:
        self._descriptor = descriptor
        self._rows: dict[tuple[Row, bool], np.ndarray] = {}
        self.address = address

    @classmethod
    def make(cls) -> SharedRows | None:
        """New memory; ``None`` where the system has none of this kind."""
        if not hasattr(os, "memfd_create"):
            return None
        descriptor = os.memfd_create("distmeta")
        token = secrets.token_bytes(_TOKEN)
        os.pwrite(descriptor, token, 0)
        return cls(descriptor, Address(f"/proc/{os.getpid()}/fd/{descriptor}", token))

    @classmethod
    def at(cls, address: Address | None) -> SharedRows | None:
        """The memory that another process has made; ``None`` where it cannot be reached from here."""
        if address is None:
            return None
        try:
            descriptor = os.open(address.path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            return None
        try:
            found = os.pread(descriptor, _TOKEN, 0)
        except OSError:  # another kind of file
            found = b""
        if found != address.token:
            os.close(descriptor)
            return None
        return cls(descriptor, address)

    def write(self, row: Row, vector: np.ndarray) -> None:
        """Fill a row."""
        self._map(row, writable=True)[:] = vector

    def read(self, row: Row) -> np.ndarray:
        """A row's memory, which cannot be written through it and changes when the row is written."""
        return self._map(row, writable=False)

    def close(self) -> None:
        """Let go of it; arrays that were read keep their memory."""
        self._rows.clear()
        os.close(self._descriptor)

    def _map(self, row: Row, writable: bool) -> np.ndarray:
        known = self._rows.get((row, writable))
        if known is None:
            length = row.size * _FLOAT
            stride = -(-length // mmap.PAGESIZE) * mmap.PAGESIZE
            offset = mmap.PAGESIZE + row.number * stride
            if os.fstat(self._descriptor).st_size < offset + stride:
                os.ftruncate(self._descriptor, offset + stride)
            access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
            memory = mmap.mmap(self._descriptor, length, access=access, offset=offset)
            known = self._rows[row, writable] = np.frombuffer(memory, np.float32)
        return known


class Exchange:
    """The driver's side: a step's meta-parameters for all to read, and a row for each result that is under way.

    Attributes:
        address: for workers; ``None`` where the system has no such memory.
    """

    def __init__(self) -> None:
        self._rows = SharedRows.make()
        self._free: list[Row] = []
        self._made = 1
        self.address = self._rows.address if self._rows else None

    def publish(self, vector: np.ndarray) -> Row | None:
        """Put down the meta-parameters; those of the last step are gone, and with them what late workers make of them.

        What such a worker gives back counts no more: others have computed its shards, else the step had not ended.
        """
        if self._rows is None:
            return None
        row = Row(0, vector.size)
        self._rows.write(row, vector)
        return row

    def take(self, size: int) -> Row:
        """A row for a result. One whose worker is lost is not used again: that may still write."""
        if self._free:
            return self._free.pop()
        self._made += 1
        return Row(self._made - 1, size)

    def collect(self, row: Row) -> np.ndarray:
        """A copy of a result; the row is free again."""
        assert self._rows is not None
        self._free.append(row)
        return np.array(self._rows.read(row))

    def close(self) -> None:
        """Let go of the memory."""
        if self._rows is not None:
            self._rows.close()
            self._rows = None
