"""Large stores are read and compared with their hash once, and again only where the file has changed since."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Protocol

from distmeta.storage.cache import cache_for, written_whole

_FOLDER = "verified"

SMALL = 2**30
"""Bytes of a store that are read whenever a run begins; reading more takes long."""


class HashedStore(Protocol):
    """A file that knows the hash it was written with."""

    @property
    def path(self) -> Path:
        """The file."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes of what it holds."""
        ...

    @property
    def content_hash(self) -> str:
        """The hash."""
        ...

    def verify(self) -> None:
        """Read it all, and raise ``DataError`` where it is not what was written."""
        ...


def check_store(store: HashedStore) -> None:
    """Verify a store: a small one now, a large one as :func:`verify_once` does.

    Raises:
        DataError: the content is not what was written.
    """
    if store.nbytes <= SMALL:
        store.verify()
    else:
        verify_once(store)


def verify_once(store: HashedStore) -> None:
    """Verify a store, unless this very file was found whole before: its size and its times are as they were then.

    The time of the last change of a file's entry cannot be set back, as that of its content can.

    Raises:
        DataError: the content is not what was written.

    >>> import os, tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from distmeta.data.store import EpisodeStore, write_store
    >>> os.environ["DISTMETA_CACHE"] = tempfile.mkdtemp()
    >>> path = Path(tempfile.mkdtemp()) / "dots.arrow"
    >>> write_store(path, np.zeros((2, 8, 8), np.uint8), ["a", "b"], ["one", "two"])
    >>> verify_once(EpisodeStore.open(path))
    """
    found = os.stat(store.path)
    state = [found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns, store.content_hash]
    name = f"{hashlib.sha256(str(store.path.absolute()).encode(errors='surrogateescape')).hexdigest()[:16]}.json"
    note = cache_for(folder=_FOLDER) / name
    try:
        if json.loads(note.read_bytes()) == state:
            return
    except (OSError, ValueError):  # there is none, or it was damaged: then it is verified
        pass
    store.verify()
    with written_whole(note) as temporary:
        temporary.write_text(json.dumps(state))
