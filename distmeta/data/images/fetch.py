"""Opening a built store, where it lies or fetched once a host."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from distmeta.data.images.files import DataPlace, unreadable
from distmeta.data.store import EpisodeStore
from distmeta.errors import DataError
from distmeta.storage.cache import build_once, cache_for, written_whole

STORE_SUFFIX = ".arrow"
_PART = 2**24


def open_store(root: str | DataPlace) -> EpisodeStore:
    """A built store, mapped where it lies on this machine; elsewhere fetched once a host, and checked by its hash.

    Raises:
        DataError: it is missing, unreadable or damaged.
    """
    place = DataPlace.at(root) if isinstance(root, str) else root
    if place.kind != "file":
        raise DataError(f"tasks.root = {place.name}: there is no such store; correct the path, or build it")
    if place.local is not None:
        return EpisodeStore.open(place.local)
    version = hashlib.sha256(f"{place.path}\0{place.version()}".encode()).hexdigest()[:16]
    name = f"images-from-{version}{STORE_SUFFIX}"

    def fetch(path: Path) -> None:
        with written_whole(path) as temporary:
            try:
                source = place.filesystem.open_input_stream(place.path, compression=None)
                with source, temporary.open("wb") as file:
                    shutil.copyfileobj(source, file, _PART)
            except OSError as error:
                raise unreadable(place.name, error) from None
            try:
                EpisodeStore.open(temporary).verify()
            except DataError:
                raise DataError(f"{place.name} is damaged or incomplete; build it again") from None

    return EpisodeStore.open(build_once(cache_for(name) / name, fetch))
