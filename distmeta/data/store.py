"""The episode store: the images of a data set in one memory-mapped Arrow file, sorted by class.

A small one is written at once, as one record batch (schema version 1); one of any size in pieces, a record batch each,
without holding it in memory (schema version 2).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distmeta.errors import DataError
from distmeta.storage.cache import written_whole

SCHEMA_VERSION = "1"
"""Of a store of one record batch, whose hash stands in the schema."""

PIECES_VERSION = "2"
"""Of a store of one or more record batches, and an empty one at the end that has the hash."""

_VERSION_KEY = b"distmeta.schema"
_HASH_KEY = b"distmeta.sha256"


@dataclass(frozen=True)
class EpisodeStore:
    """Images sorted by class, mapped from a file: processes of one host share its pages, and nothing is read
    twice.

    Attributes:
        path: the file.
        pieces: the images in order, each (n, H, W) or (n, H, W, C) uint8, read-only, views of the mapped file.
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
    pieces: tuple[NDArray[np.uint8], ...]
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
                batches, content_hash = _batches(path, reader)
            return cls._of(path, batches, content_hash)
        except FileNotFoundError:
            raise DataError(f"there is no episode store {path}; build it again") from None
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            raise DataError(
                f"the episode store {path} is damaged or incomplete ({' '.join(str(error).split())}); "
                "delete it and build it again"
            ) from None

    @classmethod
    def _of(cls, path: Path, batches: Sequence[Any], content_hash: str) -> EpisodeStore:
        # By DLPack: pyarrow's own conversions import pandas, which takes a third of a second.
        pieces = []
        for batch in batches:
            _check_columns(batch)
            column = batch.column("image")
            flat: Any = np.from_dlpack(column.storage.flatten())
            pieces.append(flat.reshape(-1, *column.type.shape))
            if len(pieces[-1]) != batch.num_rows:
                raise ValueError("its rows are not sorted by class")
        labels, classes = _named(batches, "class")
        of_row, groups = _named(batches, "group")
        starts = np.flatnonzero(np.diff(labels, prepend=-1)).astype(np.int64)
        if classes != sorted(set(classes)) or not np.array_equal(labels[starts], np.arange(len(classes))):
            raise ValueError("its rows are not sorted by class")
        counts = np.diff(starts, append=len(labels))
        of_class = tuple(groups[index] for index in of_row[starts])
        return cls(path, tuple(pieces), tuple(classes), of_class, starts, counts, content_hash)

    def __len__(self) -> int:
        """Images in all."""
        return int(self.counts.sum())

    @property
    def shape(self) -> tuple[int, ...]:
        """(H, W) or (H, W, C) of an image."""
        return self.pieces[0].shape[1:]

    @property
    def nbytes(self) -> int:
        """Bytes of all images."""
        return sum(piece.nbytes for piece in self.pieces)

    @cached_property
    def images(self) -> NDArray[np.uint8]:
        """All images (N, H, W) or (N, H, W, C): a view of the mapped file where it has one piece, else a copy."""
        return self.pieces[0] if len(self.pieces) == 1 else np.concatenate(self.pieces)

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Copies of these images, (M, H, W) or (M, H, W, C); only their pages of the file are read."""
        if len(self.pieces) == 1:
            return self.pieces[0][rows]
        images = np.empty((len(rows), *self.shape), np.uint8)
        ends = np.cumsum([len(piece) for piece in self.pieces])
        of_piece = np.searchsorted(ends, rows, side="right")
        for index in np.unique(of_piece):
            wanted = np.flatnonzero(of_piece == index)
            piece = self.pieces[index]
            images[wanted] = piece[rows[wanted] - (ends[index] - len(piece))]
        return images

    def verify(self) -> None:
        """Recompute the content hash, which reads the whole file.

        Raises:
            DataError: the content is not what was written.
        """
        digest = _digest(self.classes, self.groups, self.counts, (len(self), *self.shape))
        for piece in self._read_again():
            digest.update(piece.data)
        if digest.hexdigest() != self.content_hash:
            raise DataError(
                f"the episode store {self.path} is damaged: its content does not match the hash it was "
                "written with; delete it and build it again"
            )

    def _read_again(self) -> Iterator[NDArray[np.uint8]]:
        """The pieces, several of them read one by one: mapped, all would stay resident for as long as there is room."""
        import pyarrow as pa

        if len(self.pieces) == 1:
            yield self.pieces[0]
            return
        with pa.OSFile(str(self.path)) as source:
            reader = pa.ipc.open_file(source)
            for index in range(len(self.pieces)):
                pixels: Any = np.from_dlpack(reader.get_batch(index).column("image").storage.flatten())
                yield pixels


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
    columns = {
        "image": _image_column(pixels),
        "class": pa.DictionaryArray.from_arrays(
            pa.array(labels[order], pa.int32()), pa.array(names.tolist(), pa.string())
        ),
        "group": pa.array(of_row.tolist(), pa.string()).dictionary_encode(),
    }
    digest = _digest(names.tolist(), of_class.tolist(), counts, pixels.shape)
    digest.update(pixels.data)
    metadata = {_VERSION_KEY: SCHEMA_VERSION, _HASH_KEY: digest.hexdigest()}
    batch = pa.record_batch(list(columns.values()), list(columns)).replace_schema_metadata(metadata)
    # One record batch: the image column stays one contiguous block, which readers view without a copy.
    with _written(path, batch.schema) as writer:
        writer.write_batch(batch)


def write_pieces(
    path: Path,
    pieces: Iterable[NDArray[np.uint8]],
    shape: tuple[int, ...],
    classes: Sequence[str],
    groups: Sequence[str],
    counts: Sequence[int],
) -> None:
    """Write a store of any size, whole or not at all; no more than a piece has to be in memory.

    Args:
        path: the file; an old one is replaced.
        pieces: the images in the order of ``classes``, some at a time, each (n, ``*shape``) uint8; a piece has been
            written when the next one is asked for.
        shape: (H, W) or (H, W, C).
        classes: C distinct names, sorted.
        groups: C names.
        counts: images of each class.

    Raises:
        DataError: the folder cannot be written.
        ValueError: the names are not sorted, or there are not as many images as the counts say.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "dots.arrow"
    >>> halves = (np.full((2, 4, 4), level, np.uint8) for level in (1, 2))
    >>> write_pieces(path, halves, (4, 4), ["a", "b"], ["one", "two"], [1, 3])
    >>> store = EpisodeStore.open(path)
    >>> len(store.pieces), store.counts.tolist(), store.read(np.array([3, 0]))[:, 0, 0].tolist()
    (2, [1, 3], [2, 1])
    """
    import pyarrow as pa

    if list(classes) != sorted(set(classes)) or not len(classes) == len(groups) == len(counts):
        raise ValueError("expected sorted distinct class names, with a group and a count for each")
    of_group = sorted(set(groups))
    names = {"class": pa.array(classes, pa.string()), "group": pa.array(of_group, pa.string())}
    group_of = np.array([of_group.index(group) for group in groups], np.int32)
    ends = np.cumsum(counts)
    rows = int(ends[-1])
    digest = _digest(classes, groups, counts, (rows, *shape))

    def batch(pixels: NDArray[np.uint8], first: int) -> Any:
        labels = np.searchsorted(ends, np.arange(first, first + len(pixels)), side="right").astype(np.int32)
        return _batch(pixels, {"class": labels, "group": group_of[labels]}, names)

    empty = batch(np.empty((0, *shape), np.uint8), 0)
    done = 0
    with _written(path, empty.schema) as writer:
        for piece in pieces:
            pixels = np.ascontiguousarray(piece, dtype=np.uint8)
            if pixels.shape[1:] != shape or done + len(pixels) > rows:
                raise ValueError(f"a piece of shape {pixels.shape} after {done} of {rows} images of shape {shape}")
            digest.update(pixels.data)
            writer.write_batch(batch(pixels, done))
            done += len(pixels)
        if done != rows:
            raise ValueError(f"{done} images instead of {rows}")
        writer.write_batch(empty, custom_metadata={_HASH_KEY: digest.hexdigest()})


@contextmanager
def _written(path: Path, schema: Any) -> Iterator[Any]:
    """A writer of record batches to a file that appears whole or not at all."""
    import pyarrow as pa

    with (
        written_whole(path) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, schema) as writer,
    ):
        yield writer


def _batch(pixels: NDArray[np.uint8], indices: dict[str, NDArray[np.int32]], names: dict[str, Any]) -> Any:
    """A record batch of a store in pieces: images, and for each the indices of its names."""
    import pyarrow as pa

    columns = {name: pa.DictionaryArray.from_arrays(pa.array(index), names[name]) for name, index in indices.items()}
    made = pa.record_batch({"image": _image_column(pixels), **columns})
    return made.replace_schema_metadata({_VERSION_KEY: PIECES_VERSION})


def _image_column(pixels: NDArray[np.uint8]) -> Any:
    """A view of contiguous images (N, ...) as a column of tensors."""
    import pyarrow as pa

    shape = pixels.shape[1:]
    flat = pa.Array.from_buffers(pa.uint8(), pixels.size, [None, pa.py_buffer(pixels)])
    storage = pa.FixedSizeListArray.from_arrays(flat, int(np.prod(shape)))
    return pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.uint8(), shape), storage)


def _batches(path: Path, reader: Any) -> tuple[list[Any], str]:
    """The record batches with images, and the content hash."""
    metadata = reader.schema.metadata or {}
    count = reader.num_record_batches
    if _check_version(path, metadata) == SCHEMA_VERSION:
        if count != 1:
            raise ValueError(f"it has {count} record batches instead of 1")
        return [reader.get_batch(0)], metadata[_HASH_KEY].decode()
    if count < 2:
        raise ValueError(f"it has {count} record batches; a whole one has at least 2")
    last, custom = reader.get_batch_with_custom_metadata(count - 1)
    if last.num_rows or custom is None:
        raise ValueError("its last record batch has no hash")
    return [reader.get_batch(index) for index in range(count - 1)], custom[_HASH_KEY].decode()


def _named(batches: Sequence[Any], name: str) -> tuple[NDArray[np.int32], list[str]]:
    """The index of each row into the names of a column, and the names."""
    found = [batch.column(name) for batch in batches]
    names = found[0].dictionary.to_pylist()
    if any(column.dictionary.to_pylist() != names for column in found[1:]):
        raise ValueError(f"its column {name} has other names in some of its record batches")
    indices: list[Any] = [column.indices for column in found]
    return np.concatenate([np.from_dlpack(each) for each in indices]), names


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


def _check_version(path: Path, metadata: dict[bytes, bytes]) -> str:
    version = metadata.get(_VERSION_KEY, b"").decode()
    if not version:
        raise ValueError("it was not written by distmeta")
    if version not in (SCHEMA_VERSION, PIECES_VERSION):
        raise DataError(
            f"the episode store {path} has schema version {version}, this distmeta reads versions {SCHEMA_VERSION} and "
            f"{PIECES_VERSION}; build it again with this version, or use the version that wrote it"
        )
    return version


def _digest(classes: Sequence[str], groups: Sequence[str], counts: Iterable[int], shape: tuple[int, ...]) -> Any:
    """The content hash as far as it knows names and shapes; the bytes of the images follow."""
    digest = hashlib.sha256()
    for name, group, count in zip(classes, groups, counts, strict=True):
        digest.update(f"{name}\0{group}\0{count}\n".encode())
    digest.update(repr(shape).encode())
    return digest
