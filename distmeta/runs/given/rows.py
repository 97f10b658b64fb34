"""Rows of given tasks: tables and texts, in the columns that the run's own had."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from distmeta.core.quoting import shown
from distmeta.data.table_source import TABLE_FORMATS, TableReader, find_table
from distmeta.errors import DataError
from distmeta.runs.given.base import ONE, GivenExamples


class GivenRows:
    """The rows of a file, or of a folder of files.

    Args:
        place: path or URI.
        task: the column that names the task; without it all rows are of one.
        target: the columns of labels.
        texts: columns that are text, whatever their values look like.
        labelled: whether the target's columns must be there.
        text: the column that is the input itself; ``None`` where all columns by their names are.
        kind: name of the option, for messages.
    """

    def __init__(
        self,
        place: str,
        *,
        task: str,
        target: Sequence[str],
        texts: Sequence[str],
        labelled: bool,
        text: str | None = None,
        kind: str,
    ) -> None:
        self.place, self._text = place, text
        source = find_table(place, kind, TABLE_FORMATS)
        tables = []
        for file in source.files:
            reader = TableReader(source, file, [name for name in texts if name])
            reader.check([*([text] if text else []), *(target if labelled else ())])
            batches = [batch for _, batch in reader.batches(list(reader.types))]
            tables += [pa.Table.from_batches(batches)] if batches else []
        if not tables:
            raise DataError(f"{place} has no rows")
        try:
            self._rows = pa.concat_tables(tables, promote_options="permissive").combine_chunks()
        except pa.ArrowException as error:
            raise DataError(f"{place}: its files have columns of different types ({error})") from None
        names = set(self._rows.column_names)
        self._target = [name for name in target if name in names]
        if 0 < len(self._target) < len(target):
            raise DataError(f"{place} has {shown(self._target[0])} and lacks other columns of the target")
        self.tasks = {name: self._examples(rows) for name, rows in self._places(task).items()}

    def inputs(self, examples: GivenExamples) -> Any:
        """A list of texts, or columns by name."""
        rows = self._rows.take(pa.array(examples.source))
        if self._text is None:
            return rows
        texts = rows.column(self._text).to_pylist()
        for row, text in zip(examples.rows, texts, strict=True):
            if text is None or not text.strip():
                raise DataError(f"{self.place}, row {row}: nothing stands under {shown(self._text)}")
        return texts

    def close(self) -> None:
        """Nothing is open."""

    def _places(self, task: str) -> dict[str, np.ndarray]:
        if task not in self._rows.column_names:
            return {ONE: np.arange(self._rows.num_rows)}
        column = self._rows.column(task)
        if column.null_count:
            row = next(at for at, value in enumerate(column.to_pylist(), 1) if value is None)
            raise DataError(f"{self.place}, row {row}: nothing stands under {shown(task)}, the column of tasks")
        names = np.asarray([_plain(value) for value in column.to_pylist()], dtype=object)
        known, first, codes = np.unique(names, return_index=True, return_inverse=True)
        order = np.argsort(codes, kind="stable")
        parts = np.split(order, np.cumsum(np.bincount(codes))[:-1])
        return {known[at]: parts[at] for at in np.argsort(first)}

    def _examples(self, rows: np.ndarray) -> GivenExamples:
        labels: list[Any] | None = None
        if self._target:
            given = self._rows.select(self._target).take(pa.array(rows))
            columns = [given.column(name).to_pylist() for name in self._target]
            for name, column in zip(self._target, columns, strict=True):
                empty = next((at for at, value in enumerate(column) if value is None), None)
                if empty is not None:
                    raise DataError(f"{self.place}, row {rows[empty] + 1}: nothing stands under {shown(name)}")
            labels = [values[0] if len(values) == 1 else list(values) for values in zip(*columns, strict=True)]
        return GivenExamples([int(row) + 1 for row in rows], labels, rows)


def _plain(value: Any) -> str:
    """A task's name as people write it: 7, where a CSV file made 7.0 of it."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
