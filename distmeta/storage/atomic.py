"""Files and folders on a local file system that appear whole or not at all.

They are written under a temporary name that says who writes, are brought to the disk and renamed. What a killed process
left is known by its name, and removed by the next one that writes there.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import re
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path

Guard = Callable[[], AbstractContextManager[None]]
"""Entered around the moment at which something that was written appears, or disappears; raises to forbid it."""

PARTIAL = ".partial-"
"""What temporary names begin with."""

_FOREIGN_LIFETIME = 24 * 3600.0  # seconds after which what another host's processes write is taken for abandoned


@contextmanager
def replacing(target: Path, guard: Guard = nullcontext) -> Iterator[Path]:
    """A temporary name beside a file to write to; at the end it replaces the file, on a failure nothing has changed.

    Args:
        target: the file; its folder is made.
        guard: stands before the moment at which it appears.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "note"
    >>> with replacing(file) as path:
    ...     _ = path.write_text("whole")
    >>> [path.name for path in file.parent.iterdir()], file.read_text()
    (['note'], 'whole')
    """
    if target.is_dir() and not target.is_symlink():  # now: to write what goes there may have taken hours
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
    target.parent.mkdir(parents=True, exist_ok=True)
    with temporary(target.parent) as path:
        yield path
        with path.open("rb") as file:
            os.fsync(file.fileno())
        with guard():
            os.replace(path, target)
        sync_folder(target.parent)


@functools.cache
def _token(pid: int) -> str:
    """Tells this process from a dead one of the same number; a fork, which copies the cache, gets its own."""
    return uuid.uuid4().hex[:8]


@functools.cache
def process_space() -> str:
    """Where process numbers mean what they do here: the host, and the namespace of a container."""
    try:
        namespace = f".{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:  # not Linux
        namespace = ""
    return socket.gethostname() + namespace


@contextmanager
def temporary(folder: Path) -> Iterator[Path]:
    """A name for a file or folder that says who writes it; what is there at the end is removed."""
    pid = os.getpid()
    path = folder / f"{PARTIAL}{pid}-{_token(pid)}-{uuid.uuid4().hex[:8]}-{process_space()}"
    try:
        yield path
    finally:
        _remove(path)


def remove_abandoned(folder: Path) -> None:
    """Remove what killed processes left in a folder; what the living write stays."""
    for path in folder.glob(f"{PARTIAL}*"):
        with suppress(FileNotFoundError):
            if _abandoned(path):
                _remove(path)


def _abandoned(path: Path) -> bool:
    match = re.fullmatch(r"(\d+)-(\w+)-\w+-(.*)", path.name.removeprefix(PARTIAL))
    if match is None or match[3] != process_space():
        return time.time() - path.lstat().st_mtime > _FOREIGN_LIFETIME
    pid = int(match[1])
    if pid == os.getpid():
        return match[2] != _token(pid)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_durably(path: Path, content: bytes | Path) -> None:
    """Write a new file, or copy one there; at the end its bytes are on the disk."""
    with path.open("xb") as file:
        if isinstance(content, Path):
            with content.open("rb") as source:
                shutil.copyfileobj(source, file)
        else:
            file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Bring a folder's names to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems cannot, and need not
            raise
    finally:
        os.close(descriptor)


def move_folder(source: Path, target: Path) -> None:
    """Rename; a folder in the way ends up at ``source`` or in a temporary that is removed."""
    if not os.path.lexists(target):
        os.rename(source, target)
    elif not _exchange(source, target):
        with temporary(target.parent) as aside:
            os.rename(target, aside)
            os.rename(source, target)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two names in one step, so that there is no moment without the old or the new folder; Linux can."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return bool(renameat2 and renameat2(here, os.fsencode(first), here, os.fsencode(second), exchange) == 0)
