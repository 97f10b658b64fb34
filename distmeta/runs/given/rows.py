"""Rows of given tasks: tables and texts, in the columns that the run's own had."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from distmeta.core.quoting import shown
from distmeta.data.table_source import TABLE_FORMATS, TableReader, ValuePlace, find_table, numbers
from distmeta.errors import DataError
from distmeta.runs.given.base import ONE, GivenExamples, same_file, task_name
from distmeta.tasks.table_fit import FittedColumn, category_index, is_nothing


@dataclass(frozen=True)
class GivenColumns:
    """What is taken of the rows.

    Attributes:
        task: the column that names the task; without it all rows are of one.
        target: the columns of labels.
        classes: whether labels are classes, and not numbers.
        features: the columns that are the inputs, as they were fitted.
        text: the column that is the input itself, where texts are.
    """

    task: str
    target: tuple[str, ...]
    classes: bool
    features: tuple[FittedColumn, ...] = ()
    text: str | None = None

    @property
    def inputs(self) -> list[str]:
        """Columns that must be there."""
        return [*([] if self.text is None else [self.text]), *(each.name for each in self.features)]

    @property
    def texts(self) -> list[str]:
        """Columns that are text, whatever their values look like, as in training."""
        coded = [each.name for each in self.features if each.categories is not None]
        named = [self.task, self.text or "", *(self.target if self.classes else ()), *coded]
        return [name for name in named if name]


class GivenRows:
    """The rows of a file, or of a folder of files.

    Args:
        place: path or URI.
        columns: what is taken of them.
        labelled: whether the target's columns must be there.
        kind: name of the option, for messages.

    Raises:
        DataError: something is missing, empty or of another kind; the message names the file, the row and the column.
    """

    def __init__(self, place: str, columns: GivenColumns, *, labelled: bool, kind: str) -> None:
        self.place, self._columns = place, columns
        self.naming = f"column {shown(columns.task)}"
        self._fitted = {each.name: each for each in columns.features}
        source = find_table(place, kind, TABLE_FORMATS)
        self._files = [file.path for file in source.files]
        tables, target = [], columns.target
        for file in source.files:
            reader = TableReader(source, file, columns.texts)
            reader.check([*columns.inputs, *(target if labelled else ())])
            names = dict.fromkeys([columns.task, *target, *columns.inputs])
            for first, batch in reader.batches([name for name in names if name in reader.types]):
                checked = {
                    name: self._checked(batch.column(name), ValuePlace(file.name, name, first))
                    for name in batch.schema.names
                }
                tables.append(pa.table(checked))
        if not tables:
            raise DataError(f"{place} has no rows; give at least one")
        try:
            self._rows = pa.concat_tables(tables, promote_options="permissive").combine_chunks()
        except pa.ArrowException as error:
            raise DataError(f"{place}: its files have columns of different types ({error})") from None
        known = set(self._rows.column_names)
        self._target = [name for name in target if name in known]
        if 0 < len(self._target) < len(target):
            raise DataError(f"{place} has {shown(self._target[0])} and lacks other columns of the target")
        for name in known:  # of several files, one may lack a column that another has
            if self._rows.column(name).null_count:
                self._refuse_empty(self._rows.column(name), ValuePlace(place, name, 1))
        self.tasks = {name: self._examples(rows) for name, rows in self._places().items()}

    def inputs(self, examples: GivenExamples) -> Any:
        """A list of texts, or columns by name."""
        rows = self._rows.take(pa.array(examples.source))
        return rows if self._columns.text is None else rows.column(self._columns.text).to_pylist()

    def takes(self, path: Path) -> bool:
        """Whether a file is one of those that are read."""
        return any(same_file(file, path) for file in self._files)

    def close(self) -> None:
        """Nothing is open."""

    def _checked(self, array: Any, place: ValuePlace) -> Any:
        """A batch of a column, of one type whatever its file made of it."""
        if pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        self._refuse_empty(array, place)
        name, columns = place.column, self._columns
        if name == columns.task:
            return pa.array([task_name(value) for value in array.to_pylist()], pa.string())
        if name == columns.text:
            return _texts(array, place)
        if name in columns.target and columns.classes:
            return array
        feature = self._fitted.get(name)
        if feature is not None and feature.categories is not None:
            return _categories(array, feature.categories, place)
        values = numbers(array, place)
        if feature is not None and values.shape[1] != feature.width:
            place.refuse(0, f"{values.shape[1]} numbers, where training had {feature.width}; give as many")
        return pa.array(values[:, 0]) if values.shape[1] == 1 else pa.array(values.tolist(), pa.list_(pa.float64()))

    def _refuse_empty(self, array: Any, place: ValuePlace) -> None:
        if array.null_count == 0 and place.column not in self._columns.texts:
            return  # numbers: those that are not finite are refused where they are read
        blank = self._columns.text is not None  # what training on texts refuses, too
        for at, value in enumerate(array.to_pylist()):
            stripped = value.strip() if blank and isinstance(value, str) else value
            if value is None or (place.column in self._columns.texts and is_nothing(stripped)):
                what = ", the column of tasks" if place.column == self._columns.task else ""
                raise DataError(
                    f"{place.file}, row {place.first + at:,}: nothing stands under {shown(place.column)}{what}; fill "
                    "it in or remove the row"
                )

    def _places(self) -> dict[str, np.ndarray]:
        if self._columns.task not in self._rows.column_names:
            return {ONE: np.arange(self._rows.num_rows)}
        names = np.asarray(self._rows.column(self._columns.task).to_pylist(), dtype=object)
        known, first, codes = np.unique(names, return_index=True, return_inverse=True)
        order = np.argsort(codes, kind="stable")
        parts = np.split(order, np.cumsum(np.bincount(codes))[:-1])
        return {known[at]: parts[at] for at in np.argsort(first)}

    def _examples(self, rows: np.ndarray) -> GivenExamples:
        labels: list[Any] | None = None
        if self._target:
            given = self._rows.select(self._target).take(pa.array(rows))
            columns = [given.column(name).to_pylist() for name in self._target]
            labels = [values[0] if len(values) == 1 else list(values) for values in zip(*columns, strict=True)]
        return GivenExamples([int(row) + 1 for row in rows], labels, rows)


def _texts(array: Any, place: ValuePlace) -> Any:
    values: Sequence[Any] = array.to_pylist()
    for at, value in enumerate(values):
        if not isinstance(value, str):
            place.refuse(at, f"{shown(value)} is {array.type}, where text is wanted")
    return pa.array(values, pa.large_string())


def _categories(array: Any, categories: Sequence[str], place: ValuePlace) -> Any:
    """A column of categories as text: what a file has as numbers or truth values, as training wrote it."""
    found: dict[Any, str] = {}
    values = array.to_pylist()
    for at, value in enumerate(values):
        key = (type(value), str(value))
        if key not in found:
            try:
                index = category_index(value, categories)
            except ValueError as error:
                place.refuse(at, str(error))
            found[key] = categories[index] if index >= 0 else str(value)
    return pa.array([found[type(value), str(value)] for value in values], pa.string())
