"""Building a table's store: two passes over the files, in the memory of a few batches and a few bytes a row."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distmeta.config.splits import SplitColumn
from distmeta.core.advance import LoggedAdvance
from distmeta.core.hashing import sha256
from distmeta.core.quoting import shown
from distmeta.core.records import SPLITS
from distmeta.data.splits import column_splits
from distmeta.data.table_columns import feature_columns
from distmeta.data.table_order import ordered
from distmeta.data.table_source import (
    TableFile,
    TableReader,
    TableSource,
    ValuePlace,
    find_table,
    numbers,
    texts,
)
from distmeta.data.table_store import (
    TABLE_SUFFIX,
    TABLE_VERSION,
    TableColumns,
    TableStore,
    write_table_store,
)
from distmeta.data.table_types import is_numeral
from distmeta.errors import DataError
from distmeta.storage.cache import build_once, cache_for, written_whole

log = logging.getLogger(__name__)

SORTED_NUMBERS = 2**23
"""Numbers, about, of the rows whose order within their tasks is found together."""

BUILD_VERSION = 2
"""Of how rows are read and put in order: stores that were built otherwise are built anew."""


def build_table(source: TableSource, columns: TableColumns, path: Path) -> None:
    """Write the store of a table.

    The first pass learns the tasks and counts their rows, the second puts every row in its place in a mapped file.

    Raises:
        DataError: naming the file, the row and the column of what cannot be used.
    """
    log.info("reading the table %s once, so that its tasks can be drawn: %d file(s)", source.place, len(source.files))
    with written_whole(path) as temporary, tempfile.TemporaryDirectory(dir=path.parent, prefix=".table-") as folder:
        build = _Build(source, columns, Path(folder))
        build.read_tasks()
        build.read_rows()
        build.sort()
        build.write(temporary)


class NameCodes:
    """Distinct names, numbered as they come.

    >>> codes = NameCodes()
    >>> codes.add(["b", "a"]).tolist(), codes.add(["a", "c"]).tolist()
    ([0, 1], [1, 2])
    """

    def __init__(self) -> None:
        self._known: dict[str, int] = {}

    def add(self, names: Iterable[str]) -> NDArray[np.int64]:
        """The number of each."""
        return np.array([self._known.setdefault(name, len(self._known)) for name in names], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._known)

    @property
    def names(self) -> list[str]:
        """By number."""
        return list(self._known)

    def ranked(self) -> tuple[list[str], NDArray[np.int64]]:
        """The names in ascending order, and the place there of each number."""
        names = self.names
        order = sorted(range(len(names)), key=names.__getitem__)
        rank = np.empty(len(names), dtype=np.int64)
        rank[order] = np.arange(len(names))
        return [names[at] for at in order], rank


class _Build:
    """One table on its way into a store."""

    def __init__(self, source: TableSource, columns: TableColumns, folder: Path) -> None:
        self._source, self._columns, self._folder = source, columns, folder
        split = [] if columns.split is None else [columns.split]
        target = columns.target if columns.classes else ()
        self._texts = [columns.task, *split, *target, *columns.categories]
        self._tasks = NameCodes()
        self._readers = [self._reader(file) for file in source.files]
        self._features = feature_columns(self._readers, columns)
        self._widths: dict[str, int] = {}
        self._categories = {each.name: NameCodes() for each in self._features if each.width == 0}
        self._labels = NameCodes()
        self._odd: dict[str, tuple[ValuePlace, int, str]] = {}  # of columns of text, the first value that is no number

    def _reader(self, file: TableFile) -> TableReader:
        columns = self._columns
        reader = TableReader(self._source, file, self._texts, () if columns.order is None else (columns.order,))
        roles = [columns.task, *columns.target, columns.split, columns.order]
        reader.check([name for name in roles if name is not None])
        return reader

    # First pass ---------------------------------------------------------------------------------------------------

    def read_tasks(self) -> None:
        """Number the tasks, count their rows, and learn their splits."""
        columns, pairs = self._columns, NameCodes()
        asked = [columns.task, *([] if columns.split is None else [columns.split])]
        counts = np.zeros(0, np.int64)
        rows, advance = 0, LoggedAdvance(log, f"counting the tasks of {self._source.place}", "rows")
        with (self._folder / "tasks").open("wb") as out:
            for reader in self._readers:
                file = reader.file
                for first, batch in reader.batches(asked):
                    indices, names = texts(batch.column(0), ValuePlace(file.name, columns.task, first))
                    numbered = self._tasks.add(names)[indices]
                    out.write(numbered.astype(np.int32).tobytes())
                    more = np.bincount(numbered, minlength=len(self._tasks))
                    more[: len(counts)] += counts
                    counts, rows = more, rows + len(numbered)
                    if columns.split is not None:
                        self._pair(pairs, batch.column(1), ValuePlace(file.name, columns.split, first), indices, names)
                    advance(rows)
        if not rows:
            raise DataError(f"{self._source.place} has no rows; expected at least one of each split")
        self._names, self._rank = self._tasks.ranked()
        self._counts = np.empty(len(counts), np.int64)
        self._counts[self._rank] = counts
        self._splits = None
        if columns.split is not None:
            said = (tuple(pair.split("\0", 1)) for pair in pairs.names)
            setting = SplitColumn(column=columns.split)
            found = column_splits(((task, split) for split, task in said), setting, self._source.place, "task")
            self._splits = [SPLITS.index(found[name]) for name in self._names]

    @staticmethod
    def _pair(pairs: NameCodes, array: Any, place: ValuePlace, tasks: NDArray[np.int64], names: Sequence[str]) -> None:
        splits, values = texts(array, place)
        for code in np.unique(tasks * len(values) + splits):
            task, split = divmod(int(code), len(values))
            pairs.add([f"{values[split]}\0{names[task]}"])

    # Second pass --------------------------------------------------------------------------------------------------

    def read_rows(self) -> None:
        """Put the features and targets of every row in the row's place."""
        columns = self._columns
        asked = [*(each.name for each in self._features), *columns.target, *([columns.order] if columns.order else [])]
        coded = np.memmap(self._folder / "tasks", np.int32, "r")
        cursor = np.cumsum(self._counts) - self._counts
        self._arrays: dict[str, np.memmap[Any, Any]] = {}
        done, advance = 0, LoggedAdvance(log, f"reading {self._source.place}", "rows")
        for reader in self._readers:
            for first, batch in reader.batches(list(dict.fromkeys(asked))):
                task = self._rank[coded[done : done + batch.num_rows]]
                order = np.argsort(task, kind="stable")
                tasks, starts, more = np.unique(task[order], return_index=True, return_counts=True)
                within = np.arange(len(order)) - np.repeat(starts, more)
                places = np.empty(len(order), np.int64)
                places[order] = np.repeat(cursor[tasks], more) + within
                cursor[tasks] += more
                for name, values in self._values(batch, reader.file.name, first).items():
                    self._array(name, values)[places] = values
                done += batch.num_rows
                advance(done, len(coded))

    def _values(self, batch: Any, file: str, first: int) -> dict[str, NDArray[Any]]:
        """What is kept of a batch's rows."""
        columns = self._columns
        found: dict[str, NDArray[Any]] = {}
        wide, coded = [], []
        for feature in self._features:
            place, array = ValuePlace(file, feature.name, first), batch.column(feature.name)
            if feature.width:
                values = numbers(array, place)
                self._check_width(feature.name, values, place)
                wide.append(values)
            else:
                indices, names = texts(array, place)
                coded.append(self._categories[feature.name].add(names)[indices])
                self._check_categories(feature.name, place, indices, names)
        if wide:
            found["numbers"] = np.concatenate(wide, 1)
        if coded:
            found["codes"] = np.stack(coded, 1).astype(np.int32)
        if columns.classes:
            indices, names = texts(batch.column(columns.target[0]), ValuePlace(file, columns.target[0], first))
            found["y"] = self._labels.add(names)[indices].astype(np.int32)[:, None]
        else:
            given = [numbers(batch.column(name), ValuePlace(file, name, first)) for name in columns.target]
            for name, values in zip(columns.target, given, strict=True):
                self._check_width(name, values, ValuePlace(file, name, first))
            found["y"] = np.concatenate(given, 1)
        if columns.order is not None:
            place, spelled = ValuePlace(file, columns.order, first), self._source.format == "csv"
            found["order"] = ordered(batch.column(columns.order), place, spelled=spelled)[:, None]
        return found

    def _check_width(self, name: str, values: NDArray[Any], place: ValuePlace) -> None:
        width = self._widths.setdefault(name, values.shape[1])
        if values.shape[1] != width:
            place.refuse(0, f"a list of {values.shape[1]} numbers, where others have {width}; expected one length")

    def _check_categories(self, name: str, place: ValuePlace, rows: NDArray[np.int64], names: Sequence[str]) -> None:
        if name not in self._odd:
            first = next((at for at, text in enumerate(names) if not is_numeral(text)), None)
            if first is not None:
                self._odd[name] = place, int(np.flatnonzero(rows == first)[0]), names[first]
        count, most = len(self._categories[name]), self._columns.most_categories
        if count <= most:
            return
        known = self._categories[name].names
        odd = [each for each in known if not is_numeral(each)]
        hint = f" (if it should be numbers: {shown(odd[0])} is none)" if 0 < len(odd) < len(known) / 2 else ""
        raise DataError(
            f"{place.file}, column {shown(name)}: more than {most} different texts, for example "
            f"{', '.join(map(shown, known[:3]))}, and a category is for few{hint}; leave it out of tasks.features, or "
            "raise tasks.most_categories"
        )

    def _array(self, name: str, like: NDArray[Any]) -> np.memmap[Any, Any]:
        if name not in self._arrays:
            shape = (int(self._counts.sum()), like.shape[1])
            # A full disk is an error now, and a crash of a mapping later.
            with (self._folder / name).open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, max(1, shape[0] * shape[1] * like.itemsize))
            self._arrays[name] = np.memmap(self._folder / name, like.dtype, "r+", shape=shape)
        return self._arrays[name]

    # The end ------------------------------------------------------------------------------------------------------

    def sort(self) -> None:
        """Number categories and classes in ascending order; put a task's rows in the order that is asked for."""
        for name, (place, at, odd) in self._odd.items():
            known = self._categories[name].names
            if name not in self._columns.categories and 2 * sum(map(is_numeral, known)) > len(known):
                place.refuse(
                    at, f"{shown(odd)} is text, and most are numbers; mend it, or name the column in tasks.categories"
                )
        self._known = {name: codes.ranked() for name, codes in self._categories.items()}
        self._classes, ranks = self._labels.ranked()
        ends = np.cumsum(self._counts)
        for rows in self._blocks():
            for at, (_, rank) in enumerate(self._known.values()):
                codes = self._arrays["codes"]
                codes[rows, at] = rank[codes[rows, at]]
            if self._columns.classes:
                self._arrays["y"][rows] = ranks[self._arrays["y"][rows]]
            keys = []
            if self._columns.order is not None:
                order = self._arrays["order"][rows, 0]
                keys += [order["rest"], order["whole"]]
            if self._columns.by_class:
                keys.append(self._arrays["y"][rows, 0])
            if keys:
                order = np.lexsort([*keys, np.searchsorted(ends, np.arange(rows.start, rows.stop), side="right")])
                for array in self._arrays.values():
                    array[rows] = array[rows][order]

    def _blocks(self) -> Iterator[slice]:
        """Rows of whole tasks, about as many as are sorted together."""
        ends = np.cumsum(self._counts)
        rows = SORTED_NUMBERS // sum(array.shape[1] for array in self._arrays.values()) + 1
        start = 0
        while start < ends[-1]:
            at = int(np.searchsorted(ends, start + rows))
            stop = int(ends[min(at, len(ends) - 1)])
            yield slice(start, stop)
            start = stop

    def write(self, path: Path) -> None:
        """Write the store."""
        arrays = {name: array for name, array in self._arrays.items() if name != "order"}
        tasks: dict[str, Any] = {"name": self._names, "count": self._counts}
        if self._splits is not None:
            tasks["split"] = self._splits
        features = [{"name": each.name, "width": self._widths.get(each.name, 0)} for each in self._features]
        info = {
            "features": features,
            "categories": [names for names, _ in self._known.values()],
            "labels": self._classes,
        }
        write_table_store(path, arrays, tasks, info)


def open_table(place: str, columns: TableColumns) -> TableStore:
    """The store of a table, built once a host for each state of its files.

    Args:
        place: a path or URI of the table, or the path of a store.
        columns: what is taken of it.

    Raises:
        DataError: the table is missing, damaged, or holds what cannot be used.
    """
    if place.endswith(TABLE_SUFFIX):
        return TableStore.open(Path(place))
    source = find_table(place)
    asked = json.dumps([TABLE_VERSION, BUILD_VERSION, source.version, asdict(columns)])
    name = f"{sha256(asked.encode(errors='surrogatepass'))[:16]}{TABLE_SUFFIX}"
    return TableStore.open(build_once(cache_for(name) / name, lambda path: build_table(source, columns, path)))
