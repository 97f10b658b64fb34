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
        raise DataError(f"{setting} = {place}: cannot be read ({_line(error)})") from None
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


def _line(error: Exception) -> str:
    return shown(" ".join(str(error).split()) or type(error).__name__)[1:-1].rstrip(".")


class TableReader:
    """Reads the batches of one file.

    Args:
        source: the table.
        file: one of its files.
        texts: columns that are text, whatever a CSV file's values look like: task names such as ``007``.

    Attributes:
        file: the same.
        types: the type of each column, by name.

    Raises:
        DataError: the file is empty, damaged or no table, or has a column twice.
    """

    def __init__(self, source: TableSource, file: TableFile, texts: Sequence[str] = ()) -> None:
        import pyarrow as pa

        self.file = file
        self._source, self._texts = source, texts
        try:
            self._dataset = _open(source, file, texts)
            schema = self._dataset.schema
        except (OSError, pa.ArrowException, ValueError) as error:
            reason = "it is empty" if "empty" in str(error).lower() else _line(error)
            raise DataError(f"{file.name} cannot be read as a {source.format} file: {reason}") from None
        twice = [name for at, name in enumerate(schema.names) if name in schema.names[:at]]
        if twice:
            raise DataError(f"{file.name} has two columns of the name {shown(twice[0])}; rename one of them")
        self.types: dict[str, Any] = dict(zip(schema.names, schema.types, strict=True))

    def check(self, columns: Sequence[str]) -> None:
        """Refuse a file that lacks one of these columns."""
        for name in columns:
            if name not in self.types:
                raise DataError(f"{self.file.name} has no column {shown(name)}{suggest(name, self.types)}")

    def batches(self, columns: Sequence[str]) -> Iterator[tuple[int, Any]]:
        """The number of the first row, from 1, of every batch, and its ``pyarrow.RecordBatch``."""
        import pyarrow as pa

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
            raise DataError(f"{self.file.name} cannot be read after row {first - 1:,}: {_line(error)}") from None

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


def _open(source: TableSource, file: TableFile, texts: Sequence[str]) -> Any:
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.dataset as ds

    if source.format == "parquet":
        return ds.dataset([file.path], filesystem=source.filesystem, format="parquet")
    parse = pyarrow.csv.ParseOptions(delimiter="\t" if ".tsv" in file.path.lower() else ",")

    def dataset(types: dict[str, Any]) -> Any:
        convert = pyarrow.csv.ConvertOptions(column_types=types)
        csv = ds.CsvFileFormat(parse_options=parse, convert_options=convert)
        return ds.dataset([file.path], filesystem=source.filesystem, format=csv)

    known = {name: pa.string() for name in texts}
    # Types come from a file's first block, where a column of numbers with a fraction may still look like whole ones.
    whole = {field.name: pa.float64() for field in dataset(known).schema if pa.types.is_integer(field.type)}
    return dataset({**whole, **known})


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
    _no_null(array, place, "there is no value")
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type) or pa.types.is_fixed_size_list(array.type):
        lengths = _numpy(pyarrow.compute.list_value_length(array).cast(pa.int64()))
        width = int(lengths[0])
        if (lengths != width).any():
            at = np.flatnonzero(lengths != width)[0]
            place.refuse(
                at, f"a list of {lengths[at]} numbers, where others have {width}; expected lists of one length"
            )
        array = array.flatten()
        if array.null_count:
            place.refuse(_first(array.is_null()) // max(width, 1), "there is a gap in the list")
    if not is_number(array.type):
        kind = "text" if is_text(array.type) else str(array.type)
        values = array.to_pylist()
        at = next((at for at, value in enumerate(values) if not is_numeral(str(value))), 0)
        place.refuse(at, f"{shown(values[at])} is {kind}, where numbers are wanted")
    plain = array.cast(pa.uint8()) if pa.types.is_boolean(array.type) else array
    values = _numpy(plain.cast(pa.float64(), safe=False)).reshape(-1, width)
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
    _no_null(array, place, "there is no value")
    if not (is_text(array.type) or pa.types.is_integer(array.type) or pa.types.is_boolean(array.type)):
        place.refuse(0, f"{shown(array[0].as_py())} is {array.type}, where text or whole numbers are wanted")
    encoded = array.cast(pa.string()).dictionary_encode()
    names = encoded.dictionary.to_pylist()
    indices = _numpy(encoded.indices).astype(np.int64)
    if "" in names:
        place.refuse(np.flatnonzero(indices == names.index(""))[0], "there is no value")
    return indices, names


def ordered(array: Any, place: ValuePlace) -> NDArray[np.float64]:
    """(N,) numbers in the order of a column of numbers, dates or times.

    Raises:
        DataError: naming the row without a value, or of text.
    """
    import pyarrow as pa

    _no_null(array, place, "there is no value")
    if pa.types.is_date(array.type) or pa.types.is_timestamp(array.type):
        array = array.cast(pa.timestamp("us"), safe=False).cast(pa.int64())
    elif pa.types.is_time(array.type) or pa.types.is_duration(array.type):
        array = array.cast(pa.int64() if array.type.bit_width == 64 else pa.int32())
    return numbers(array, place)[:, 0]


def is_number(kind: Any) -> bool:
    """Whether a column's type is of numbers, truth values included."""
    import pyarrow as pa

    checks = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_boolean)
    return any(check(kind) for check in checks)


def is_numeral(text: str) -> bool:
    """Whether a text is a number.

    >>> is_numeral("1.5e3"), is_numeral("n/k")
    (True, False)
    """
    try:
        float(text)
    except ValueError:
        return False
    return True


def is_text(kind: Any) -> bool:
    """Whether a column's type is text, or a dictionary of it."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return is_text(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _no_null(array: Any, place: ValuePlace, problem: str) -> None:
    if array.null_count:
        place.refuse(_first(array.is_null()), problem)


def _first(mask: Any) -> int:
    return int(np.flatnonzero(_numpy(mask.cast("uint8")))[0])


def _numpy(array: Any) -> NDArray[Any]:
    """By DLPack: pyarrow's own conversions import pandas."""
    found: NDArray[Any] = np.from_dlpack(array)
    return found
