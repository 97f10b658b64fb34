"""Tables of texts with labels: CSV, Parquet or JSON lines, on a disk or at a URI, read batch by batch."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from distmeta.config.splits import SplitColumn
from distmeta.core.advance import LoggedAdvance
from distmeta.core.quoting import shown
from distmeta.core.records import Split
from distmeta.data.splits import column_splits
from distmeta.data.table_open import open_dataset, reason, twice_in_parquet, two_columns
from distmeta.data.table_source import TABLE_FORMATS, TableSource, find_table
from distmeta.data.table_types import is_text
from distmeta.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TEXT_FORMATS = {**TABLE_FORMATS, ".jsonl": "json", ".ndjson": "json", ".json": "json"}
"""How a file is read, by the end of its name; JSON means an object a line."""

_ROWS = 8192
"""Rows that are read at a time."""
log = logging.getLogger(__name__)


class TextRows(NamedTuple):
    """Some consecutive rows of a file.

    Attributes:
        place: the file.
        first: number of the first of them, counted from 1.
        texts: each with more than white space in it.
        labels: the class of each.
        groups: the group of each; ``None`` where there are none.
        splits: what stands in the column of splits; ``None`` where there is none.
    """

    place: str
    first: int
    texts: Sequence[str]
    labels: Sequence[str]
    groups: Sequence[str] | None = None
    splits: Sequence[str] | None = None


class TextSource(Protocol):
    """Where texts come from."""

    @property
    def place(self) -> str:
        """What messages call it."""
        ...

    def version(self) -> str:
        """What tells an old copy from a new one without reading it."""
        ...

    def rows(self) -> Iterator[TextRows]:
        """All rows, in the same order each time.

        Raises:
            DataError: something is missing, damaged, empty or of the wrong type.
        """
        ...


@dataclass(frozen=True)
class TextTable:
    """A file or a folder of files of one format, with a column of texts and one of labels.

    Attributes:
        place: path or URI.
        text: the column of texts.
        label: the column of labels.
        group: a column of groups of classes, for example domains.
        split: a column that says to which split a row belongs.
    """

    place: str
    text: str
    label: str
    group: str | None = None
    split: str | None = None

    def version(self) -> str:
        """The columns, and sizes and times of the files."""
        return repr((self._found().version, self.text, self.label, self.group, self.split))

    def rows(self) -> Iterator[TextRows]:
        """All rows, file by file in the order of their names."""
        found = self._found()
        for file in found.files:
            yield from self._rows_of(found, file.path)

    def _found(self) -> TableSource:
        return find_table(self.place, "tasks.root", TEXT_FORMATS)

    @property
    def _columns(self) -> dict[str, str]:
        """Columns by the setting that names them."""
        named = {"text": self.text, "label": self.label, "group": self.group, "splits.column": self.split}
        return {setting: column for setting, column in named.items() if column is not None}

    def _rows_of(self, source: TableSource, path: str) -> Iterator[TextRows]:
        import pyarrow as pa

        names: list[str] = []
        try:
            # Columns of a CSV file are text, whatever they look like.
            dataset = open_dataset(source.filesystem, path, source.format, [*self._columns.values()])
            names = dataset.schema.names
            self._check(dataset.schema, path)
            # One piece after the other: their order is that of the file, and few lie in memory.
            scanner = dataset.scanner(columns=[*dict.fromkeys(self._columns.values())], batch_size=_ROWS)
            first = 1
            for batch in scanner.to_batches():
                columns = {key: _strings(batch.column(name)) for key, name in self._columns.items()}
                self._check_values(columns, path, first)
                values = (columns.get(key) for key in ("text", "label", "group", "splits.column"))
                yield TextRows(path, first, *values)  # type: ignore[arg-type]
                first += batch.num_rows
        except (OSError, pa.ArrowException, ValueError) as error:
            twice = twice_in_parquet(source.filesystem, path) if source.format == "parquet" and not names else None
            raise _unreadable(path, reason(error, names) if twice is None else two_columns(twice)) from None

    def _check(self, schema: Any, path: str) -> None:
        """The columns are there, and hold text; labels and the like may be whole numbers as well."""
        import pyarrow as pa

        for setting, name in self._columns.items():
            if name not in schema.names:
                raise DataError(
                    f"{shown(path)[1:-1]} has no column {shown(name)} (tasks.{setting}); it has "
                    f"{', '.join(map(shown, schema.names)) or 'none'}"
                )
            kind = schema.field(name).type
            kind = kind.value_type if pa.types.is_dictionary(kind) else kind
            whole = setting != "text" and (pa.types.is_integer(kind) or pa.types.is_boolean(kind))
            if not (whole or is_text(kind) or pa.types.is_null(kind)):
                raise DataError(
                    f"{shown(path)[1:-1]}: the column {shown(name)} (tasks.{setting}) holds {kind} values; expected "
                    "text"
                )

    def _check_values(self, columns: dict[str, list[Any]], path: str, first: int) -> None:
        for setting, values in columns.items():
            for row, value in enumerate(values, first):
                if value is None or not value.strip():
                    what = "a null" if value is None else "nothing" if not value else "only white space"
                    raise DataError(
                        f"{shown(path)[1:-1]}: row {row:,} has {what} in the column {shown(self._columns[setting])} "
                        f"(tasks.{setting}); expected a text in every row: fill it in or remove the row"
                    )


def logged_rows(source: TextSource, what: str, total: int | None = None) -> Iterator[TextRows]:
    """All rows of a source; the log says now and then how far it is.

    Args:
        source: of the texts.
        what: is done with them.
        total: how many there are, if that is known.
    """
    advance, done = LoggedAdvance(log, f"{what} {shown(source.place)[1:-1]}", "texts"), 0
    for rows in source.rows():
        yield rows
        done += len(rows.texts)
        advance(done, total)


@dataclass(frozen=True)
class TextIndex:
    """What the rows of a source are, without their texts.

    Attributes:
        classes: the labels, sorted.
        codes: (rows,) int32, the class of each row.
        groups: the group of each class; ``None`` where there are none.
        splits: the split of each class, from a column; ``None`` where there is none.
        digest: SHA-256 over all rows, whatever files they come from.
    """

    classes: tuple[str, ...]
    codes: NDArray[np.int32]
    groups: tuple[str, ...] | None
    splits: tuple[Split, ...] | None
    digest: str


def index_texts(source: TextSource, splits: object) -> TextIndex:
    """Read everything once, check it, and keep what is not text.

    Args:
        source: of the texts.
        splits: the setting ``tasks.splits``.

    Raises:
        DataError: as :meth:`TextSource.rows`; a class in two groups or in two splits; no rows.
    """
    import numpy as np

    codes: dict[str, int] = {}
    groups: dict[str, str] = {}
    placed: set[tuple[str, str]] = set()
    parts: list[Any] = []
    digest = hashlib.sha256()
    for rows in logged_rows(source, "reading"):
        parts.append(np.array([codes.setdefault(label, len(codes)) for label in rows.labels], np.int32))
        beside = [each for each in (rows.groups, rows.splits) if each is not None]
        for row in zip(rows.texts, rows.labels, *beside, strict=True):
            digest.update(b"".join(len(field := value.encode()).to_bytes(8, "little") + field for value in row))
        for number, (label, group) in enumerate(zip(rows.labels, rows.groups or (), strict=False), rows.first):
            if groups.setdefault(label, group) != group:
                raise DataError(
                    f"{shown(rows.place)[1:-1]}: row {number:,} has the class {shown(label)} in the group "
                    f"{shown(group)}, and rows before it in {shown(groups[label])}; a class belongs to one group"
                )
        placed.update(zip(rows.labels, rows.splits or (), strict=False))
    if not codes:
        raise DataError(f"{shown(source.place)[1:-1]} has no rows; expected texts with labels")
    names = sorted(codes)
    order = np.empty(len(names), np.int32)
    order[[codes[name] for name in names]] = np.arange(len(names), dtype=np.int32)
    by_column = column_splits(sorted(placed), splits, source.place) if isinstance(splits, SplitColumn) else {}
    return TextIndex(
        tuple(names),
        order[np.concatenate(parts)],
        tuple(groups[name] for name in names) if groups else None,
        tuple(by_column[name] for name in names) if by_column else None,
        digest.hexdigest(),
    )


def _strings(column: Any) -> list[Any]:
    import pyarrow as pa

    plain = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
    return plain.cast(pa.large_string()).to_pylist()  # type: ignore[no-any-return]


def _unreadable(place: str, why: str) -> DataError:
    return DataError(
        f"cannot read {shown(place)} as a table of texts: {why} (expected CSV with a header, Parquet, or JSON with an "
        "object a line, in UTF-8)"
    )
