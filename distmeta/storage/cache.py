"""The folder where data sets and compiled code are built once a host."""

from __future__ import annotations

import functools
import logging
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from distmeta.errors import DataError
from distmeta.storage.atomic import remove_abandoned, replacing

log = logging.getLogger(__name__)


def cache_dir() -> Path:
    """``DISTMETA_CACHE``, else ``distmeta`` in ``XDG_CACHE_HOME``, else in ``~/.cache``.

    Raises:
        DataError: none of them is set, and this user has no home.
    """
    own = os.environ.get("DISTMETA_CACHE")
    path = own or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "distmeta")
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise DataError(
            f"{path} names a home folder, and this user has none (HOME is not set); set DISTMETA_CACHE to a folder "
            "for built data"
        ) from None


def cache_for(*files: str, folder: str = "") -> Path:
    """The folder in which files of the cache lie, or can be built: ``folder`` of :func:`cache_dir`.

    Where that can be neither read nor written (a home that is missing or read-only), it is ``folder`` in a folder of
    this user's own in the temporary folder (``TMPDIR``), which is said once.

    Args:
        files: their names; none asks for a folder to write to.
        folder: a folder of the cache.

    Raises:
        DataError: neither folder can be written.
    """
    try:
        usual = cache_dir() / folder
    except DataError as error:
        return _spare(str(error)) / folder
    try:
        if not files or not all((usual / file).exists() for file in files):
            _check_writable(usual)
    except OSError as error:
        return _spare(f"{cache_dir()}: {error.strerror or error}") / folder
    return usual


def build_once(path: Path, builder: Callable[[Path], None], whole: Callable[[Path], bool] = Path.exists) -> Path:
    """Build a file unless it is there; of several processes on this host one builds and the others wait.

    Args:
        path: the file, in the cache.
        builder: writes the file, whole or not at all (:func:`written_whole`).
        whole: whether the file is there, and as it was built; one that is not is replaced.

    Raises:
        DataError: the folder cannot be written.
    """
    if whole(path):
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{path}.lock")
        lock.acquire()
    except OSError as error:
        raise _unwritable(path.parent, error) from None
    try:
        if not whole(path):
            remove_abandoned(path.parent)
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
    try:
        with replacing(path) as temporary:
            yield temporary
    except OSError as error:
        raise _unwritable(path.parent, error) from None


def _check_writable(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


@functools.cache
def _spare(problem: str) -> Path:
    """``distmeta-UID`` in the temporary folder, if it is this user's alone: others must not put data there."""
    try:
        folder = Path(tempfile.gettempdir()) / f"distmeta-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
            raise PermissionError(None, "it is not this user's alone", str(folder))
        _check_writable(folder)
    except OSError as error:
        where = error.filename or os.environ.get("TMPDIR") or "the temporary folder"
        raise DataError(
            f"the cache cannot be written ({problem}), and neither can {where} ({error.strerror or error}); set "
            "DISTMETA_CACHE to a folder that can be"
        ) from None
    log.warning(
        "the cache cannot be written (%s): data is built in %s; set DISTMETA_CACHE to a folder that can be",
        problem,
        folder,
    )
    return folder


def _unwritable(folder: Path, error: OSError) -> DataError:
    return DataError(
        f"cannot write to the folder {folder}: {error.strerror or error}; make room, or name another folder "
        "(DISTMETA_CACHE is the one for built data)"
    )
