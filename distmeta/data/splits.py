"""Splitting by name: classes, or the tasks of a table, go whole to training, validation or test."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from distmeta.config.splits import SplitColumn, SplitFractions, SplitNames, check_apart
from distmeta.core.hashing import sha256
from distmeta.core.quoting import shown
from distmeta.core.records import SPLITS, Split
from distmeta.errors import ConfigError, DataError, StorageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "validation": "validation",
    "val": "validation",
    "valid": "validation",
    "test": "test",
}
"""What a column of splits may hold, and names of the splits' folders, archives and lists."""

LONGEST_LIST = 2**28
"""Bytes of a file of names."""

_FEW = 2000
"""Names among which a similar one is looked for."""


def split_names(
    names: Sequence[str],
    splits: SplitColumn | SplitNames | SplitFractions,
    place: str,
    what: str = "class",
    column: Mapping[str, Split] | None = None,
) -> dict[Split, NDArray[np.int64]]:
    """Which names belong to which split.

    Args:
        names: distinct, in the data's order.
        splits: the setting ``tasks.splits``.
        place: where the names come from, for messages.
        what: what they are names of, for messages: ``class``, ``task``.
        column: for a :class:`SplitColumn`, the split of each name, see :func:`column_splits`.

    Returns:
        For each split the ascending indices into ``names``.

    Raises:
        ConfigError: a name that is not there, or stands in two splits; a split without names.
        DataError: a file of names cannot be read.

    >>> found = split_names(["a", "b", "c", "d"], SplitFractions(train=0.5, validation=0.25, test=0.25), "letters")
    >>> {split: indices.tolist() for split, indices in found.items()}
    {'train': [2, 3], 'validation': [0], 'test': [1]}
    """
    import numpy as np

    if isinstance(splits, SplitFractions):
        found = _by_fractions(names, splits)
    elif isinstance(splits, SplitNames):
        found = _by_names(names, splits, place, what)
    else:
        assert column is not None
        found = {split: [at for at, name in enumerate(names) if column[name] == split] for split in SPLITS}
    for split, indices in found.items():
        if not indices:
            raise ConfigError(_empty(split, splits, len(names), place, what))
    return {split: np.array(sorted(indices), dtype=np.int64) for split, indices in found.items()}


def column_splits(
    pairs: Iterable[tuple[str, object]], splits: SplitColumn, place: str, what: str = "class"
) -> dict[str, Split]:
    """The split of each name, from what stands beside it in the column of splits.

    Args:
        pairs: every name with every value that stands beside it; equal pairs may come more than once.
        splits: the setting.
        place: where the column is, for messages.
        what: what the names are names of.

    Raises:
        DataError: a value that is no split, or a name with two of them.

    >>> column_splits([("a", "train"), ("b", "val"), ("a", "train")], SplitColumn(column="part"), "letters.csv")
    {'a': 'train', 'b': 'validation'}
    """
    found: dict[str, Split] = {}
    for name, value in pairs:
        split = SPLIT_NAMES.get(value) if isinstance(value, str) else None
        if split is None:
            raise DataError(
                f"{place}: the column {shown(splits.column)} has {shown(value)} for the {what} {shown(name)}; "
                f"expected {', '.join(SPLITS[:-1])} or {SPLITS[-1]}"
            )
        if found.setdefault(name, split) != split:
            raise DataError(
                f"{place}: the column {shown(splits.column)} has both {found[name]} and {split} for the {what} "
                f"{shown(name)}; a {what} belongs to one split"
            )
    return found


def split_files(splits: object) -> dict[str, Path]:
    """The files of names on this machine, which workers elsewhere need, by the name that they get there.

    >>> split_files(SplitNames(train="/data/train.txt", validation=["b"], test=["c"]))
    {'split-train.txt': PosixPath('/data/train.txt')}
    """
    files = splits.files() if isinstance(splits, SplitNames) else ()
    return {f"split-{split}.txt": Path(file) for split, file in files if "://" not in file}


def split_contents(splits: object) -> dict[str, str]:
    """A hash of each file of names, by split.

    Raises:
        DataError: a file cannot be read.
    """
    files = splits.files() if isinstance(splits, SplitNames) else ()
    return {f"splits.{split}": sha256(_read(split, file)) for split, file in files}


def moved_splits(
    splits: SplitColumn | SplitNames | SplitFractions, folder: Path
) -> SplitColumn | SplitNames | SplitFractions:
    """The setting for a host that has the :func:`split_files` in this folder."""
    known = split_files(splits)
    files = {str(split): f"split-{split}.txt" for split in SPLITS}
    moved = {split: str(folder / file) for split, file in files.items() if file in known}
    return splits.model_copy(update=moved)


def _by_fractions(names: Sequence[str], splits: SplitFractions) -> dict[Split, list[int]]:
    keys = [hashlib.sha256(f"{splits.seed}\0{name}".encode(errors="surrogatepass")).digest() for name in names]
    order = sorted(range(len(names)), key=keys.__getitem__)
    first = int(len(names) * splits.train + 0.5)
    second = int(len(names) * (splits.train + splits.validation) + 0.5)
    return {"train": order[:first], "validation": order[first:second], "test": order[second:]}


def _by_names(names: Sequence[str], splits: SplitNames, place: str, what: str) -> dict[Split, list[int]]:
    index = {name: at for at, name in enumerate(names)}
    given = ((name, split, "") for split, listed in splits.lists() for name in listed)
    entries = list(chain(given, *(_lines(split, file) for split, file in splits.files())))
    try:
        check_apart(iter(entries))
    except ValueError as error:
        raise ConfigError(f"tasks.splits: {error}") from None
    found: dict[Split, list[int]] = {split: [] for split in SPLITS}
    for name, split, where in entries:
        if name not in index:
            raise ConfigError(
                f"tasks.splits.{split}{where}: {place} has no {what} {shown(name)}{_similar(name, names)}"
            )
        found[split].append(index[name])
    return found


def _lines(split: Split, file: str) -> Iterator[tuple[str, Split, str]]:
    """The names in a file, each with its line."""
    try:
        text = _read(split, file).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"tasks.splits.{split}: {shown(file)} is not a text file in UTF-8 with a name a line") from None
    for number, line in enumerate(text.splitlines(), 1):
        if name := line.strip():
            yield name, split, f" ({shown(file)[1:-1]}, line {number})"


def _read(split: Split, file: str) -> bytes:
    """A file of names, on this machine or at a URI."""
    import pyarrow as pa
    from pyarrow.fs import LocalFileSystem

    from distmeta.storage.files import open_uri

    try:
        filesystem, path = (LocalFileSystem(), file) if "://" not in file else open_uri(file)[:2]
        with filesystem.open_input_file(path) as stream:
            if stream.size() > LONGEST_LIST:
                raise DataError(
                    f"tasks.splits.{split}: {shown(file)} is longer than {LONGEST_LIST:,} bytes: expected a name a line"
                )
            return bytes(stream.read())
    except StorageError as error:  # with its own advice
        raise DataError(str(error)) from None
    except (OSError, pa.ArrowException, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise DataError(
            f"tasks.splits.{split}: cannot read {shown(file)} ({reason}); expected a list of names, or a text file "
            "with one a line"
        ) from None


def _similar(name: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1) if len(names) <= _FEW else []
    if close:
        return f"; did you mean {shown(close[0])}?"
    return f"; there are {', '.join(map(shown, names[:3]))}{', ...' if len(names) > 3 else ''}" if names else ""


def _empty(split: Split, splits: SplitColumn | SplitNames | SplitFractions, count: int, place: str, what: str) -> str:
    several = {"class": "classes"}.get(what, f"{what}s")
    number = f"{count:,} {what if count == 1 else several}"
    if isinstance(splits, SplitFractions):
        return (
            f"tasks.splits.{split} = {getattr(splits, split):g} of the {number} of {place} is none; each split needs "
            f"at least one: give larger fractions, or more {several}"
        )
    if isinstance(splits, SplitColumn):
        return (
            f"tasks.splits.column = {shown(splits.column)}: none of the {number} of {place} is for {split}; each split "
            "needs at least one"
        )
    return f"tasks.splits.{split} names no {what}; each split needs at least one"
