"""Which columns of a table are features, and of which kind, whatever the order of its files."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from distmeta.core.quoting import shown
from distmeta.data.table_source import TableReader
from distmeta.data.table_store import Feature, TableColumns
from distmeta.data.table_types import is_list, is_number, is_text
from distmeta.errors import ConfigError, DataError


def feature_columns(readers: Sequence[TableReader], columns: TableColumns) -> list[Feature]:
    """The feature columns of all files: which of them are numbers (of a width of -1 still) and which are categories.

    Args:
        readers: of the files, at least one.
        columns: what is asked for.

    Raises:
        ConfigError: settings name columns that cannot be features.
        DataError: a column is missing in one of the files, or is text in one and numbers in another.
    """
    names = _names(readers, columns)
    for name in columns.categories:
        _check_category(name, names, readers[0], columns)
    for reader in readers:
        for name in names:
            if name not in reader.types and columns.features is not None and name in columns.features:
                reader.check([name])
            if name not in reader.types:
                other = next(each for each in readers if name in each.types)
                raise DataError(
                    f"{reader.file.name} has no column {shown(name)}, and {other.file.name} has one; expected the same "
                    "columns in all files: add it, or leave it out of tasks.features, which names the columns to use"
                )
    return [_feature(readers, name, columns) for name in names]


def _names(readers: Sequence[TableReader], columns: TableColumns) -> list[str]:
    """The features, by name."""
    known = list(dict.fromkeys(name for reader in readers for name in reader.types))
    taken = {columns.task, *columns.target, columns.split, columns.order}
    free = [name for name in known if name not in taken]
    if columns.features is None:
        if not free:
            raise ConfigError(f"tasks.features: {readers[0].file.name} has no other columns; name at least one feature")
        return free
    found: dict[str, None] = {}
    for pattern in columns.features:
        if pattern in (columns.task, *columns.target):
            raise ConfigError(f"tasks.features names {shown(pattern)}, which is the task or the target; leave it out")
        matching = [name for name in known if name == pattern or (name in free and fnmatchcase(name, pattern))]
        if not matching:
            others = [name for name in known if fnmatchcase(name, pattern)]
            if not others:
                readers[0].check([pattern])
            raise ConfigError(
                f"tasks.features: {shown(pattern)} matches {', '.join(map(shown, others))} alone, which the settings "
                "use otherwise; name at least one feature"
            )
        found |= dict.fromkeys(matching)
    return list(found)


def _check_category(name: str, names: Sequence[str], first: TableReader, columns: TableColumns) -> None:
    """Refuse a category that is no feature."""
    if name in names:
        return
    roles: dict[str | None, str] = {
        columns.task: "tasks.task",
        columns.split: "tasks.splits.column",
        columns.order: "tasks.order",
        **dict.fromkeys(columns.target, "tasks.target"),
    }
    if name in roles:
        raise ConfigError(
            f"tasks.categories names {shown(name)}, which is {roles[name]}; categories are features: leave it out"
        )
    first.check([name])
    raise ConfigError(
        f"tasks.categories names {shown(name)}, which tasks.features leaves out; name it there too, or leave it out"
    )


def _feature(readers: Sequence[TableReader], name: str, columns: TableColumns) -> Feature:
    """A column's kind: that of all files in which anything stands in it."""
    import pyarrow as pa

    first: tuple[TableReader, int] | None = None
    for reader in readers:
        kind = reader.types[name]
        if pa.types.is_null(kind) and name not in columns.categories:
            continue
        width = _width(reader, name, kind, columns)
        if first is None:
            first = reader, width
        elif first[1] != width:
            words = ("text", "numbers") if width == 0 else ("numbers", "text")
            raise DataError(
                f"{reader.file.name}, column {shown(name)}: it holds {words[0]}, and {words[1]} in "
                f"{first[0].file.name}; expected one schema in all files"
            )
    return Feature(name, -1 if first is None else first[1])


def _width(reader: TableReader, name: str, kind: Any, columns: TableColumns) -> int:
    """0 for categories; -1 for numbers, until the first row says how many there are."""
    reader.check([name])
    if is_text(kind) or name in columns.categories:
        return 0
    if is_number(kind) or (is_list(kind) and is_number(kind.value_type)):
        return -1
    raise DataError(
        f"{reader.file.name}, column {shown(name)}: {kind} is no feature; expected numbers, text, or lists of "
        "numbers: convert it, or leave it out of tasks.features"
    )
