"""The files below a folder of this machine, each folder read once: links may lead back, or to what is read already."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from distmeta.data.images.names import is_hidden

Identity = tuple[int, int]
"""Device and number by which the system knows a file or folder, whatever its names."""


@dataclass(frozen=True)
class FoundFile:
    """A file, its size and the time of its last change in nanoseconds."""

    path: str
    size: int
    changed: int
    identity: Identity


@dataclass
class Walk:
    """What lies below a folder.

    Attributes:
        files: all that are not hidden, also through links.
        hidden: hidden files, and hidden folders, into which the walk does not go.
        again: links to folders that are read under another name, which stands beside them (the outermost is empty); the
            walk does not go there either.
        same: links to files that are in ``files`` under another name.
    """

    files: list[FoundFile] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    again: dict[str, str] = field(default_factory=dict)
    same: dict[str, str] = field(default_factory=dict)


def walk(root: str) -> Walk:
    """All below a folder; what is no link comes first, so that a link is never read instead of what it leads to.

    Raises:
        OSError: a folder or file cannot be looked at.
    """
    found, seen = Walk(), dict[Identity, str]()
    folders, links = [""], list[str]()
    linked: list[FoundFile] = []
    while folders or links:
        folder = folders.pop() if folders else links.pop(0)
        there = os.stat(os.path.join(root, folder))
        first = seen.setdefault((there.st_dev, there.st_ino), folder)
        if first != folder:
            found.again[folder] = first
            continue
        below: list[str] = []
        for path, link, info in _children(root, folder):
            if is_hidden(path.rsplit("/", 1)[-1]):
                found.hidden.append(path)
            elif stat.S_ISDIR(info.st_mode):
                (links if link else below).append(path)
            elif stat.S_ISREG(info.st_mode):
                file = FoundFile(path, info.st_size, info.st_mtime_ns, (info.st_dev, info.st_ino))
                (linked if link else found.files).append(file)
        folders += reversed(below)
    found.same = _same(found.files, linked)
    found.files += linked
    return found


def _children(root: str, folder: str) -> Iterator[tuple[str, bool, os.stat_result]]:
    """What lies in a folder, in the order of the names: its path, whether it is a link, and what it leads to."""
    with os.scandir(os.path.join(root, folder)) as entries:
        ordered = sorted(entries, key=lambda entry: entry.name)
    for entry in ordered:
        try:
            info = entry.stat()
        except OSError:
            if not entry.is_symlink():
                raise
            continue  # it leads nowhere
        yield f"{folder}/{entry.name}".lstrip("/"), entry.is_symlink(), info


def _same(files: Iterable[FoundFile], links: list[FoundFile]) -> dict[str, str]:
    """The links to files that are known under another name, with that name."""
    if not links:
        return {}
    names = {file.identity: file.path for file in files}
    targets = {link.path: names.setdefault(link.identity, link.path) for link in links}
    return {path: target for path, target in targets.items() if path != target}
