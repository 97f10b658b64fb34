"""Encoded texts in one memory-mapped Arrow file: tokens, how many, and the class of each text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distmeta.core.hashing import sha256
from distmeta.core.quoting import shown
from distmeta.data.text_source import TextIndex, TextSource, logged_rows
from distmeta.data.tokenization import Encoder, padded
from distmeta.errors import DataError
from distmeta.storage.cache import written_whole

if TYPE_CHECKING:
    from numpy.typing import NDArray

TEXT_STORE_VERSION = "1"
_KEY, _HASH_KEY = b"distmeta.texts", b"distmeta.texts.sha256"
_BATCH = 2**14
"""Texts of a record batch; all but the last have so many."""


@dataclass(frozen=True)
class TokenStore:
    """Texts as tokens, in the order of their source, mapped from a file.

    Attributes:
        path: the file.
        index: classes, groups and the class of each text.
        length: tokens of a text, padding included.
        size: tokens are 0 ... size - 1.
        order: (rows,) int64, the rows class by class.
        first: (C,) int64, where each class begins in ``order``.
        counts: (C,) int64, texts of each class.
    """

    path: Path
    index: TextIndex
    length: int
    size: int
    order: NDArray[np.int64]
    first: NDArray[np.int64]
    counts: NDArray[np.int64]
    _tokens: tuple[NDArray[np.int32], ...]
    _lengths: NDArray[np.int32]
    _sums: tuple[str, ...]

    @classmethod
    def open(cls, path: Path) -> TokenStore:
        """Map a store.

        Raises:
            DataError: the file is missing, damaged, or no such store.
        """
        import pyarrow as pa

        try:
            with pa.memory_map(str(path)) as source:
                reader = pa.ipc.open_file(source)
                metadata = reader.schema.metadata or {}
                if sha256(metadata[_KEY]).encode() != metadata[_HASH_KEY]:
                    raise ValueError("its description does not match the hash it was written with")
                known = json.loads(metadata[_KEY])
                if known["version"] != TEXT_STORE_VERSION:
                    raise ValueError(f"it is of version {known['version']}, not {TEXT_STORE_VERSION}")
                found = [reader.get_batch_with_custom_metadata(i) for i in range(reader.num_record_batches)]
            return cls._of(path, known, [each.batch for each in found], [_sum_of(each) for each in found])
        except FileNotFoundError:
            raise DataError(f"there are no encoded texts {shown(str(path))}; build them again") from None
        except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
            raise _damaged(path, " ".join(str(error).split())) from None

    @classmethod
    def _of(cls, path: Path, known: dict[str, Any], batches: list[Any], sums: list[str]) -> TokenStore:
        length, size, classes = int(known["length"]), int(known["size"]), tuple(known["classes"])
        tokens, lengths, codes = zip(*(_arrays(batch, length) for batch in batches), strict=True)
        if any(len(each) != _BATCH for each in tokens[:-1]):
            raise ValueError(f"its pieces have other sizes than {_BATCH:,}")
        of_row, held = np.concatenate(codes), np.concatenate(lengths)
        if of_row.max() >= len(classes):
            raise ValueError(f"it has texts of class {of_row.max()}, and {len(classes)} classes")
        counts = np.bincount(of_row, minlength=len(classes)).astype(np.int64)
        if not counts.all() or held.min() < 0 or held.max() > length:
            raise ValueError("its columns do not fit together")
        groups, splits = known["groups"], known["splits"]
        return cls(
            path,
            TextIndex(classes, of_row, groups and tuple(groups), splits and tuple(splits), known["digest"]),
            length,
            size,
            np.argsort(of_row, kind="stable").astype(np.int64),
            np.cumsum(counts) - counts,
            counts,
            tokens,
            held,
            tuple(sums),
        )

    @property
    def content_hash(self) -> str:
        """A hash of all tokens, as written."""
        return sha256("".join(self._sums).encode())

    @property
    def nbytes(self) -> int:
        """Bytes of all tokens."""
        return sum(each.nbytes for each in self._tokens)

    def tokens(self, rows: NDArray[np.int64]) -> NDArray[np.int32]:
        """(M, length) tokens of these rows."""
        taken = np.empty((len(rows), self.length), np.int32)
        batch = rows // _BATCH
        for number in np.unique(batch):
            here = batch == number
            taken[here] = self._tokens[number][rows[here] - number * _BATCH]
        return taken

    def lengths(self, rows: NDArray[np.int64]) -> NDArray[np.int32]:
        """(M,) how many tokens of each of these rows are no padding."""
        return self._lengths[rows]

    def verify(self) -> None:
        """Compare everything with the sums that it was written with.

        Raises:
            DataError: it is not what was written.
        """
        for number, (tokens, sum_) in enumerate(zip(self._tokens, self._sums, strict=True)):
            part = slice(number * _BATCH, number * _BATCH + len(tokens))
            if _sum(tokens, self._lengths[part], self.index.codes[part]) != sum_:
                raise _damaged(self.path, "its content does not match the hash it was written with")
            if tokens.min(initial=0) < 0 or tokens.max(initial=0) >= self.size:
                raise _damaged(self.path, f"it has tokens beyond {self.size - 1}")


def write_tokens(path: Path, source: TextSource, index: TextIndex, encoder: Encoder, length: int) -> None:
    """Encode all texts of a source, whole or not at all; a batch of them is in memory at a time.

    Args:
        path: the file.
        source: of the texts.
        index: what they are, by :func:`~distmeta.data.text_source.index_texts`.
        encoder: gives their tokens.
        length: tokens of a text, padding included.

    Raises:
        DataError: the source or the folder cannot be used, or the source has changed since it was indexed.
    """
    import pyarrow as pa

    known = {
        "version": TEXT_STORE_VERSION,
        "length": length,
        "size": encoder.size,
        "digest": index.digest,
        "classes": index.classes,
        "groups": index.groups,
        "splits": index.splits,
    }
    number, description = pa.int32(), json.dumps(known).encode()
    schema = pa.schema(
        {"tokens": pa.list_(number, length), "length": number, "class": number},
        {_KEY: description, _HASH_KEY: sha256(description)},
    )
    written = 0
    with (
        written_whole(path) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, schema) as writer,
    ):
        for texts in _batches(source, len(index.codes)):
            tokens, lengths = padded(encoder, texts, length)
            codes = index.codes[written : written + len(texts)]
            if len(codes) < len(texts):
                break
            flat = pa.array(tokens.reshape(-1), number)
            columns = [pa.FixedSizeListArray.from_arrays(flat, length), pa.array(lengths), pa.array(codes)]
            batch = pa.record_batch(columns, schema=schema)
            writer.write_batch(batch, custom_metadata={"sha256": _sum(tokens, lengths, codes)})
            written += len(texts)
        if written != len(index.codes):
            raise DataError(f"{shown(source.place)[1:-1]} has changed while it was read; start again")


def _batches(source: TextSource, total: int) -> Iterator[list[str]]:
    """The texts, in pieces of the store's size."""
    waiting: list[str] = []
    for rows in logged_rows(source, "encoding", total):
        waiting += rows.texts
        while len(waiting) >= _BATCH:
            yield waiting[:_BATCH]
            waiting = waiting[_BATCH:]
    if waiting:
        yield waiting


def _arrays(batch: Any, length: int) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """The columns of a batch, as views of the file."""
    import pyarrow as pa

    tokens, lengths, codes = (batch.column(name) for name in ("tokens", "length", "class"))
    fits = tokens.type == pa.list_(pa.int32(), length) and lengths.type == codes.type == pa.int32()
    if not fits or tokens.null_count or lengths.null_count or codes.null_count or not batch.num_rows:
        raise ValueError(f"its columns are {batch.schema.types}")
    batch.validate()
    flat: Any = np.from_dlpack(tokens.flatten())
    held: Any = np.from_dlpack(lengths)
    of_row: Any = np.from_dlpack(codes)
    if len(flat) != batch.num_rows * length or (of_row.size and of_row.min() < 0):
        raise ValueError("its columns do not fit together")
    return flat.reshape(-1, length), held, of_row


def _sum(tokens: NDArray[np.int32], lengths: NDArray[np.int32], codes: NDArray[np.int32]) -> str:
    digest = hashlib.sha256()
    for each in (tokens, lengths, codes):
        digest.update(np.ascontiguousarray(each).data)
    return digest.hexdigest()


def _sum_of(found: Any) -> str:
    return str(dict(found.custom_metadata or {})[b"sha256"], "ascii")


def _damaged(path: Path, reason: str) -> DataError:
    return DataError(f"the encoded texts {shown(str(path))} are damaged ({reason}); delete the file to build it again")
