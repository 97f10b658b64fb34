"""The episode store: the images of a data set in one memory-mapped Arrow file, sorted by class."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distmeta.errors import DataError
from distmeta.storage.cache import written_whole

SCHEMA_VERSION = "1"
_VERSION_KEY = b"distmeta.schema"
_HASH_KEY = b"distmeta.sha256"


@dataclass(frozen=True)
class EpisodeStore:
    """Images sorted by class, mapped from a file: processes of one host share its pages, and nothing is read
    twice.

    Attributes:
        path: the file.
        images: (N, H, W) or (N, H, W, C) uint8, read-only, a view of the mapped file.
        classes: names of the C classes, in the order of the rows.
        groups: the group of each class (an alphabet, a split).
        first: (C,) int64, the first row of each class.
        counts: (C,) int64, the number of rows of each class.
        content_hash: SHA-256 over names, groups, counts and image bytes, as written.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "dots.arrow"
    >>> write_store(path, np.zeros((3, 28, 28), np.uint8), ["a", "b", "b"], ["one", "two", "two"])
    >>> store = EpisodeStore.open(path)
    >>> store.classes, store.first.tolist(), store.counts.tolist(), store.images.shape
    (('a', 'b'), [0, 1], [1, 2], (3, 28, 28))
    """

    path: Path
    images: NDArray[np.uint8]
    classes: tuple[str, ...]
    groups: tuple[str, ...]
    first: NDArray[np.int64]
    counts: NDArray[np.int64]
    content_hash: str

    @classmethod
    def open(cls, path: Path) -> EpisodeStore:
        """Map a store.

        Raises:
            DataError: the file is missing, truncated, of another schema version, or no store at all.
        """
        import pyarrow as pa

        try:
            with pa.memory_map(str(path)) as source:
                reader = pa.ipc.open_file(source)
                metadata = reader.schema.metadata or {}
                _check_version(path, metadata)
                if reader.num_record_batches != 1:
                    raise ValueError(f"it has {reader.num_record_batches} record batches instead of 1")
                batch = reader.get_batch(0)
            return cls._of(path, batch, metadata[_HASH_KEY].decode())
        except FileNotFoundError:
            raise DataError(f"there is no episode store {path}; build it again") from None
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            raise DataError(
                f"the episode store {path} is damaged or incomplete ({' '.join(str(error).split())}); "
                "delete it and build it again"
            ) from None

    @classmethod
    def _of(cls, path: Path, batch: Any, content_hash: str) -> EpisodeStore:
        _check_columns(batch)
        column = batch.column("image")
        # By DLPack: pyarrow's own conversions import pandas, which takes a third of a second.
        flat: Any = np.from_dlpack(column.storage.flatten())
        images = flat.reshape(-1, *column.type.shape)
        labels = np.from_dlpack(batch.column("class").indices)
        starts = np.flatnonzero(np.diff(labels, prepend=-1)).astype(np.int64)
        classes = batch.column("class").dictionary.to_pylist()
        by_name = classes == sorted(set(classes)) and np.array_equal(labels[starts], np.arange(len(classes)))
        if len(images) != batch.num_rows or not by_name:
            raise ValueError("its rows are not sorted by class")
        group = batch.column("group")
        groups = [group[int(start)].as_py() for start in starts]
        counts = np.diff(starts, append=batch.num_rows)
        return cls(path, images, tuple(classes), tuple(groups), starts, counts, content_hash)

    def verify(self) -> None:
        """Recompute the content hash, which reads the whole file.

        Raises:
            DataError: the content is not what was written.
        """
        if _content_hash(self.images, self.classes, self.groups, self.counts) != self.content_hash:
            raise DataError(
                f"the episode store {self.path} is damaged: its content does not match the hash it was "
                "written with; delete it and build it again"
            )


def write_store(path: Path, images: NDArray[np.uint8], classes: Sequence[str], groups: Sequence[str]) -> None:
    """Write a store, whole or not at all.

    Args:
        path: the file; an old one is replaced.
        images: (N, H, W) or (N, H, W, C) uint8.
        classes: N names; rows are sorted by them, those of one class keep their order.
        groups: N names, the same for all rows of a class.

    Raises:
        DataError: the folder cannot be written.
        ValueError: the lengths differ, or a class is in two groups.
    """
    import pyarrow as pa

    if not len(images) == len(classes) == len(groups):
        raise ValueError(f"{len(images)} images, {len(classes)} class names and {len(groups)} group names")
    names, labels, counts = np.unique(np.asarray(classes), return_inverse=True, return_counts=True)
    order = np.argsort(labels, kind="stable")
    if not np.array_equal(order, np.arange(len(order))):
        images = images[order]
    of_row = np.asarray(groups)[order]
    starts = np.cumsum(counts) - counts
    of_class = of_row[starts]
    if not np.array_equal(np.repeat(of_class, counts), of_row):
        raise ValueError("a class is in two groups")

    pixels = np.ascontiguousarray(images, dtype=np.uint8)
    shape = pixels.shape[1:]
    flat = pa.Array.from_buffers(pa.uint8(), pixels.size, [None, pa.py_buffer(pixels)])
    storage = pa.FixedSizeListArray.from_arrays(flat, int(np.prod(shape)))
    columns = {
        "image": pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.uint8(), shape), storage),
        "class": pa.DictionaryArray.from_arrays(
            pa.array(labels[order], pa.int32()), pa.array(names.tolist(), pa.string())
        ),
        "group": pa.array(of_row.tolist(), pa.string()).dictionary_encode(),
    }
    content = _content_hash(pixels, names.tolist(), of_class.tolist(), counts)
    metadata = {_VERSION_KEY: SCHEMA_VERSION, _HASH_KEY: content}
    batch = pa.record_batch(list(columns.values()), list(columns)).replace_schema_metadata(metadata)
    # One record batch: the image column stays one contiguous block, which readers view without a copy.
    with (
        written_whole(path) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, batch.schema) as writer,
    ):
        writer.write_batch(batch)


def _check_columns(batch: Any) -> None:
    """Refuse other columns than a store's, and such whose offsets and indices point elsewhere: Arrow trusts them."""
    import pyarrow as pa

    if not batch.num_rows:
        raise ValueError("it has no rows")
    image = batch.schema.field("image").type
    dtype_fits = isinstance(image, pa.FixedShapeTensorType) and image.value_type == pa.uint8()
    if not dtype_fits or len(image.shape) not in (2, 3) or image.permutation not in (None, [*range(len(image.shape))]):
        raise ValueError(f"its images are of type {image}")
    for name in ("class", "group"):
        column = batch.column(name)
        if not pa.types.is_dictionary(column.type) or column.type.value_type != pa.string():
            raise ValueError(f"its column {name} is of type {column.type}")
        column.validate(full=True)
        if column.null_count or column.dictionary.null_count:
            raise ValueError(f"its column {name} has gaps")
    batch.column("image").validate()
    if batch.column("image").null_count or batch.column("image").storage.flatten().null_count:
        raise ValueError("its images have gaps")


def _check_version(path: Path, metadata: dict[bytes, bytes]) -> None:
    version = metadata.get(_VERSION_KEY, b"").decode()
    if not version:
        raise ValueError("it was not written by distmeta")
    if version != SCHEMA_VERSION:
        raise DataError(
            f"the episode store {path} has schema version {version}, this distmeta reads version "
            f"{SCHEMA_VERSION}; build it again with this version, or use the version that wrote it"
        )


def _content_hash(
    images: NDArray[np.uint8], classes: Sequence[str], groups: Sequence[str], counts: NDArray[np.int64]
) -> str:
    digest = hashlib.sha256()
    for name, group, count in zip(classes, groups, counts, strict=True):
        digest.update(f"{name}\0{group}\0{count}\n".encode())
    digest.update(repr(images.shape).encode())
    digest.update(images.data)
    return digest.hexdigest()
