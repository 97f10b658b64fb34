"""Files of tables opened by pyarrow, and what its errors say, in the words of people who have a table."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from distmeta.core.quoting import shown
from distmeta.core.secrets import mask

NOT_UTF8 = "not UTF-8; save the file as UTF-8 (in a spreadsheet: CSV UTF-8)"
"""What to do about text of another encoding."""

_LONGEST = 400
"""Characters of a reason."""

_PREFIX = re.compile(
    r"^(Error creating dataset\. Could not read schema from .*?\. Is this a '\w+' file\?: )?"
    r"(Could not open \w+ input source .*?: )?((Invalid|IOError|JSON parse error|CSV parse error): )*",
    re.DOTALL,
)
"""What pyarrow says before it comes to the point."""

_CONVERSION = re.compile(r"In CSV column #(\d+): (?:Row #(\d+): )?CSV conversion error to ([^:]+): (.*)", re.DOTALL)
_SHORT_ROW = re.compile(r"Row #(\d+): Expected (\d+) columns, got (\d+)(?:: (.*))?", re.DOTALL)
_TWICE = re.compile(r"multiple columns named (.*)", re.DOTALL)
_TWICE_IN_JSON = re.compile(r"Column\(/(.*)\) was specified twice in row (\d+)")


_WORDS = {
    "bool": "truth values",
    "null": "empty cells",
    "double": "numbers",
    "int64": "whole numbers",
    "date32[day]": "dates",
    "time32[s]": "times",
    "timestamp[s]": "dates with times in whole seconds",
    "timestamp[ns]": "dates with times",
}
"""What pyarrow's types of CSV columns are, for people."""


def open_dataset(filesystem: Any, path: str, kind: str, texts: Sequence[str] = (), spelled: Sequence[str] = ()) -> Any:
    """One file as a ``pyarrow.dataset.Dataset``.

    Args:
        filesystem: a ``pyarrow.fs.FileSystem``.
        path: in it.
        kind: ``parquet``, ``csv`` or ``json``.
        texts: columns that are text, whatever a CSV file's values look like.
        spelled: columns of numbers of a CSV file that stay as they are spelled; other whole numbers become float64.

    Raises:
        OSError, ArrowException, ValueError: see :func:`reason`.
    """
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.dataset as ds

    if kind != "csv":
        found = ds.dataset([path], filesystem=filesystem, format=kind)
        if kind == "parquet" or not any(pa.types.is_timestamp(field.type) for field in found.schema):
            return found
        # Texts that look like times, such as "2024-01-01", are texts still.
        plain = [field.with_type(pa.string()) if pa.types.is_timestamp(field.type) else field for field in found.schema]
        return ds.dataset([path], filesystem=filesystem, format=kind, schema=pa.schema(plain))
    parse = pyarrow.csv.ParseOptions(delimiter="\t" if ".tsv" in path.lower() else ",", newlines_in_values=True)

    def dataset(types: Mapping[str, Any]) -> Any:
        convert = pyarrow.csv.ConvertOptions(column_types=types)
        csv = ds.CsvFileFormat(parse_options=parse, convert_options=convert)
        return ds.dataset([path], filesystem=filesystem, format=csv)

    known = {name: pa.string() for name in texts}
    # Types come from a file's first block, where a column of numbers with a fraction may still look like whole ones.
    whole = {
        field.name: pa.string() if field.name in spelled else pa.float64()
        for field in dataset(known).schema
        if pa.types.is_integer(field.type) or (pa.types.is_floating(field.type) and field.name in spelled)
    }
    return dataset({**whole, **known})


def reason(error: Exception, names: Sequence[str] = ()) -> str:
    """Why pyarrow could not read a file, in one line, without what it says before; rows are counted without a header.

    Args:
        error: what it raised.
        names: of the columns of a CSV file, where they are known.

    >>> reason(ValueError("CSV parse error: Row #3: Expected 2 columns, got 1: a"))
    "row 2 has 1 value instead of 2: 'a'"
    >>> reason(ValueError("In CSV column #0: Row #3: CSV conversion error to string: invalid UTF8 data"), ["site"])
    "row 2, column 'site', is not UTF-8; save the file as UTF-8 (in a spreadsheet: CSV UTF-8)"
    """
    if isinstance(error, UnicodeDecodeError):
        return f"it is {NOT_UTF8}"
    text = _PREFIX.sub("", str(error), count=1).strip() or type(error).__name__
    if found := _TWICE.search(text):
        return two_columns(found[1])
    if found := _TWICE_IN_JSON.search(text):
        return f"row {int(found[2]) + 1:,} has {shown(found[1])} twice; expected each name once"
    if found := _SHORT_ROW.search(text):
        got, row = int(found[3]), f": {shown(found[4])}" if found[4] else ""
        return f"row {int(found[1]) - 1:,} has {got} {'value' if got == 1 else 'values'} instead of {found[2]}{row}"
    if found := _CONVERSION.search(text):
        at, row = int(found[1]), f"row {int(found[2]) - 1:,}, " if found[2] else ""
        column = f"{row}column {shown(names[at]) if at < len(names) else at + 1}"
        if "UTF8" in found[4]:
            return f"{column}, is {NOT_UTF8}"
        value = found[4].removeprefix("invalid value ").strip("'")
        return f"{column}: {shown(value)} does not fit what stands above it, {_WORDS.get(found[3], found[3])}; mend it"
    if re.search(r"\bempty\b", text, re.IGNORECASE):
        return "it is empty"
    plain = mask("".join(each if each.isprintable() else repr(each)[1:-1] for each in " ".join(text.split()))).rstrip(
        "."
    )
    return plain if len(plain) <= _LONGEST else f"{plain[:_LONGEST]} ..."


def two_columns(name: str) -> str:
    """What is said of a name that stands twice."""
    return f"it has two columns of the name {shown(name)}; rename one of them"


def twice_in_parquet(filesystem: Any, path: str) -> str | None:
    """A name that two columns of a Parquet file have, which pyarrow's error does not name."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        names = pq.read_schema(path, filesystem=filesystem).names
    except (OSError, pa.ArrowException, ValueError):
        return None
    return next((name for at, name in enumerate(names) if name in names[:at]), None)
