"""Files of a run in a folder, or at any URI that ``pyarrow.fs`` opens.

What is written appears whole or not at all: on a local file system under a temporary name that is renamed
when its bytes are on the disk; elsewhere a folder counts once its ``manifest.json``, written last, is there.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import pyarrow.fs

from distmeta.core.quoting import BAD_TEXT, shown
from distmeta.core.secrets import is_masked, looks_like_uri, mask, strip
from distmeta.errors import StorageError
from distmeta.storage.atomic import (
    PARTIAL,
    Guard,
    move_folder,
    remove_abandoned,
    replacing,
    sync_folder,
    temporary,
    write_durably,
)
from distmeta.storage.credentials import missing_from_environment

MANIFEST = "manifest.json"
"""The file that makes a published folder whole where folders cannot be renamed."""

_REASONS = {
    errno.ENOSPC: ("no space is left there", "free some space or choose another place"),
    errno.EDQUOT: ("the disk quota is used up", "free some space or choose another place"),
    errno.EACCES: ("permission denied", "choose a place that you may write to and read from"),
    errno.EPERM: ("permission denied", "choose a place that you may write to and read from"),
    errno.EROFS: ("the file system is read-only", "choose another place"),
    errno.ENOTDIR: ("a part of this path is a file, not a folder", "choose another place"),
    errno.EEXIST: ("a file of this name is in the way", "move it or choose another place"),
    errno.EISDIR: ("it is a folder, not a file", "move it or choose another place"),
    errno.ENOENT: ("it does not exist", "check the path"),
}


@contextmanager
def explained(action: str, location: str | Path) -> Iterator[None]:
    """Turn what the operating system or pyarrow raises into one clear :class:`~distmeta.errors.StorageError`.

    >>> with explained("read", "/nowhere"):
    ...     open("/nowhere")
    Traceback (most recent call last):
    distmeta.errors.StorageError: cannot read /nowhere: it does not exist; check the path
    """
    try:
        yield
    except (OSError, pyarrow.ArrowException) as error:
        first_line = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        fallback = (first_line, "check the place and, where it is remote, the network and your credentials")
        reason, advice = _REASONS.get(getattr(error, "errno", None) or 0, fallback)
        raise StorageError(f"cannot {action} {location}: {reason}; {advice}") from error


class Storage:
    """One folder, on a disk or elsewhere; it need not exist yet.

    Every problem is a :class:`~distmeta.errors.StorageError` that says where, what and what to do.

    Args:
        filesystem: any pyarrow file system.
        path: the folder's path in it.
        location: what people and :meth:`at` call this folder.
        guard: stands before every change; by default none does.

    >>> import tempfile
    >>> storage = Storage.at(tempfile.mkdtemp()).child("runs", "a")
    >>> storage.write_bytes("note", b"hello")
    >>> storage.list(), storage.read_bytes("note")
    (['note'], b'hello')
    """

    def __init__(self, filesystem: pyarrow.fs.FileSystem, path: str, location: str, guard: Guard = nullcontext) -> None:
        self._filesystem = filesystem
        self._path = path.rstrip("/") or "/"
        self._uri = location
        self._guard = guard

    @classmethod
    def at(cls, location: str | Path) -> Storage:
        """The folder at a path or at a URI such as ``s3://bucket/runs`` or ``file:///data/runs``.

        A masked URI is opened by what the environment holds.
        """
        if BAD_TEXT.search(str(location)):
            raise StorageError(f"cannot open {shown(str(location))}: expected UTF-8 text without null bytes")
        if looks_like_uri(str(location)) and (
            isinstance(location, Path) or not re.match(r"file:///|[^:/]+://[^/]", location)
        ):
            raise StorageError(
                f"cannot open {location}: expected a folder, or a URI as text, with two slashes and a name, such as "
                "s3://bucket/runs"
            )
        if isinstance(location, Path) or "://" not in location:
            path = str(Path(os.path.expanduser(location)).absolute())
            return cls(pyarrow.fs.LocalFileSystem(), path, path)
        filesystem, path, location = open_uri(location)
        return cls(filesystem, path, location)

    @property
    def location(self) -> str:
        """The path or URI, for people: secrets in it are masked."""
        return mask(self._uri)

    @property
    def uri(self) -> str:
        """The path or URI as :meth:`at` takes it, also in another process; it may hold a password."""
        return self._uri

    @property
    def local(self) -> Path | None:
        """The folder's path where it is on a local file system."""
        return Path(self._path) if isinstance(self._filesystem, pyarrow.fs.LocalFileSystem) else None

    def child(self, *parts: str) -> Storage:
        """The folder below this one."""
        return Storage(self._filesystem, self._join(*parts), below(self._uri, *parts), self._guard)

    @property
    def parent(self) -> Storage:
        """The folder that this one lies in."""
        return Storage(
            self._filesystem, self._path.rpartition("/")[0], self._uri.rstrip("/").rpartition("/")[0], self._guard
        )

    def guarded(self, guard: Guard) -> Storage:
        """The same folder, with a guard before every change in it and below it."""
        return Storage(self._filesystem, self._path, self._uri, guard)

    def changing(self) -> AbstractContextManager[None]:
        """For changes that are made by other means: the guard."""
        return self._guard()

    def exists(self, name: str) -> bool:
        """Whether there is a file or folder of this name."""
        with explained("look for", self.child(name).location):
            return bool(self._type(name) != pyarrow.fs.FileType.NotFound)

    def modified(self, name: str) -> float | None:
        """When a file was last written, in seconds by the file system's clock; ``None`` where it does not say."""
        with explained("look for", self.child(name).location):
            nanoseconds = self._filesystem.get_file_info(self._join(name)).mtime_ns
        return None if nanoseconds is None else nanoseconds / 1e9

    def list(self) -> list[str]:
        """Sorted names of files and folders here, without temporaries; none where this folder is missing."""
        with explained("list", self.location):
            selector = pyarrow.fs.FileSelector(self._path, allow_not_found=True)
            try:
                names = [info.base_name for info in self._filesystem.get_file_info(selector)]
            except FileNotFoundError:  # it was not there, and is when pyarrow looks whether that is so
                names = []
        return sorted(name for name in names if not name.startswith(PARTIAL))

    def read_bytes(self, name: str) -> bytes:
        """The file's content."""
        with (
            explained("read", self.child(name).location),
            self._filesystem.open_input_file(self._join(name)) as file,
        ):
            return bytes(file.read())

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write a file, replacing one of that name; locally a reader sees the old or the new, no part."""
        with explained("write", self.child(name).location):
            if self.local is None:
                self._filesystem.create_dir(os.path.dirname(self._join(name)), recursive=True)
                self._upload(name, data)
                return
            with replacing(self.local / name, self._guard) as path:
                path.write_bytes(data)

    def publish(self, name: str, files: Mapping[str, bytes | Path]) -> None:
        """Make the folder ``name`` of these files appear whole, replacing one of that name.

        Args:
            name: the folder; it must not begin with ``.partial-``.
            files: content of each file, or the local file to copy it from; names may lead into folders. Where
                the file system is not local a checkpoint's folder is whole once its ``manifest.json`` is there, which
                comes last; other folders are written in the order of their files.
        """
        with explained("write", self.child(name).location):
            if self.local is None:
                self._publish_remotely(name, files)
                return
            self.local.mkdir(parents=True, exist_ok=True)
            remove_abandoned(self.local)
            with temporary(self.local) as folder:
                folder.mkdir()
                for file, content in files.items():
                    (folder / file).parent.mkdir(parents=True, exist_ok=True)
                    write_durably(folder / file, content)
                sync_folder(folder)
                with self._guard():
                    move_folder(folder, self.local / name)
                sync_folder(self.local)

    def delete(self, name: str) -> None:
        """Remove a file or folder, or nothing; a folder disappears at once or loses its manifest first."""
        with explained("delete", self.child(name).location), suppress(FileNotFoundError):
            if self.local is not None:
                with temporary(self.local) as path, self._guard():  # removes what was moved there
                    os.rename(self.local / name, path)
                return
            with self._guard():
                self._delete_remotely(name)

    def _delete_remotely(self, name: str) -> None:
        if self._type(name) == pyarrow.fs.FileType.Directory:
            if self.child(name).exists(MANIFEST):
                self._filesystem.delete_file(self._join(name, MANIFEST))
            self._filesystem.delete_dir(self._join(name))
        else:
            self._filesystem.delete_file(self._join(name))

    def _publish_remotely(self, name: str, files: Mapping[str, bytes | Path]) -> None:
        self.delete(name)
        self._filesystem.create_dir(self._join(name), recursive=True)
        for file in sorted(files, key=lambda file: file == MANIFEST):
            content = files[file]
            self._upload(f"{name}/{file}", content.read_bytes() if isinstance(content, Path) else content)

    def _upload(self, name: str, data: bytes) -> None:
        with self._guard(), self._filesystem.open_output_stream(self._join(name), compression=None) as stream:
            stream.write(data)

    def _type(self, name: str) -> Any:
        return self._filesystem.get_file_info(self._join(name)).type

    def _join(self, *parts: str) -> str:
        return "/".join([self._path.rstrip("/"), *parts])


def open_uri(location: str) -> tuple[pyarrow.fs.FileSystem, str, str]:
    """A URI's file system and path, and the URI that was opened; a masked one is by what the environment holds.

    Raises:
        StorageError: it cannot be opened, or the environment does not hold what was left out.
    """
    if is_masked(location):
        if (problem := missing_from_environment(location)) is not None:
            raise StorageError(problem)
        location = strip(location)
    try:
        return *pyarrow.fs.FileSystem.from_uri(location), location
    except (OSError, pyarrow.ArrowException) as error:
        raise StorageError(
            f"cannot open {location}: {error}; expected a folder or a URI that pyarrow.fs opens, such as s3://, "
            "gs://, abfs://, hdfs:// or file://"
        ) from None  # its own text may hold a secret


def below(location: str, *parts: str) -> str:
    """The path or URI of what lies in a folder.

    >>> below("s3://bucket/runs?region=x", "a")
    's3://bucket/runs/a?region=x'
    """
    address, mark, query = location.partition("?") if "://" in location else (location, "", "")
    return "/".join([address.rstrip("/"), *parts]) + mark + query
