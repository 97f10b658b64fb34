"""Where Omniglot comes from: a folder or URI, ``DISTMETA_DATA``, or the official download."""

from __future__ import annotations

import hashlib
import http.client
import io
import os
import struct
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from distmeta.data.images.files import DataPlace, unreadable
from distmeta.errors import DataError
from distmeta.storage.cache import build_once, cache_for, written_whole

STORE = "omniglot-28.arrow"
OFFICIAL = "https://github.com/brendenlake/omniglot/raw/master/python/"
MD5 = {
    "images_background.zip": "68d2efa1b9178cc56df9314c21c6e718",
    "images_evaluation.zip": "6b91aef0f799c5bb55b94e3f2daec811",
}
"""The two archives, with the official files' sums; archives from elsewhere are judged by their content."""

_HELP = "set tasks.root or DISTMETA_DATA to a folder that holds " + " and ".join(MD5)


@dataclass(frozen=True)
class Folder:
    """A place, local or not, that holds the archives or a built store.

    Attributes:
        place: the folder.
        files: which of the archives and the store it holds.
    """

    place: DataPlace
    files: frozenset[str]

    @property
    def name(self) -> str:
        """The folder, as people know it."""
        return self.place.name

    @contextmanager
    def archive(self, file: str, whole: bool = False) -> Iterator[zipfile.ZipFile]:
        """An archive, opened: fetched ``whole`` at first, or only the parts that are asked for.

        Raises:
            DataError: it is missing, unreadable, truncated or no archive.
        """
        place = f"{self.name}/{file}"
        if file not in self.files:
            raise DataError(f"Omniglot's {file} is missing in {self.name}; {_HELP}")
        try:
            found = self.place.child(file)
            stream = io.BytesIO(found.read()) if whole else found.filesystem.open_input_file(found.path)
            opened = zipfile.ZipFile(stream)
        except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error, OverflowError) as error:
            raise DataError(
                f"{place} is damaged or truncated ({str(error).rstrip('.')}); fetch it again, for example "
                f"from {OFFICIAL}{file}"
            ) from None
        except OSError as error:
            raise unreadable(place, error) from None
        with stream, opened:
            yield opened


def find(place: str) -> Folder | None:
    """The folder ``place``, or its subfolder ``omniglot``, whichever holds an archive or a store.

    Raises:
        DataError: the place cannot be read.
    """
    base = DataPlace.at(place)
    for folder in (base, base.child("omniglot")):
        files = frozenset(file for file in (STORE, *MD5) if folder.child(file).kind == "file")
        if files:
            return Folder(folder, files)
    return None


def find_given(place: str) -> Folder:
    """As :func:`find`, where the user named the place: it must hold the data."""
    folder = find(place)
    if folder is None:
        raise DataError(
            f"{place} holds no Omniglot: expected {' and '.join(MD5)}, or {STORE}, there or in its subfolder "
            "omniglot/; correct the path, or leave tasks.root out to use DISTMETA_DATA or the official ones"
        )
    return folder


def find_anywhere(root: str | None) -> Folder:
    """``root`` if given, else what ``DISTMETA_DATA`` holds, else the official archives, downloaded once.

    Raises:
        DataError: saying what was tried and what to set.
    """
    if root is not None:
        return find_given(root)
    shared = os.environ.get("DISTMETA_DATA")
    folder = find(shared) if shared else None
    return folder or _download(shared)


def fingerprint(folder: Folder) -> str:
    """A name for the archives' content, from the names, sizes and CRCs in their directories."""
    digest = hashlib.sha256()
    for file in MD5:
        with folder.archive(file) as archive:
            for member in sorted(archive.infolist(), key=lambda member: member.filename):
                digest.update(f"{member.filename}\0{member.file_size}\0{member.CRC}\n".encode())
    return digest.hexdigest()[:16]


def _download(shared: str | None) -> Folder:
    folder = cache_for(*MD5, folder="omniglot-archives")
    for file in MD5:
        build_once(folder / file, partial(_fetch, file, shared))
    return find_given(str(folder))


def _fetch(file: str, shared: str | None, path: Path) -> None:
    url = OFFICIAL + file
    tried = f"DISTMETA_DATA ({shared} holds no Omniglot)" if shared else "DISTMETA_DATA (not set)"
    try:
        with urllib.request.urlopen(url, timeout=30) as response:
            content = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise DataError(
            f"cannot find Omniglot; tried tasks.root (not set), {tried} and {url} (download failed: "
            f"{getattr(error, 'reason', None) or error}); {_HELP}"
        ) from None
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != MD5[file]:
        raise DataError(f"{url} gave a file that is not the official {file} (MD5 differs); try again, or {_HELP}")
    with written_whole(path) as temporary:
        temporary.write_bytes(content)
