"""What a table's training tasks teach: the scale of every number, the categories, the classes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from distmeta.core.quoting import shown
from distmeta.data.table_store import TableStore
from distmeta.data.table_types import is_numeral
from distmeta.errors import ConfigError, DataError
from distmeta.tasks.options.table import TableOptions
from distmeta.tasks.reading import unmasked
from distmeta.tasks.table_scale import ColumnExtremes, ColumnMoments, scaled


class FittedColumn(BaseModel):
    """A feature column: its numbers' means and scales, or its categories."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: str
    mean: list[float] = []
    scale: list[float] = []
    categories: list[str] | None = None

    @property
    def width(self) -> int:
        """Numbers that the network gets of it."""
        return len(self.mean) if self.categories is None else len(self.categories)


class FittedTable(BaseModel):
    """What ``fitted.json`` holds for a table.

    Attributes:
        columns: the features, those of numbers first, as the network gets them.
        target: names of the target's columns.
        mean: (D,) of the target; 0 where it is not standardised.
        scale: (D,) likewise; 1.
        classes: of all tasks together, ascending, where the tasks share them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    columns: list[FittedColumn]
    target: list[str]
    mean: list[float] = []
    scale: list[float] = []
    classes: list[str] | None = None

    @classmethod
    def of(cls, options: TableOptions) -> FittedTable:
        """What the options carry.

        Raises:
            ConfigError: they carry nothing of the kind, as a damaged checkpoint's.
        """
        try:
            return cls.model_validate(options.fitted)
        except ValidationError as error:
            raise ConfigError(
                "tasks.kind = table: what was learned from the training tasks is missing or damaged "
                f"({error.errors()[0]['msg']})"
            ) from None

    @property
    def width(self) -> int:
        """Numbers that the network gets of a row."""
        return sum(each.width for each in self.columns)

    def encode(
        self, wide: NDArray[np.float64], codes: NDArray[Any], where: Callable[[tuple[int, ...]], str]
    ) -> NDArray[np.float32]:
        """Rows as the network gets them: standardised numbers, then categories one-hot.

        Args:
            wide: (..., F) numbers.
            codes: (..., C) an index into the categories of each column; negative for one that no training task has,
                which becomes zeros.
            where: what messages call the row at a place (...).

        Raises:
            DataError: a number is too large for float32.
        """
        found = np.zeros((*wide.shape[:-1], self.width), np.float32)
        plain = [each for each in self.columns if each.categories is None]
        mean = np.array([value for each in plain for value in each.mean])
        scale = np.array([value for each in plain for value in each.scale])
        start = wide.shape[-1]
        names = [each.name for each in plain for _ in each.mean]
        found[..., :start] = scaled(wide, mean, scale, lambda at: f"{where(at[:-1])}, column {shown(names[at[-1]])}")
        for at, column in enumerate(each for each in self.columns if each.categories is not None):
            found[..., start : start + column.width] = codes[..., at, None] == np.arange(column.width)
            start += column.width
        return found

    def rows(self, values: Any, name: str = "the inputs") -> NDArray[np.float32]:
        """Rows that a user has, as the network gets them.

        Args:
            values: the features' columns by name (a mapping, a data frame, a ``pyarrow.Table``); or an array (N, F) of
                raw numbers in the order of the columns, where all of them are numbers.
            name: what it is, for messages.

        Raises:
            ConfigError: a column is missing, of another length, or not numbers (of float32) where these are wanted.
        """

        def where(at: tuple[int, ...]) -> str:
            return f"{name}, row {at[0] + 1:,}"

        try:
            return self._rows(values, name, where)
        except DataError as error:
            raise ConfigError(str(error)) from None

    def _rows(self, values: Any, name: str, where: Callable[[tuple[int, ...]], str]) -> NDArray[np.float32]:
        plain = [each for each in self.columns if each.categories is None]
        coded = [each for each in self.columns if each.categories is not None]
        names = getattr(values, "column_names", None) or (list(values.keys()) if hasattr(values, "keys") else None)
        if names is None:
            if coded:
                raise ConfigError(
                    f"{name}: {shown(coded[0].name)} is a column of categories; give the columns by name, for example "
                    "{" + ", ".join(f"{each.name!r}: [...]" for each in self.columns[:2]) + ", ...}"
                )
            wide = _array(values, name)
            width = sum(each.width for each in plain)
            if wide.ndim != 2 or wide.shape[1] != width:
                raise ConfigError(
                    f"{name}: expected the shape (N, {width}), a column for each of "
                    f"{', '.join(each.name for each in plain)}, got {wide.shape}"
                )
            return self.encode(wide, np.zeros((len(wide), 0), np.int64), where)
        missing = [each.name for each in self.columns if each.name not in names]
        if missing:
            raise ConfigError(
                f"{name}: there is no column {shown(missing[0])}; there are {', '.join(map(shown, names))}"
            )
        parts = [_array(_column(values, each.name), f"{name}[{each.name!r}]") for each in plain]
        parts = [part.reshape(len(part), -1) for part in parts]
        for each, part in zip(plain, parts, strict=True):
            if part.shape[1] != each.width:
                raise ConfigError(
                    f"{name}[{each.name!r}]: there are {part.shape[1]} numbers a row instead of {each.width}"
                )
        codes = [_codes(_column(values, each.name), each.categories or [], f"{name}[{each.name!r}]") for each in coded]
        if len({len(each) for each in [*parts, *codes]}) > 1:
            raise ConfigError(f"{name}: columns are of different lengths; give each the same number of rows")
        count = len([*parts, *codes][0])
        wide = np.concatenate(parts, 1) if parts else np.zeros((count, 0))
        return self.encode(wide, np.stack(codes, 1) if codes else np.zeros((count, 0), np.int64), where)


def fit_table(store: TableStore, train: NDArray[np.int64], options: TableOptions, standardised: bool) -> FittedTable:
    """Learn from the rows of the training tasks, in float64, a block at a time.

    Args:
        store: the table.
        train: indices of the training tasks.
        options: the settings.
        standardised: whether the targets are numbers to be standardised.

    Raises:
        DataError: classes that all tasks share are fewer than two; numbers are too large.
    """
    mask = np.zeros(len(store.counts), bool)
    mask[train] = True
    features, targets = (
        ColumnMoments(store.numbers.shape[1]),
        ColumnMoments(store.y.shape[1] if store.y.ndim > 1 else 0),
    )
    # Of all rows: what overflows in a task for validation or test is better known before the training than after it.
    ranges = [ColumnExtremes(), *([] if store.labels else [ColumnExtremes()])]
    seen = [np.zeros(len(names), bool) for names in store.categories]
    labels = np.zeros(len(store.labels), bool)
    for rows, tasks in store.blocks():
        chosen = mask[tasks]
        features.add(store.numbers[rows][chosen])
        for extremes, values in zip(ranges, (store.numbers, store.y), strict=False):
            extremes.add(values[rows], rows.start)
        for at, known in enumerate(seen):
            known[store.codes[rows, at][chosen]] = True
        if store.labels:
            labels[store.y[rows][chosen]] = True
        elif standardised:
            targets.add(store.y[rows][chosen])
    names = [each.name for each in store.features for _ in range(each.width)]
    if options.standardise:
        features.check(names)
    targets.check(_target_names(store, options))
    mean, scale = features.standard() if options.standardise else features.none()
    ranges[0].check(store, mean, scale, names)
    columns, start = [], 0
    for each in (feature for feature in store.features if feature.width):
        part = slice(start, start + each.width)
        columns.append(FittedColumn(name=each.name, mean=mean[part], scale=scale[part]))
        start += each.width
    coded = [feature.name for feature in store.features if not feature.width]
    for name, known_values, known in zip(coded, store.categories, seen, strict=True):
        kept = [value for value, here in zip(known_values, known, strict=True) if here]
        columns.append(FittedColumn(name=name, categories=kept))
    classes = None
    if store.labels and options.classes == "all":
        classes = [value for value, here in zip(store.labels, labels, strict=True) if here]
        if len(classes) < 2:
            raise DataError(
                f"tasks.target = {options.target[0]}: the training tasks have one class, {shown(classes[0])}; expected "
                "two or more"
            )
    mean, scale = targets.standard() if standardised and options.standardise else targets.none()
    if not store.labels:
        ranges[1].check(store, mean, scale, _target_names(store, options))
    return FittedTable(columns=columns, target=list(options.target), mean=mean, scale=scale, classes=classes)


def _target_names(store: TableStore, options: TableOptions) -> list[str]:
    """What messages call each number of the target: lists of several columns are not told apart."""
    width = store.y.shape[1] if store.y.ndim > 1 else 0
    return list(options.target) if width == len(options.target) else [", ".join(options.target)] * width


def indices(known: Sequence[str], fitted: Sequence[str]) -> NDArray[np.int64]:
    """For each known name its index among the fitted ones, or -1."""
    places = {name: at for at, name in enumerate(fitted)}
    return np.array([places.get(name, -1) for name in known], dtype=np.int64)


def _column(values: Any, name: str) -> Any:
    column = values[name]
    return column.to_pylist() if hasattr(column, "to_pylist") else column


def _array(values: Any, name: str) -> NDArray[np.float64]:
    detached = values.detach().cpu() if hasattr(values, "detach") else values
    try:
        detached = unmasked(detached) if isinstance(detached, np.ma.MaskedArray) else detached
    except ValueError as error:
        raise ConfigError(f"{name} {error}") from None
    try:
        found = np.asarray(detached, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name}: cannot be read as numbers ({' '.join(str(error).split())})") from None
    if found.ndim == 0:
        raise ConfigError(f"{name}: expected one row of numbers or more, got one number")
    return found


def category_index(value: Any, categories: Sequence[str]) -> int:
    """Where a value stands among categories, which are texts; -1 for one that no training task has.

    Data frames make numbers and truth values of texts. They are the category that is written so, where that is clear.

    Raises:
        ValueError: there is no value, or it is not clear which category it is.

    >>> [category_index(value, ["1", "2"]) for value in ("2", 2, 2.0, 9)]
    [1, 1, 1, -1]
    """
    plain = value.item() if isinstance(value, np.generic) else value
    plain = float(plain) if isinstance(plain, Decimal) else plain
    if is_nothing(plain):
        raise ValueError("nothing stands there; fill it in or remove the row")
    text = str(plain)
    of_text = not isinstance(plain, (bool, int, float))
    if of_text and (text in categories or text.lower() not in ("true", "false")):
        return categories.index(text) if text in categories else -1
    if of_text or isinstance(plain, bool):
        like = [each for each in categories if each.lower() in ("true", "false")]
        same = [each for each in like if each.lower() == text.lower()]
        clear = len(same) == 1
    else:
        like = [each for each in categories if is_numeral(each)]
        same = [each for each in like if float(each) == plain]
        whole = str(int(plain)) if math.isfinite(plain) and plain == int(plain) else text
        clear = len(same) == 1 and same[0] in (text, whole, f"{whole}.0")
    if clear:
        return categories.index(same[0])
    if of_text or (like and not same):
        return -1
    known = ", ".join(map(shown, (same or categories)[:5]))
    raise ValueError(
        f"it is not clear which category {shown(plain)}, of type {type(plain).__name__}, is; the categories are texts "
        f"such as {known}: give the column as text, written as in the training table"
    )


def is_nothing(value: Any) -> bool:
    """Whether a value of a column is none: a null, what pandas has for it, or an empty text."""
    return value in (None, "") if isinstance(value, (str, type(None))) else str(value) in ("nan", "<NA>", "NaT")


def _codes(values: Any, categories: Sequence[str], name: str) -> NDArray[np.int64]:
    plain = values.tolist() if hasattr(values, "tolist") else list(values)
    known: dict[tuple[type, str], int] = {}
    found = np.empty(len(plain), np.int64)
    for at, value in enumerate(plain):
        key = (type(value), str(value))
        if key not in known:
            try:
                known[key] = category_index(value, categories)
            except ValueError as error:
                raise ConfigError(f"{name}, row {at + 1:,}: {error}") from None
        found[at] = known[key]
    return found


def _text(value: Any) -> str:
    """A value as a store names it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def class_indices(values: Any, classes: Sequence[str], name: str) -> NDArray[np.int64]:
    """Classes as a user has them, by their index.

    Raises:
        ConfigError: one that no training task has.
    """
    plain = values.tolist() if hasattr(values, "tolist") else list(values)
    named = [_text(value) for value in plain]
    found = indices(named, classes)
    if (found < 0).any():
        unknown = named[int(np.flatnonzero(found < 0)[0])]
        raise ConfigError(
            f"{name} has the class {shown(unknown)}, which no training task has; there are "
            f"{', '.join(map(shown, classes))}"
        )
    return found
