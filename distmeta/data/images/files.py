"""Files of images, in a folder, at a URI, in a zip or in a tar: listed, and read one by one from any thread."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from distmeta.core.quoting import BAD_TEXT, shown
from distmeta.core.secrets import mask
from distmeta.data.images.names import check_member, check_once, is_hidden, no_text, say_read_already
from distmeta.data.images.walking import Walk, walk
from distmeta.errors import DataError, StorageError
from distmeta.storage.atomic import remove_abandoned, temporary
from distmeta.storage.cache import cache_for

LARGEST_IMAGE_FILE = 2**28
"""Bytes of one image file, also of a packed one once it is unpacked."""

TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
ARCHIVES = (".zip", *TARS)

_PART = 2**24
_LEAST = 2**30
_FACTOR = 100
"""A packed tar unpacks to at most so many times its size, or to ``_LEAST`` bytes: images hardly shrink by packing."""


@dataclass(frozen=True)
class DataFile:
    """A file among others.

    Attributes:
        path: with slashes, below the folder or in the archive.
        size: bytes, unpacked.
        stamp: what changes with the content: a checksum, or the time of the last change.
    """

    path: str
    size: int
    stamp: str


class DataFiles(Protocol):
    """Files that can be listed, and read from several threads at once.

    Attributes:
        name: of the folder or archive, for messages.
        hidden: files and folders that the last listing left out.
        links: where a folder of this machine was listed, the links in it.
    """

    name: str
    hidden: list[str]
    links: Walk

    def list(self) -> list[DataFile]:
        """All of them, in the order of their paths. Raises ``DataError``."""
        ...

    def read(self, file: DataFile) -> bytes:
        """The whole content. Raises ``OSError``, or ``ValueError`` with the reason."""
        ...


@dataclass(frozen=True)
class DataPlace:
    """A file or folder, on this machine or at a URI.

    Attributes:
        name: as people know it.
        filesystem: its ``pyarrow.fs.FileSystem``.
        path: on this file system.
        kind: ``file``, ``folder`` or ``nothing``.
    """

    name: str
    filesystem: Any
    path: str
    kind: str

    @classmethod
    def at(cls, root: str) -> DataPlace:
        """What lies at a path or URI.

        Raises:
            DataError: it cannot be looked at.
        """
        import pyarrow as pa
        from pyarrow.fs import FileType, LocalFileSystem

        from distmeta.storage.files import open_uri

        try:
            if "://" in root:
                filesystem, path, opened = open_uri(root)
                name = mask(opened)
            else:
                filesystem, path = LocalFileSystem(), str(Path(os.path.expanduser(root)).absolute())
                name = path
            kind = {FileType.File: "file", FileType.Directory: "folder"}.get(filesystem.get_file_info(path).type)
        except StorageError as error:  # with its own advice
            raise DataError(str(error)) from None
        except (OSError, pa.ArrowException, ValueError) as error:
            raise unreadable(mask(root), error) from None
        return cls(name.rstrip("/") or "/", filesystem, path.rstrip("/") or "/", kind or "nothing")

    def child(self, *names: str) -> DataPlace:
        """What lies below this folder."""
        from distmeta.storage.files import below

        path = "/".join([self.path.rstrip("/"), *names])
        return DataPlace.found(below(self.name, *names), self.filesystem, path)

    @classmethod
    def found(cls, name: str, filesystem: Any, path: str) -> DataPlace:
        """As :meth:`at`, on a file system that is open."""
        from pyarrow.fs import FileType

        try:
            found = filesystem.get_file_info(path).type
        except OSError as error:
            raise unreadable(name, error) from None
        kind = {FileType.File: "file", FileType.Directory: "folder"}.get(found, "nothing")
        return cls(name, filesystem, path, kind)

    @property
    def local(self) -> Path | None:
        """The path where it lies on this machine."""
        from pyarrow.fs import LocalFileSystem

        return Path(self.path) if isinstance(self.filesystem, LocalFileSystem) else None

    def version(self) -> str:
        """Size and time of a file, which tell an old copy from a new one."""
        try:
            info = self.filesystem.get_file_info(self.path)
        except OSError as error:
            raise unreadable(self.name, error) from None
        return f"{info.size} {info.mtime_ns}"

    def read(self, largest: int = LARGEST_IMAGE_FILE) -> bytes:
        """The content of a file of at most so many bytes."""
        try:
            with self.filesystem.open_input_file(self.path) as stream:
                if stream.size() > largest:
                    raise DataError(f"{self.name} is larger than {largest:,} bytes, too large for such a file")
                return bytes(stream.read())
        except OSError as error:
            raise unreadable(self.name, error) from None

    @contextmanager
    def fetched(self) -> Iterator[Path]:
        """A path on this machine: the file itself, or a copy for as long as this is entered."""
        if self.local is not None:
            yield self.local
            return
        with temporary(_scratch()) as path:
            try:
                with self.filesystem.open_input_stream(self.path, compression=None) as source, path.open("wb") as file:
                    shutil.copyfileobj(source, file, _PART)
            except OSError as error:
                raise unreadable(self.name, error) from None
            yield path


class FolderFiles:
    """The files in a folder and below, also at a URI; hidden ones are left out."""

    def __init__(self, place: DataPlace) -> None:
        self.name, self._place = place.name, place
        self.hidden: list[str] = []
        self.links = Walk()

    def list(self) -> list[DataFile]:
        """One listing, which reads no file; links to folders that are read already are left out."""
        try:
            if self._place.local is None:
                found = list(self._remote())
            else:
                self.links = walk(self._place.path)
                found = [DataFile(file.path, file.size, f"{file.changed}") for file in self.links.files]
        except OSError as error:
            raise unreadable(self.name, error) from None
        except UnicodeDecodeError as error:
            raise no_text(self.name, os.fsdecode(error.object)) from None
        for link, target in sorted(self.links.again.items()):
            say_read_already(self.name, link, target)
        files, self.hidden = _ordered(self.name, found)
        self.hidden += self.links.hidden
        return files

    def _remote(self) -> Iterator[DataFile]:
        """Hidden ones too."""
        from pyarrow.fs import FileSelector, FileType

        base = self._place.path.rstrip("/") + "/"
        infos = self._place.filesystem.get_file_info(FileSelector(self._place.path, recursive=True))
        for info in infos:
            if info.type == FileType.File:
                yield DataFile(info.path.removeprefix(base), info.size or 0, f"{info.mtime_ns}")

    def read(self, file: DataFile) -> bytes:
        """From the file system, each call on its own."""
        with self._place.filesystem.open_input_file(f"{self._place.path}/{file.path}") as stream:
            if stream.size() > LARGEST_IMAGE_FILE:
                raise ValueError(f"it has more than {LARGEST_IMAGE_FILE:,} bytes")
            return bytes(stream.read())


class ZipFiles:
    """The members of a zip, read without unpacking them to the disk."""

    def __init__(self, name: str, archive: zipfile.ZipFile) -> None:
        self.name, self._archive = name, archive
        self.hidden, self.links = list[str](), Walk()

    def list(self) -> list[DataFile]:
        """From the archive's directory; members that would lie outside, or that are links, are refused."""
        members = [member for member in self._archive.infolist() if not member.is_dir()]
        for member in members:
            kind = stat.S_IFMT(member.external_attr >> 16)
            check_member(self.name, member.filename, kind not in (0, stat.S_IFREG))
        check_once(self.name, (member.filename for member in members))
        listed = (DataFile(m.filename, m.file_size, f"{m.CRC:08x}") for m in members)
        files, self.hidden = _ordered(self.name, listed)
        return files

    def read(self, file: DataFile) -> bytes:
        """Unpacked as far as is allowed, whatever size the archive's directory claims."""
        try:
            with self._archive.open(file.path) as packed:
                data = packed.read(LARGEST_IMAGE_FILE + 1)
        except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError) as error:
            raise ValueError(str(error)) from None
        if len(data) > LARGEST_IMAGE_FILE:
            raise ValueError(f"it unpacks to more than {LARGEST_IMAGE_FILE:,} bytes")
        return data


class TarFiles:
    """The members of a tar that is not packed."""

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self._path = path
        self.hidden, self.links = list[str](), Walk()
        self._starts: dict[str, int] = {}

    def list(self) -> list[DataFile]:
        """From all headers; members that would lie outside, or that are links, are refused."""
        found = []
        try:
            with tarfile.open(self._path, "r:") as archive:
                for member in archive:
                    if member.isdir():
                        continue
                    path = member.name.removeprefix("./")
                    check_member(self.name, path, not member.isreg())
                    self._starts[path] = member.offset_data
                    found.append(DataFile(path, member.size, f"{member.mtime}"))
        except (tarfile.TarError, EOFError, ValueError, OSError) as error:
            raise damaged(self.name, error) from None
        check_once(self.name, (file.path for file in found))
        files, self.hidden = _ordered(self.name, found)
        return files

    def read(self, file: DataFile) -> bytes:
        """From its place in the archive."""
        if file.size > LARGEST_IMAGE_FILE:
            raise ValueError(f"it has more than {LARGEST_IMAGE_FILE:,} bytes")
        with self._path.open("rb") as archive:
            archive.seek(self._starts[file.path])
            data = archive.read(file.size)
        if len(data) != file.size:
            raise ValueError("the archive ends in its midst")
        return data


@contextmanager
def opened(place: DataPlace) -> Iterator[DataFiles]:
    """The files of a folder or archive; an archive elsewhere is fetched, and a packed tar unpacked, for that long.

    Raises:
        DataError: it is missing, unreadable or no archive.
    """
    if place.kind == "folder":
        yield FolderFiles(place)
    elif place.kind == "nothing":
        raise DataError(f"there is no {place.name}; correct the path")
    elif place.path.lower().endswith(".zip"):
        with place.fetched() as path, _zip(place.name, path) as archive:
            yield ZipFiles(place.name, archive)
    elif place.path.lower().endswith(TARS):
        with place.fetched() as path, unpacked_tar(place.name, path) as plain:
            yield TarFiles(place.name, plain)
    else:
        raise DataError(f"{place.name} is neither a folder nor an archive ({', '.join(ARCHIVES)})")


def fingerprint(place: DataPlace) -> str:
    """What tells the content of a folder or archive from another one, without reading it: names, sizes and stamps."""
    digest = hashlib.sha256()
    if place.kind == "file" and (place.local is None or not place.path.lower().endswith(".zip")):
        return hashlib.sha256(f"{place.path.rsplit('/', 1)[-1]} {place.version()}".encode()).hexdigest()
    with opened(place) as files:
        for file in files.list():
            digest.update(f"{file.path}\0{file.size}\0{file.stamp}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


@contextmanager
def unpacked_tar(name: str, path: Path) -> Iterator[Path]:
    """A tar that can be read at any place: itself, or an unpacked copy for as long as this is entered."""
    try:
        with tarfile.open(path, "r:"):
            plain = True
    except tarfile.TarError:
        plain = False
    except OSError as error:
        raise unreadable(name, error) from None
    if plain:
        yield path
        return
    limit = max(_LEAST, _FACTOR * path.stat().st_size)
    with temporary(_scratch()) as copy:
        try:
            # The stream mode of tarfile unpacks to any file object: its own reader of the packed stream is taken.
            with tarfile.open(path, "r:*") as archive, copy.open("wb") as file:
                assert archive.fileobj is not None
                archive.fileobj.seek(0)
                while part := archive.fileobj.read(_PART):
                    if file.tell() + len(part) > limit:
                        raise DataError(f"{name} unpacks to more than {limit:,} bytes, which no archive of images does")
                    file.write(part)
        except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
            raise damaged(name, error) from None
        yield copy


def unreadable(name: str, error: BaseException) -> DataError:
    """For what the operating system, or pyarrow, cannot read."""
    reason = getattr(error, "strerror", None) or " ".join(str(error).split())
    return DataError(f"cannot read {name}: {mask(reason)}; correct the path or the access to it")


def damaged(name: str, error: BaseException) -> DataError:
    """For an archive that is none, or not whole."""
    reason = shown(" ".join(str(error).split()).rstrip("."))[1:-1]
    return DataError(f"{name} is damaged or truncated ({reason}); fetch it again")


@contextmanager
def _zip(name: str, path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error, OverflowError) as error:
        raise damaged(name, error) from None
    except OSError as error:
        raise unreadable(name, error) from None
    with archive:
        yield archive


def _ordered(name: str, files: Iterable[DataFile]) -> tuple[list[DataFile], list[str]]:
    """In the order of their paths, and apart the paths of hidden ones.

    Raises:
        DataError: a name is no text.
    """
    visible, hidden = [], []
    for file in files:
        if any(map(is_hidden, file.path.split("/"))):
            hidden.append(file.path)
        elif BAD_TEXT.search(file.path):
            raise no_text(name, file.path)
        else:
            visible.append(file)
    return sorted(visible, key=lambda file: file.path), hidden


def _scratch() -> Path:
    folder = cache_for(folder="unpacked")
    folder.mkdir(parents=True, exist_ok=True)
    remove_abandoned(folder)
    return folder
