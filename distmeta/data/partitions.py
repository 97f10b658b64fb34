"""Files of partitions: which cluster each image of a pool belongs to, several times over."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distmeta.core.quoting import shown
from distmeta.errors import DataError
from distmeta.storage.cache import written_whole

FORMAT = "distmeta.partitions.1"
_LABELS = "clusters"
_HASH = "sha256"
_AGAIN = "make it again with 'distmeta data partition'"

Labels = NDArray[np.int32]


@dataclass(frozen=True)
class Partitions:
    """Partitions of the images of one pool.

    Attributes:
        path: the file.
        labels: (P, M) int32, the cluster of each of M images in each of P partitions, 0 ... clusters - 1.
        made_of: what it was made of and how, text by name: ``images`` is the digest of the pool.
        content_hash: SHA-256 over all of that.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "two.partition"
    >>> write_partitions(path, np.array([[0, 1, 1], [1, 0, 0]], np.int32), {"images": "abc"})
    >>> read = Partitions.open(path)
    >>> read.labels.tolist(), read.made_of["images"]
    ([[0, 1, 1], [1, 0, 0]], 'abc')
    """

    path: Path
    labels: Labels
    made_of: Mapping[str, str]
    content_hash: str

    @classmethod
    def open(cls, path: Path) -> Partitions:
        """Read a file, and check it against its hash.

        Raises:
            DataError: it is missing, damaged, or no file of partitions.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        name = shown(str(path))[1:-1]
        try:
            data = path.read_bytes()
        except OSError as error:
            raise DataError(
                f"cannot read the partitions {name}: {error.strerror or error}; correct tasks.partition, or {_AGAIN}"
            ) from None
        try:
            made_of = _metadata(data)
            labels = load(data)[_LABELS]
            digest = made_of.pop(_HASH)
            if labels.dtype != np.int32 or labels.ndim != 2 or not labels.size:
                raise ValueError("it holds no numbers of clusters")
            if labels.min() < 0 or labels.max() >= labels.shape[1]:
                raise ValueError("it has more clusters than images")
        except (SafetensorError, ValueError, KeyError, struct.error, RecursionError) as error:
            reason = shown(" ".join(str(error).split()))[1:-1]
            raise DataError(f"{name} is damaged, or no file of partitions ({reason}); {_AGAIN}") from None
        if _hash(labels, made_of) != digest:
            raise DataError(f"{name} is damaged: its content does not match the hash it was written with; {_AGAIN}")
        return cls(path, labels, made_of, digest)


def write_partitions(path: Path, labels: Labels, made_of: Mapping[str, str]) -> None:
    """Write a file, whole or not at all.

    Args:
        path: the file; an old one is replaced.
        labels: (P, M) int32.
        made_of: as :class:`Partitions` has it.

    Raises:
        DataError: the folder cannot be written.
    """
    from safetensors.numpy import save

    # One text, since the order of several is another each time.
    known = json.dumps({**made_of, _HASH: _hash(labels, made_of)}, sort_keys=True)
    data = save({_LABELS: np.ascontiguousarray(labels)}, {FORMAT: known})
    with written_whole(path) as temporary:
        temporary.write_bytes(data)


def _metadata(data: bytes) -> dict[str, str]:
    """The named texts in the header of a safetensors file."""
    (length,) = struct.unpack("<Q", data[:8])
    header: Any = json.loads(data[8 : 8 + length])
    texts = header.get("__metadata__") if isinstance(header, dict) else None
    found = json.loads(texts[FORMAT]) if isinstance(texts, dict) and FORMAT in texts else None
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise ValueError(f"expected the format {FORMAT}")
    return found


def _hash(labels: Labels, made_of: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps([dict(made_of), labels.shape], sort_keys=True).encode())
    digest.update(np.ascontiguousarray(labels).data)
    return digest.hexdigest()
