"""A table's rows in one memory-mapped Arrow file, those of a task side by side, so that any of them cost no more than
themselves."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distmeta.core.records import SPLITS, Split
from distmeta.errors import DataError

TABLE_SUFFIX = ".table.arrow"
"""Ending of a store's name: such a file is opened, and not taken for a table to be built from."""

TABLE_VERSION = "1"
NUMBERS_AT_ONCE = 2**22
"""Numbers of the rows, about, that are looked at together where all are."""

_VERSION_KEY, _INFO_KEY, _TASKS_KEY = b"distmeta.schema", b"distmeta.table", b"distmeta.tasks"


@dataclass(frozen=True)
class TableColumns:
    """What is taken of a table; see :class:`~distmeta.tasks.options.TableOptions`.

    Attributes:
        task: the column that names the task.
        target: the columns of the target.
        features: names or patterns; ``None`` for all other columns.
        categories: columns that are categories, whatever their type.
        classes: whether the target is classes.
        by_class: whether a task's rows are to stand class by class.
        order: the column that orders a task's rows, or a class's.
        split: the column of splits.
        most_categories: of one column.
    """

    task: str
    target: tuple[str, ...]
    features: tuple[str, ...] | None = None
    categories: tuple[str, ...] = ()
    classes: bool = False
    by_class: bool = False
    order: str | None = None
    split: str | None = None
    most_categories: int = 64


@dataclass(frozen=True)
class Feature:
    """A feature column.

    Attributes:
        name: of the column.
        width: numbers of a row in it; 0 for categories.
    """

    name: str
    width: int


@dataclass(frozen=True)
class TableStore:
    """The rows of a table, mapped from a file; processes of one host share its pages.

    Attributes:
        path: the file.
        features: the feature columns.
        numbers: (N, F) float64, those of number columns, side by side.
        codes: (N, C) int32, an index into ``categories`` for each column of categories.
        y: (N, D) float64 targets, or (N,) int32 indices into ``labels``.
        names: of the tasks, ascending; rows stand in their order.
        counts: (T,) int64, rows of each task.
        splits: of each task, where a column says it.
        categories: the values of each column of categories, ascending.
        labels: the classes, ascending; empty in a regression.
        content_hash: SHA-256 over all of it.
    """

    path: Path
    features: tuple[Feature, ...]
    numbers: NDArray[np.float64]
    codes: NDArray[np.int32]
    y: NDArray[Any]
    names: list[str]
    counts: NDArray[np.int64]
    splits: list[Split] | None
    categories: tuple[tuple[str, ...], ...]
    labels: tuple[str, ...]
    content_hash: str

    @property
    def first(self) -> NDArray[np.int64]:
        """(T,) int64, the first row of each task."""
        return np.cumsum(self.counts) - self.counts

    @classmethod
    def open(cls, path: Path) -> TableStore:
        """Map a store.

        Raises:
            DataError: the file is missing, truncated, of another version, or no such store.
        """
        import pyarrow as pa

        try:
            with pa.memory_map(str(path)) as source:
                reader = pa.ipc.open_file(source)
                metadata = reader.schema.metadata or {}
                if metadata.get(_VERSION_KEY) != TABLE_VERSION.encode():
                    raise ValueError(f"it is not of version {TABLE_VERSION}")
                batch = reader.get_batch(0)
            return cls._of(path, batch, json.loads(metadata[_INFO_KEY]), metadata[_TASKS_KEY])
        except FileNotFoundError:
            raise DataError(f"there is no table store {path}") from None
        except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"the table store {path} is damaged or incomplete ({' '.join(str(error).split())}); delete it, and it "
                "is built again"
            ) from None

    @classmethod
    def _of(cls, path: Path, batch: Any, info: dict[str, Any], tasks: bytes) -> TableStore:
        import pyarrow as pa

        columns = {name: _matrix(batch.column(name)) for name in batch.schema.names}
        table = pa.ipc.open_stream(io.BytesIO(tasks)).read_all().combine_chunks()
        counts: Any = np.from_dlpack(table.column("count").chunk(0))
        rows = batch.num_rows
        if counts.sum() != rows or (counts < 1).any() or any(len(each) != rows for each in columns.values()):
            raise ValueError("its columns differ in length")
        y = columns["y"]
        return cls(
            path,
            tuple(Feature(**each) for each in info["features"]),
            columns.get("numbers", np.zeros((rows, 0), np.float64)),
            columns.get("codes", np.zeros((rows, 0), np.int32)),
            y[:, 0] if y.dtype == np.int32 else y,
            table.column("name").to_pylist(),
            counts,
            [SPLITS[at] for at in table.column("split").to_pylist()] if "split" in table.column_names else None,
            tuple(map(tuple, info["categories"])),
            tuple(info["labels"]),
            info["sha256"],
        )

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return self.numbers.nbytes + self.codes.nbytes + self.y.nbytes

    def verify(self) -> None:
        """Recompute the content hash, which reads the whole file.

        Raises:
            DataError: the content is not what was written.
        """
        info = {
            "features": [asdict(each) for each in self.features],
            "categories": [list(each) for each in self.categories],
            "labels": list(self.labels),
        }
        splits = None if self.splits is None else [SPLITS.index(each) for each in self.splits]
        columns = [each for each in (self.numbers, self.codes, self.y.reshape(len(self.y), -1)) if each.shape[1]]
        if _content_hash(info, self.names, self.counts, splits, columns) != self.content_hash:
            raise DataError(
                f"the table store {self.path} is damaged: its content does not match the hash it was written with; "
                "delete it, and it is built again"
            )

    def blocks(self) -> Iterator[tuple[slice, NDArray[np.int64]]]:
        """All rows, a block at a time, each with the tasks that they belong to."""
        ends = np.cumsum(self.counts)
        count = NUMBERS_AT_ONCE // (self.numbers.shape[1] + 1) + 1
        for start in range(0, int(ends[-1]), count):
            rows = slice(start, min(start + count, int(ends[-1])))
            yield rows, np.searchsorted(ends, np.arange(rows.start, rows.stop), side="right")


def write_table_store(
    path: Path, arrays: Mapping[str, NDArray[Any]], tasks: dict[str, Any], info: dict[str, Any]
) -> None:
    """Write a store's file, at a temporary name of the caller's.

    Args:
        path: the file.
        arrays: ``numbers``, ``codes`` and ``y``, each (N, width) and contiguous; those of no width are left out.
        tasks: ``name``, ``count`` and perhaps ``split`` of each task.
        info: ``features``, ``categories`` and ``labels``.
    """
    import pyarrow as pa

    content_hash = _content_hash(info, tasks["name"], tasks["count"], tasks.get("split"), arrays.values())
    sink = io.BytesIO()
    table = pa.table(tasks)
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    metadata = {
        _VERSION_KEY: TABLE_VERSION,
        _INFO_KEY: json.dumps({**info, "sha256": content_hash}),
        _TASKS_KEY: sink.getvalue(),
    }
    columns = {name: _column(values) for name, values in arrays.items() if values.shape[1]}
    batch = pa.record_batch(list(columns.values()), list(columns)).replace_schema_metadata(metadata)
    # One record batch: each column stays one contiguous block, which readers view without a copy.
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, batch.schema) as out:
        out.write_batch(batch)


def _content_hash(
    info: Mapping[str, Any],
    names: Sequence[str],
    counts: Any,
    splits: Sequence[int] | None,
    columns: Iterable[NDArray[Any]],
) -> str:
    digest = hashlib.sha256(json.dumps([info, list(names)], sort_keys=True).encode(errors="surrogatepass"))
    for values in (np.asarray(counts, np.int64), *columns):
        digest.update(f"{values.dtype} {values.shape}\n".encode())
        digest.update(np.ascontiguousarray(values).data)  # a mapped one's pages come and go
    digest.update(json.dumps(None if splits is None else list(splits)).encode())
    return digest.hexdigest()


def _column(values: NDArray[Any]) -> Any:
    """A matrix as a column of lists, without a copy."""
    import pyarrow as pa

    flat = pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), values.size, [None, pa.py_buffer(values)])
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def _matrix(column: Any) -> NDArray[Any]:
    column.validate()
    if column.null_count or column.flatten().null_count:
        raise ValueError("it has gaps")
    flat: NDArray[Any] = np.from_dlpack(column.flatten())
    return flat.reshape(-1, column.type.list_size)
