"""Names of files among images: hidden ones, and those that are refused."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable
from functools import cache

from distmeta.core.quoting import shown
from distmeta.errors import DataError

log = logging.getLogger(__name__)


def is_hidden(name: str) -> bool:
    """Whether a file or folder is left out for its name; ``__MACOSX`` is what macOS adds to archives."""
    return name.startswith(".") or name == "__MACOSX"


def check_member(name: str, path: str, special: bool) -> None:
    """Refuse what would lead elsewhere where it is unpacked: nothing is unpacked here, but it is no data either."""
    parts = path.replace("\\", "/").split("/")
    if special:
        problem = "is a link or a device"
    elif parts[0] == "" or ".." in parts or re.match(r"[A-Za-z]:", path):
        problem = "leads outside of the archive"
    elif "\\" in path:
        problem = "has a backslash in its name"
    else:
        return
    raise DataError(
        f"{name} has an unsafe member: {shown(path)} {problem}; expected plain files in folders: pack it again"
    )


def check_once(name: str, paths: Iterable[str]) -> None:
    """Refuse an archive that holds a name twice."""
    twice = [path for path, count in Counter(paths).items() if count > 1]
    if twice:
        raise DataError(f"{name} is damaged: it holds {shown(twice[0])} twice; pack it again")


def no_text(name: str, path: str) -> DataError:
    """For a name that no store and no message can hold."""
    return DataError(f"{name}: the name of the file {shown(path)} is not in UTF-8; expected names in UTF-8: rename it")


@cache
def say_read_already(name: str, link: str, target: str) -> None:
    """That a link is left out; once, since a folder is also listed for its fingerprint."""
    also = shown(target) if target else "the folder itself"
    log.warning("%s: %s is left out: it leads to %s, which is read already", name, shown(link), also)
