"""Images without their classes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ImagePool:
    """Images of a store, one like another: it is not known here which of them are of one class.

    Attributes:
        rows: (M,) int64, rows of the store.
        rotations: (M,) int64, counter-clockwise quarter turns, 0 ... 3.
        data: the store's content hash.
    """

    rows: NDArray[np.int64]
    rotations: NDArray[np.int64]
    data: str

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of what the images are, in their order."""
        digest = hashlib.sha256(self.data.encode())
        for part in (self.rows, self.rotations):
            digest.update(np.ascontiguousarray(part, dtype="<i8").data)
        return digest.hexdigest()
