"""Where images and their classes come from: class folders, archives of them, lists of files."""

from __future__ import annotations

import csv
import hashlib
import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from distmeta.core.quoting import shown
from distmeta.core.records import SPLITS, Split
from distmeta.data.images.files import ARCHIVES, DataFile, DataFiles, DataPlace, fingerprint, opened
from distmeta.data.images.names import say_read_already
from distmeta.data.images.walking import Walk
from distmeta.data.splits import SPLIT_NAMES
from distmeta.errors import DataError

log = logging.getLogger(__name__)

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
"""Names of image files end in one of these, in any case of letters; other files are left out."""

COLUMNS = ("filename", "label")
"""Of a list of images, beside a column of splits."""


@dataclass(frozen=True)
class ImageEntry:
    """One image of a source.

    Attributes:
        label: its class.
        split: to which the source says that it belongs; empty where the source does not say.
        name: for messages.
        load: gives the file's bytes, or pixels (H, W) or (H, W, C) uint8; raises ``OSError`` or ``ValueError``.
        row: of a list, for messages; empty where there is no list.
    """

    label: str
    split: Split | str
    name: str
    load: Any
    row: str = ""


class ImageSource(Protocol):
    """Images with classes, in a form of its own.

    Attributes:
        name: for messages.
    """

    name: str

    def fingerprint(self) -> str:
        """What tells this content from another one, as far as that takes no reading of images."""
        ...

    def entries(self, stack: ExitStack) -> list[ImageEntry]:
        """All images, the same list on every machine; what they need stays open as long as the stack.

        Raises:
            DataError: naming file, row or class.
        """
        ...


class ClassFolders:
    """A folder or archive of class folders, which may stand in folders of the splits.

    The class of an image is the folder that it is in. A folder around all of them is left out of the names. Where the
    outermost folders are ``train``, ``validation`` (``val``, ``valid``) and ``test``, and hold class folders, they are
    splits; what lies beside them, or in them outside of class folders, is refused.

    Args:
        place: the folder or archive.
        split: of all images, where the whole source belongs to one.
    """

    def __init__(self, place: DataPlace, split: str = "") -> None:
        self.name, self._place, self._split = place.name, place, split

    def fingerprint(self) -> str:
        """Of all files."""
        return fingerprint(self._place)

    def entries(self, stack: ExitStack) -> list[ImageEntry]:
        """Those of all image files."""
        files = stack.enter_context(opened(self._place))
        listed = files.list()
        images = [file for file in listed if file.path.lower().endswith(SUFFIXES)]
        others = [file.path for file in listed if not file.path.lower().endswith(SUFFIXES)]
        if not images:
            raise DataError(
                f"{self.name} holds no images in class folders: expected files such as CLASS/NAME.png, of the types "
                f"{', '.join(SUFFIXES)}; there are {len(others):,} other files"
            )
        self._say(others, files)
        images = [file for file in images if file.path not in files.links.same]
        parts = _without_wrapper(images, self._split)
        splits = {} if self._split else _split_folders(parts, images, self.name)
        entries = []
        for file, (*folders, _) in zip(images, parts, strict=True):
            split = self._split or (splits[folders[0]] if splits else "")
            label = "/".join(folders[1:] if splits else folders)
            if not label:
                raise DataError(
                    f"{self.name}: {shown(file.path)} lies in no class folder; expected CLASS/NAME, or a list of "
                    "files (CSV with the columns filename and label)"
                )
            entries.append(ImageEntry(label, split, file.path, partial(files.read, file)))
        return entries

    def _say(self, others: Sequence[str], files: DataFiles) -> None:
        """What is left out."""
        if others:
            log.info(
                "%s: %d files that are no images are left out, such as %s", self.name, len(others), shown(others[0])
            )
        if files.hidden:
            log.info(
                "%s: %d hidden files and folders are left out, such as %s",
                self.name,
                len(files.hidden),
                shown(files.hidden[0]),
            )
        for link, target in sorted(files.links.same.items()):
            if link.lower().endswith(SUFFIXES):
                say_read_already(self.name, link, target)


class ImageList:
    """A CSV file with the columns ``filename`` and ``label``, its images beside it or in ``images/`` beside it.

    Args:
        place: the file.
        split: of all its rows, where the list belongs to one.
        column: of splits, where there is one.
    """

    def __init__(self, place: DataPlace, split: str = "", column: str = "") -> None:
        self.name, self._place, self._split, self._column = place.name, place, split, column
        self._folder = DataPlace.found(_parent(place.name), place.filesystem, place.path.rsplit("/", 1)[0] or "/")

    def fingerprint(self) -> str:
        """Of the list's text and of all files beside it."""
        rest = f"{fingerprint(self._folder)} {self._split} {self._column}"
        return hashlib.sha256(self._place.read() + rest.encode()).hexdigest()

    def entries(self, stack: ExitStack) -> list[ImageEntry]:
        """One a row."""
        files = stack.enter_context(opened(self._folder))
        there = {file.path: file for file in files.list()}
        entries = []
        for number, name, label, split in self._rows():
            found = (there.get(_target(path, files.links)) for path in (name, f"images/{name}"))
            file = next((file for file in found if file is not None), None)
            if file is None:
                raise DataError(f"{self.name}, line {number}: {self._missing(name, there, files.hidden)}")
            row = f"{self.name}, line {number}"
            entries.append(ImageEntry(label, split, file.path, partial(files.read, file), row))
        if not entries:
            raise DataError(f"{self.name} has no rows; expected a line for each image below the names of the columns")
        _check_rows(entries)
        if self._column:
            self._check_column(entries)
        return entries

    @property
    def column(self) -> str:
        """Of splits; empty where there is none."""
        return self._column

    def _missing(self, name: str, there: Mapping[str, Any], hidden: Sequence[str]) -> str:
        if any(path == each or path.startswith(f"{each}/") for path in (name, f"images/{name}") for each in hidden):
            return f"{shown(name)} is the name of a hidden file, and these are left out; rename the file and the row"
        return (
            f"there is no file {shown(name)} in {self._folder.name} or its folder images; correct the row, or put the "
            f"file there{_other_case(name, there)}"
        )

    def _check_column(self, entries: Sequence[ImageEntry]) -> None:
        """Refuse a class in two splits of the column, also in other capitals."""
        first: dict[str, ImageEntry] = {}
        for entry in entries:
            other = first.setdefault(entry.label.casefold(), entry)
            if other.split != entry.split:
                raise DataError(
                    f"{entry.row}: {shown(self._column)} has {entry.split} for the class {shown(entry.label)}, and "
                    f"{other.split} for {shown(other.label)} in {_line(other, entry)}; a class, in whatever capitals, "
                    "belongs to one split: correct one of the rows"
                )

    def _rows(self) -> Iterator[tuple[int, str, str, str]]:
        """Line, file, class and split of each row."""
        try:
            text = self._place.read().decode("utf-8-sig")
        except UnicodeDecodeError:
            raise DataError(f"{self.name} is no text in UTF-8; expected a CSV file, saved so") from None
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        wanted = [*COLUMNS, *([self._column] if self._column else [])]
        try:
            missing = [column for column in wanted if column not in (reader.fieldnames or [])]
            if missing:
                raise DataError(
                    f"{self.name} has no column {shown(missing[0])}: expected {', '.join(wanted)} in its first line, "
                    f"found {', '.join(shown(name) for name in reader.fieldnames or []) or 'nothing'}"
                )
            for row in reader:
                number = reader.line_num
                empty = next((column for column in wanted if not (row[column] or "").strip()), None)
                if empty:
                    raise DataError(f"{self.name}, line {number}: nothing stands under {shown(empty)}; fill it in")
                name, label, *rest = (row[column].strip() for column in wanted)
                split = self._split or (_known(rest[0], self.name, number, self._column) if rest else "")
                yield number, name.removeprefix("./"), label, split
        except csv.Error as error:
            raise DataError(f"{self.name}, line {reader.line_num}: {error}; expected comma-separated values") from None


class SeveralSources:
    """One source a split: archives or lists named ``train``, ``validation`` (``val``, ``valid``) and ``test``."""

    def __init__(self, name: str, parts: Sequence[ImageSource]) -> None:
        self.name, self._parts = name, parts

    def fingerprint(self) -> str:
        """Of all of them."""
        return hashlib.sha256(" ".join(part.fingerprint() for part in self._parts).encode()).hexdigest()

    def entries(self, stack: ExitStack) -> list[ImageEntry]:
        """Those of all of them, one after the other."""
        entries = [entry for part in self._parts for entry in part.entries(stack)]
        _check_rows(entries)
        return entries


def image_source(root: str | DataPlace, column: str = "") -> ImageSource:
    """The source at a path, URI or place, by what lies there.

    Args:
        root: a folder of class folders; a zip or tar of one; a CSV; a folder with an archive or a CSV for each split.
        column: of splits, where the list has one.

    Raises:
        DataError: nothing is there, or nothing that is known.
    """
    place = DataPlace.at(root) if isinstance(root, str) else root
    lowered = place.path.lower()
    if place.kind == "nothing":
        raise DataError(f"tasks.root = {place.name}: there is nothing; correct the path")
    if place.kind == "file":
        if lowered.endswith(".csv"):
            return ImageList(place, column=column)
        if lowered.endswith(ARCHIVES):
            return ClassFolders(place)
        raise DataError(
            f"tasks.root = {place.name}: expected a folder of class folders, an archive of one "
            f"({', '.join(ARCHIVES)}), a list (.csv) or a built store (.arrow)"
        )
    for suffix in (*ARCHIVES, ".csv"):
        found = split_places(place, suffix)
        if found:
            kind = ImageList if suffix == ".csv" else ClassFolders
            return SeveralSources(place.name, [kind(each, split) for split, each in found.items()])
    return ClassFolders(place)


def split_places(place: DataPlace, suffix: str) -> dict[Split, DataPlace]:
    """The files ``train``, ``validation`` (``val``, ``valid``) and ``test`` with this suffix in a folder that has all.

    Raises:
        DataError: both names of a split are there.
    """
    found: dict[Split, DataPlace] = {}
    for name, split in SPLIT_NAMES.items():
        file = place.child(f"{name}{suffix}")
        if file.kind == "file":
            if split in found:
                raise DataError(f"{place.name} has both {found[split].name} and {file.name}; take one of them away")
            found[split] = file
    return found if len(found) == len(SPLITS) else {}


def _without_wrapper(files: Sequence[DataFile], split: str) -> list[list[str]]:
    """The paths in parts, without folders around everything.

    A split's name is no such folder, but in the archive of this split.
    """
    parts = [file.path.split("/") for file in files]
    while len({part[0] for part in parts}) == 1:
        inner = [part[1:] for part in parts]
        if SPLIT_NAMES.get(parts[0][0].lower(), split) != split or not (
            min(map(len, inner)) > 1 or (all(inner) and not split and _splits_among(inner))
        ):
            break
        parts = inner
    return parts


def _splits_among(parts: Sequence[Sequence[str]]) -> dict[str, Split]:
    """The outermost folders that are splits, which hold class folders; there are others only beside two splits."""
    tops = sorted({part[0] for part in parts if len(part) > 1})
    splits = {top: SPLIT_NAMES[top.lower()] for top in tops if top.lower() in SPLIT_NAMES}
    with_classes = any(len(part) > 2 and part[0] in splits for part in parts)
    alone = len(splits) == len(tops)
    return splits if with_classes and (alone or len(set(splits.values())) > 1) else {}


def _split_folders(parts: Sequence[Sequence[str]], files: Sequence[DataFile], name: str) -> Mapping[str, Split]:
    """The split by outermost folder where these are splits, which hold class folders; else nothing.

    Raises:
        DataError: two folders for a split, or an image that lies in no class folder of a split.
    """
    splits = _splits_among(parts)
    for split in SPLITS:
        same = [top for top, of in splits.items() if of == split]
        if len(same) > 1:
            raise DataError(f"{name} has the folders {' and '.join(map(shown, same))} for one split; join them")
    for part, file in zip(parts, files, strict=True):
        if splits and (len(part) < 3 or part[0] not in splits):
            raise DataError(
                f"{name}: {shown(file.path)} lies in no class folder of a split, and the folders "
                f"{' and '.join(map(shown, splits))} are splits; expected SPLIT/CLASS/NAME with the splits train, "
                "validation (or val, valid) and test: move it, or take it away"
            )
    return splits


def _target(path: str, links: Walk) -> str:
    """The name under which a file is read that a path names, perhaps through links."""
    for link, target in links.again.items():
        if path.startswith(f"{link}/"):
            path = f"{target}/{path.removeprefix(f'{link}/')}".lstrip("/")
    return links.same.get(path, path)


def _check_rows(entries: Sequence[ImageEntry]) -> None:
    """Refuse a file that two rows of lists name: it could be support and query of one task."""
    first: dict[str, ImageEntry] = {}
    for entry in entries:
        other = first.setdefault(entry.name, entry) if entry.row else entry
        if other is not entry:
            raise DataError(
                f"{entry.row}: {shown(entry.name)}, of the class {shown(entry.label)}, is also in "
                f"{_line(other, entry)}, of the class {shown(other.label)}; expected each file once: take one row away"
            )


def _line(other: ImageEntry, entry: ImageEntry) -> str:
    """A row, beside another one of the same list or not."""
    (name, line), (own, _) = other.row.rsplit(", ", 1), entry.row.rsplit(", ", 1)
    return line if name == own else other.row


def _known(value: str, name: str, number: int, column: str) -> Split:
    if value not in SPLIT_NAMES:
        raise DataError(
            f"{name}, line {number}: {shown(value)} stands under {shown(column)}; expected {', '.join(SPLITS[:-1])} or "
            f"{SPLITS[-1]}"
        )
    return SPLIT_NAMES[value]


def _other_case(name: str, there: Mapping[str, Any]) -> str:
    """A hint where only capitals differ."""
    lowered = name.lower()
    similar = next((path for path in there if path.lower() in (lowered, f"images/{lowered}")), None)
    return f" (there is {shown(similar)}: capitals matter)" if similar else ""


def _parent(name: str) -> str:
    address, mark, query = name.partition("?") if "://" in name else (name, "", "")
    return address.rsplit("/", 1)[0] + mark + query
