"""Tables as people have them: Parquet or CSV files, read in batches, every value checked where it is read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from distmeta.config.problems import suggest
from distmeta.core.hashing import sha256
from distmeta.core.quoting import shown
from distmeta.core.secrets import mask
from distmeta.data.table_open import NOT_UTF8, open_dataset, reason, twice_in_parquet, two_columns
from distmeta.data.table_types import is_list, is_number, is_numeral, is_text
from distmeta.errors import DataError, StorageError

TABLE_FORMATS = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".csv.gz": "csv",
    ".tsv": "csv",
    ".tsv.gz": "csv",
}

BATCH_ROWS = 16_384
"""Rows read at a time."""

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|[-+]?(inf|nan|infinity)|#?N/?A|null|NULL", re.IGNORECASE)


@dataclass(frozen=True)
class TableFile:
    """One file of a table.

    Attributes:
        name: for people.
        path: in the file system.
        version: size and time, which tell an old file from a new one.
    """

    name: str
    path: str
    version: str


@dataclass(frozen=True)
class TableSource:
    """The files of a table, in the order of their names.

    Attributes:
        place: as the user named it.
        filesystem: their ``pyarrow.fs.FileSystem``.
        format: ``parquet`` or ``csv``, or what else is asked for.
        files: at least one.
    """

    place: str
    filesystem: Any
    format: str
    files: tuple[TableFile, ...]

    @property
    def version(self) -> str:
        """A hash of the files' names, sizes and times."""
        return sha256("\n".join(f"{file.path}\0{file.version}" for file in self.files).encode(errors="surrogatepass"))


def find_table(place: str, setting: str = "tasks.path", formats: Mapping[str, str] = TABLE_FORMATS) -> TableSource:
    """The files at a path or URI: itself, or those in the folder and below it; hidden ones do not count.

    Args:
        place: the path or URI.
        setting: which names it, for messages.
        formats: how files are read, by the ends of their names.

    Raises:
        DataError: there is none, or files of several formats.
    """
    import pyarrow as pa
    from pyarrow.fs import FileSelector, FileType, LocalFileSystem

    from distmeta.storage.files import open_uri

    try:
        if "://" in place:
            filesystem, path, _ = open_uri(place)
        else:
            filesystem, path = LocalFileSystem(use_mmap=True), place
        info = filesystem.get_file_info(path)
        infos = [info]
        if info.type == FileType.Directory:
            infos = filesystem.get_file_info(FileSelector(path, recursive=True))
        elif info.type == FileType.NotFound:
            raise DataError(f"{setting} = {place}: there is no such file or folder; correct the path")
    except StorageError as error:  # with its own advice
        raise DataError(str(error)) from None
    except (OSError, pa.ArrowException, ValueError) as error:
        raise DataError(f"{setting} = {place}: cannot be read ({reason(error)})") from None
    found = [
        each
        for each in infos
        if each.type == FileType.File and (each.path == path or _counts(each.path, path, formats))
    ]
    kinds = {each.path: _format(each.path, formats) for each in found}
    if len(set(kinds.values())) != 1 or None in kinds.values():
        wrong = next((name for name, kind in kinds.items() if kind is None), "")
        what = f"{shown(Path(wrong).name)} is none" if wrong else "there is no such file in it"
        what = "there are files of several formats: move the others away" if len(found) > 1 else what
        raise DataError(
            f"{setting} = {place}: expected a file ({', '.join(formats)}), or a folder of files of one format; {what}"
        )
    files = sorted(found, key=lambda each: each.path)
    return TableSource(
        place,
        filesystem,
        str(kinds[files[0].path]),
        tuple(TableFile(mask(each.path), each.path, f"{each.size} {each.mtime_ns}") for each in files),
    )


def _counts(path: str, folder: str, formats: Mapping[str, str]) -> bool:
    """Whether a file in a folder is part of the table: what begins with a dot or an underscore is hidden."""
    parts = path.removeprefix(folder).strip("/").split("/")
    return not any(part.startswith((".", "_")) for part in parts) and _format(path, formats) is not None


def _format(path: str, formats: Mapping[str, str]) -> str | None:
    name = path.lower()
    return next((kind for ending, kind in formats.items() if name.endswith(ending)), None)


class TableReader:
    """Reads the batches of one file.

    Args:
        source: the table.
        file: one of its files.
        texts: columns that are text, whatever a CSV file's values look like: task names such as ``007``.
        spelled: columns of which a CSV file's numbers are kept as text, every digit of them.

    Attributes:
        file: the same.
        types: the type of each column, by name.

    Raises:
        DataError: the file is empty, damaged or no table, or has a column twice.
    """

    def __init__(
        self, source: TableSource, file: TableFile, texts: Sequence[str] = (), spelled: Sequence[str] = ()
    ) -> None:
        import pyarrow as pa

        self.file = file
        self._source, self._texts = source, texts
        try:
            self._dataset = open_dataset(source.filesystem, file.path, source.format, texts, spelled)
            schema = self._dataset.schema
            names: list[str] = schema.names
        except (OSError, pa.ArrowException, ValueError) as error:
            twice = twice_in_parquet(source.filesystem, file.path) if source.format == "parquet" else None
            said = reason(error) if twice is None else two_columns(twice)
            raise DataError(f"{file.name} cannot be read as a {source.format} file: {said}") from None
        for at, name in enumerate(names):
            if name in names[:at]:
                raise DataError(f"{file.name} cannot be read as a {source.format} file: {two_columns(name)}")
        self.types: dict[str, Any] = dict(zip(names, schema.types, strict=True))

    def check(self, columns: Sequence[str]) -> None:
        """Refuse a file that lacks one of these columns."""
        for name in columns:
            if name not in self.types:
                raise DataError(f"{self.file.name} has no column {shown(name)}{suggest(name, self.types)}")
            self._check_text(name)

    def _check_text(self, name: str) -> None:
        """Refuse a column of a CSV file whose text is of another encoding, which pyarrow takes for bytes."""
        import pyarrow as pa

        if self._source.format == "csv" and pa.types.is_binary(self.types[name]):
            raise DataError(f"{self.file.name}, column {shown(name)}, is {NOT_UTF8}")

    def batches(self, columns: Sequence[str]) -> Iterator[tuple[int, Any]]:
        """The number of the first row, from 1, of every batch, and its ``pyarrow.RecordBatch``."""
        import pyarrow as pa

        for name in columns:
            self._check_text(name)
        first = 1
        scanner = self._dataset.scanner(
            columns=list(columns), batch_size=BATCH_ROWS, batch_readahead=2, fragment_readahead=1, use_threads=False
        )
        try:
            for batch in scanner.to_batches():
                if batch.num_rows:
                    yield first, batch
                    first += batch.num_rows
        except (OSError, pa.ArrowException, ValueError) as error:
            self._refuse_text(error)
            said = reason(error, list(self.types))
            raise DataError(f"{self.file.name} cannot be read after row {first - 1:,}: {said}") from None

    def _refuse_text(self, error: Exception) -> None:
        """Where a CSV column of numbers turns out to hold text, name the row, which the reader's error does not."""
        found = re.search(r"In CSV column #(\d+).*conversion error to double", str(error))
        if found is None or self._source.format != "csv":
            return
        column = list(self.types)[int(found[1])]
        for first, batch in TableReader(self._source, self.file, [*self._texts, column]).batches([column]):
            for at, value in enumerate(batch.column(0).to_pylist()):
                if value and not _NUMBER.fullmatch(value.strip()):
                    ValuePlace(self.file.name, column, first).refuse(
                        at, f"{shown(value)} is text, where numbers are wanted"
                    )


@dataclass(frozen=True)
class ValuePlace:
    """Where a batch of a column comes from, so that a message can name the row.

    Attributes:
        file: the file, for people.
        column: the column.
        first: the number of the batch's first row.
    """

    file: str
    column: str
    first: int

    def refuse(self, at: int | np.integer[Any], problem: str) -> NoReturn:
        """Raise for a value of the batch."""
        raise DataError(f"{self.file}, row {self.first + int(at):,}, column {shown(self.column)}: {problem}")


def numbers(array: Any, place: ValuePlace) -> NDArray[np.float64]:
    """(N, width) finite numbers of a column of numbers or of lists of numbers of one length.

    Raises:
        DataError: naming the row that has none, text, or a number that is not finite.
    """
    import pyarrow as pa
    import pyarrow.compute

    width = 1
    refuse_nulls(array, place)
    if is_list(array.type):
        lengths = to_numpy(pyarrow.compute.list_value_length(array).cast(pa.int64()))
        width = int(lengths[0])
        if not lengths.all():
            place.refuse(
                np.flatnonzero(lengths == 0)[0], "an empty list; expected a number or more, as many in each row"
            )
        if (lengths != width).any():
            at = np.flatnonzero(lengths != width)[0]
            place.refuse(
                at, f"a list of {lengths[at]} numbers, where others have {width}; expected lists of one length"
            )
        array = array.flatten()
        if array.null_count:
            place.refuse(_first(array.is_null()) // width, "there is a gap in the list")
    if not is_number(array.type):
        kind = "text" if is_text(array.type) else str(array.type)
        values = array.to_pylist()
        at = next((at for at, value in enumerate(values) if not is_numeral(str(value))), 0)
        place.refuse(at, f"{shown(values[at])} is {kind}, where numbers are wanted")
    plain = array.cast(pa.uint8()) if pa.types.is_boolean(array.type) else array
    values = to_numpy(plain.cast(pa.float64(), safe=False)).reshape(-1, width)
    finite = np.isfinite(values)
    if not finite.all():
        at, inner = np.argwhere(~finite)[0]
        place.refuse(at, f"{values[at, inner]} is not a finite number; mend or leave out such rows")
    return values


def texts(array: Any, place: ValuePlace) -> tuple[NDArray[np.int64], list[str]]:
    """The values of a column as names: an index for each row, and the distinct names.

    Raises:
        DataError: naming the row without a value, or a type that is no name.
    """
    import pyarrow as pa

    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    refuse_nulls(array, place)
    if not (is_text(array.type) or pa.types.is_integer(array.type) or pa.types.is_boolean(array.type)):
        place.refuse(0, f"{shown(array[0].as_py())} is {array.type}, where text or whole numbers are wanted")
    encoded = array.cast(pa.string()).dictionary_encode()
    names = encoded.dictionary.to_pylist()
    indices = to_numpy(encoded.indices).astype(np.int64)
    if "" in names:
        place.refuse(np.flatnonzero(indices == names.index(""))[0], "there is no value")
    return indices, names


def refuse_nulls(array: Any, place: ValuePlace, problem: str = "there is no value") -> None:
    """Refuse a column with a row that has none."""
    if array.null_count:
        place.refuse(_first(array.is_null()), problem)


def _first(mask: Any) -> int:
    return int(np.flatnonzero(to_numpy(mask.cast("uint8")))[0])


def to_numpy(array: Any) -> NDArray[Any]:
    """By DLPack: pyarrow's own conversions import pandas."""
    found: NDArray[Any] = np.from_dlpack(array)
    return found
