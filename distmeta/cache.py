"""The folder where data sets are built once a host."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from distmeta.errors import DataError


def cache_dir() -> Path:
    """``DISTMETA_CACHE``, else ``distmeta`` in ``XDG_CACHE_HOME``, else in ``~/.cache``."""
    own = os.environ.get("DISTMETA_CACHE")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "distmeta"


def build_once(path: Path, builder: Callable[[Path], None]) -> Path:
    """Build a file unless it is there; of several processes on this host one builds and the others wait.

    Args:
        path: the file, in the cache.
        builder: writes the file, whole or not at all (:func:`written_whole`).

    Raises:
        DataError: the folder cannot be written.
    """
    if path.exists():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{path}.lock")
        lock.acquire()
    except OSError as error:
        raise _unwritable(path.parent, error) from None
    try:
        if not path.exists():
            for left_by_a_kill in path.parent.glob(f".{path.name}.*.tmp"):
                left_by_a_kill.unlink(missing_ok=True)
            builder(path)
    finally:
        lock.release()
    return path


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path`` to write to: renamed at the end, removed on any failure.

    Raises:
        DataError: the folder cannot be written, or is full.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise _unwritable(path.parent, error) from None


def _unwritable(folder: Path, error: OSError) -> DataError:
    return DataError(
        f"cannot write to the folder {folder}: {error.strerror or error}; make room, or name another folder "
        "(DISTMETA_CACHE is the one for built data)"
    )
