"""Building the Omniglot store: decode, resize, invert, and refuse what is incomplete."""

from __future__ import annotations

import io
import os
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distmeta.core.quoting import shown
from distmeta.data.images.fetch import open_store
from distmeta.data.omniglot_source import MD5, STORE, Folder, find_anywhere, find_given, fingerprint
from distmeta.data.store import EpisodeStore, write_store
from distmeta.errors import DataError
from distmeta.storage.cache import build_once, cache_for

BUILDER = "1"
"""Version of how images are made; a change makes a new file in the cache."""

ALPHABETS = {"background": 30, "evaluation": 20}
CHARACTERS = {"background": 964, "evaluation": 659}
DRAWINGS = 20
IMAGE_SIZE = 28
_SOURCE_SIZE = 105
_LARGEST = 2**20
"""Bytes of an unpacked image; the official ones have a few hundred."""

_MEMBER = re.compile(r"images_(background|evaluation)/([^/]+)/(character\d+)/[^/]+\.png")

BuildProgress = Callable[[int, int], None]


def build_omniglot(source: str | Path, out: str | Path, progress: BuildProgress | None = None) -> Path:
    """Build ``OUT/omniglot-28.arrow`` from the two archives.

    Args:
        source: folder or URI with the archives, there or in its subfolder ``omniglot/``; it is only read.
        out: folder for the store, which then serves as ``tasks.root``; an old store there is replaced.
        progress: called with (images done, images in all) after every character.

    Raises:
        DataError: an archive is missing, damaged or incomplete, or ``out`` cannot be written; nothing is left
            behind.
    """
    path = Path(os.path.expanduser(out)) / STORE
    _build(find_given(str(source)), progress, path)
    return path


def open_omniglot(root: str | None) -> EpisodeStore:
    """The store, from wherever Omniglot is found; built once a host where there are only archives.

    Raises:
        DataError: the data is missing, damaged or incomplete.
    """
    folder = find_anywhere(root)
    store = open_store(folder.place.child(STORE)) if STORE in folder.files else EpisodeStore.open(_built_from(folder))
    alphabets = {group: store.groups.count(group) for group in set(store.groups)}
    of_part = {part: [n for g, n in alphabets.items() if g.startswith(f"{part}/")] for part in ALPHABETS}
    complete = all(
        len(of_part[part]) == ALPHABETS[part] and sum(of_part[part]) == CHARACTERS[part] for part in ALPHABETS
    )
    if not complete or store.images.shape[1:] != (IMAGE_SIZE, IMAGE_SIZE) or (store.counts != DRAWINGS).any():
        raise DataError(
            f"{store.path} is not the complete Omniglot: expected {sum(CHARACTERS.values()):,} characters of "
            f"{sum(ALPHABETS.values())} alphabets, {DRAWINGS} drawings each; build it again with "
            "'distmeta data build omniglot'"
        )
    return store


def _built_from(folder: Folder) -> Path:
    name = f"omniglot-{IMAGE_SIZE}-{BUILDER}-{fingerprint(folder)}.arrow"
    return build_once(cache_for(name) / name, lambda path: _build(folder, None, path))


def _build(folder: Folder, progress: BuildProgress | None, path: Path) -> None:
    images: list[NDArray[np.uint8]] = []
    classes: list[str] = []
    groups: list[str] = []
    with ExitStack() as stack:
        # Both archives are opened and counted before the first image is decoded.
        archives = {file: stack.enter_context(folder.archive(file, whole=True)) for file in MD5}
        members = {file: _members(archive, f"{folder.name}/{file}") for file, archive in archives.items()}
        _check_apart(members.values(), folder.name)
        total = sum(map(len, members.values()))
        for file, archive in archives.items():
            for member, part, alphabet, character in members[file]:
                images.append(_image(archive, member, f"{folder.name}/{file}"))
                classes.append(f"{alphabet}/{character}")
                groups.append(f"{part}/{alphabet}")
                if progress is not None and len(images) % DRAWINGS == 0:
                    progress(len(images), total)
    write_store(path, np.stack(images), classes, groups)


def _members(archive: zipfile.ZipFile, place: str) -> list[tuple[str, str, str, str]]:
    """(member, part, alphabet, character) of every image of an archive, in order; refused unless complete."""
    part = Path(place).stem.removeprefix("images_")
    found = [match for name in archive.namelist() if (match := _MEMBER.fullmatch(name)) and match[1] == part]
    drawings = Counter((match[2], match[3]) for match in found)
    expected = CHARACTERS[part] * DRAWINGS
    missing = expected - sum(min(count, DRAWINGS) for count in drawings.values())
    twice = [name for name, count in Counter(archive.namelist()).items() if count > 1]
    if twice:
        raise DataError(f"{place} is damaged: it holds {shown(twice[0])} twice; fetch it again")
    if missing > 0 or len(found) != expected:
        problem = (
            f"is incomplete: {missing:,} of {expected:,} images are missing"
            if missing > 0
            else f"has {len(found) - expected:,} images too many"
        )
        raise DataError(
            f"{place} {problem} (expected {CHARACTERS[part]} characters with {DRAWINGS} images each, found "
            f"{len(drawings)} characters and {len(found):,} images); fetch it again"
        )
    return sorted((match[0], match[1], match[2], match[3]) for match in found)


def _check_apart(parts: Iterable[list[tuple[str, str, str, str]]], place: str) -> None:
    both = set.intersection(*({(alphabet, character) for _, _, alphabet, character in part} for part in parts))
    if both:
        raise DataError(f"{place}: {shown('/'.join(min(both)))} is in both archives; fetch them again")


def _image(archive: zipfile.ZipFile, member: str, place: str) -> NDArray[np.uint8]:
    """One image, (28, 28) uint8, strokes 255 on 0.

    Resized with LANCZOS as MAML's released script asks; as 8-bit grey, since Pillow resizes 1-bit images
    without a filter.
    """
    from PIL import Image

    expected = (_SOURCE_SIZE, _SOURCE_SIZE)
    try:
        with archive.open(member) as packed:
            data = packed.read(_LARGEST + 1)  # unpacked as far as it is read, whatever size its directory claims
        if len(data) > _LARGEST:
            raise ValueError(f"it unpacks to more than {_LARGEST:,} bytes")
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            size = image.size
            # Only an image of the right size is decoded: a few bytes may claim to be gigabytes of pixels.
            grey = (
                image.convert("L").resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.LANCZOS)
                if size == expected
                else None
            )
    except Exception as error:  # a damaged member gives CRC, zlib, struct, syntax and other errors
        reason = shown(" ".join(str(error).split()))[1:-1]
        raise DataError(f"{place} is damaged: {shown(member)} cannot be read ({reason}); fetch it again") from None
    if grey is None:
        raise DataError(
            f"{place}: {shown(member)} is {size[0]} x {size[1]} pixels instead of {_SOURCE_SIZE} x {_SOURCE_SIZE}; "
            "fetch it again"
        )
    return 255 - np.asarray(grey)
