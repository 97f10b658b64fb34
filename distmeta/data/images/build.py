"""Building an episode store from a source of images: in parallel, in little memory, whole or not at all."""

from __future__ import annotations

import hashlib
import logging
import os
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distmeta.core.advance import LoggedAdvance
from distmeta.core.quoting import shown
from distmeta.core.records import SPLITS
from distmeta.core.secrets import mask
from distmeta.data.images.pixels import pixels
from distmeta.data.images.sources import ImageEntry, ImageSource
from distmeta.data.store import EpisodeStore, write_pieces
from distmeta.errors import DataError
from distmeta.storage.cache import build_once, cache_for

log = logging.getLogger(__name__)

IMAGES_BUILDER = "2"
"""Version of how images are made; a change makes a new file in the cache."""

PIECE = 2**26
"""Bytes of images that are in memory at once, and of a record batch; a data set of up to ``WHOLE`` bytes is one."""

WHOLE = 2**28
"""So many bytes in one piece can be mapped by workers as one array."""

DAMAGED_SHOWN = 10
"""Damaged files that a message names; then building ends."""

_AT_ONCE = 512

BuildAdvance = Callable[[int, int], None]
"""Called with (images done, images in all)."""

ClassPlacement = Callable[[Sequence[str]], Mapping[str, str]]
"""Gives the split of each class of these that belongs to one."""


@dataclass(frozen=True)
class StoreSettings:
    """What a store holds of its images.

    Attributes:
        size: (height, width); ``None`` where all images have one size of their own.
        channels: 1 or 3.
        merged: whether a class may stand in the folders of several splits, since splits are given otherwise.
    """

    size: tuple[int, int] | None = None
    channels: int = 3
    merged: bool = False


def build_images(
    source: ImageSource,
    path: Path,
    settings: StoreSettings,
    advance: BuildAdvance | None = None,
    placement: ClassPlacement | None = None,
) -> None:
    """Build a store.

    Args:
        source: where the images are.
        path: of the store; an old one is replaced.
        settings: what it holds.
        advance: called as images are done; without it, log messages say how far it is.
        placement: the splits that the store keeps, instead of those of the source.

    Raises:
        DataError: nothing to read, damaged files (as many as a message holds are named), images of several sizes
            where no size is set, a class in two splits; nothing is left behind.
    """
    with ExitStack() as stack, _threads() as pool:
        classes = _by_class(source.entries(stack), source.name, settings.merged)
        entries = [entry for of_class in classes.values() for entry in of_class]
        labels = list(classes)
        groups = ["" if settings.merged else of_class[0].split for of_class in classes.values()]
        if placement is not None:
            placed = placement(labels)
            groups = [placed.get(label, "") for label in labels]
        log.info("building a store of %s images of %s classes from %s", f"{len(entries):,}", len(labels), source.name)
        job = _Job(source.name, settings, len(entries), advance or LoggedAdvance(log, source.name, "images"))
        shape = job.shape_of(entries)
        write_pieces(
            path,
            job.pieces(entries, shape, pool),
            shape,
            labels,
            groups,
            [len(of_class) for of_class in classes.values()],
        )


def built_images(source: ImageSource, settings: StoreSettings) -> EpisodeStore:
    """The store of a source, built once a host into the cache, under a hash of the source and the settings."""
    parts = f"{source.fingerprint()} {settings.size} {settings.channels} {settings.merged}"
    name = f"images-{IMAGES_BUILDER}-{hashlib.sha256(parts.encode()).hexdigest()[:16]}.arrow"
    return EpisodeStore.open(build_once(cache_for(name) / name, lambda path: build_images(source, path, settings)))


class _Job:
    """The images of one build, loaded in order by several threads."""

    def __init__(self, name: str, settings: StoreSettings, total: int, advance: BuildAdvance) -> None:
        self._name, self._settings, self._total, self._advance = name, settings, total, advance
        self._bad: list[str] = []

    def shape_of(self, entries: Sequence[ImageEntry]) -> tuple[int, ...]:
        """(H, W) or (H, W, 3) of all images: from the settings, else that of the first one that can be read."""
        if self._settings.size is not None:
            return (*self._settings.size, *([3] if self._settings.channels == 3 else []))
        for entry in entries:
            found = self._load(entry, None)
            if not isinstance(found, str):
                return found.shape
            self._note(found)
        raise self._refusal()

    def pieces(
        self, entries: Sequence[ImageEntry], shape: tuple[int, ...], pool: ThreadPoolExecutor
    ) -> Iterator[NDArray[np.uint8]]:
        """The images, as many at a time as stand in a record batch."""
        self._bad.clear()
        each = int(np.prod(shape))
        whole = len(entries) * each <= WHOLE
        count = len(entries) if whole else max(1, PIECE // each)
        for first in range(0, len(entries), count):
            part = entries[first : first + count]
            piece = np.empty((len(part), *shape), np.uint8)
            for start in range(0, len(part), _AT_ONCE):
                some = part[start : start + _AT_ONCE]
                for at, found in enumerate(pool.map(lambda entry: self._load(entry, shape), some), start):
                    if isinstance(found, str):
                        self._note(found)
                    else:
                        piece[at] = found
                self._advance(first + start + len(some), self._total)
            yield piece
        if self._bad:
            raise self._refusal()

    def _load(self, entry: ImageEntry, shape: tuple[int, ...] | None) -> NDArray[np.uint8] | str:
        """An image, or what is wrong with it."""
        try:
            found = pixels(entry.load(), self._settings.size, self._settings.channels)
        except Exception as error:  # damaged files give CRC, zlib, struct, syntax and other errors
            reason = mask(getattr(error, "strerror", None) or " ".join(str(error).split()))
            return f"{shown(entry.name)} cannot be read ({shown(reason)[1:-1]})"
        if shape is not None and found.shape != shape:
            (height, width), (expected, wide) = found.shape[:2], shape[:2]
            return (
                f"{shown(entry.name)} is {width} x {height} pixels, others are {wide} x {expected}: set tasks.size, "
                "to which all are resized"
            )
        return found

    def _note(self, problem: str) -> None:
        self._bad.append(problem)
        if len(self._bad) == DAMAGED_SHOWN:
            raise self._refusal()

    def _refusal(self) -> DataError:
        if len(self._bad) == 1:
            return DataError(f"{self._name}: {self._bad[0]}; mend or remove it")
        more = " (and perhaps more)" if len(self._bad) == DAMAGED_SHOWN else ""
        lines = "".join(f"\n  {problem}" for problem in self._bad)
        return DataError(f"{self._name}: {len(self._bad)} images{more} cannot be used; mend or remove them:{lines}")


def _by_class(entries: Sequence[ImageEntry], name: str, merged: bool) -> dict[str, list[ImageEntry]]:
    """The images of each class, in the order of the names of classes; the order within a class stays.

    Raises:
        DataError: a class in two splits, also under a name in other capitals.
    """
    found: dict[str, list[ImageEntry]] = defaultdict(list)
    for entry in entries:
        found[entry.label].append(entry)
    lowered: dict[str, str] = {}
    for label, of_class in found.items():
        splits = {entry.split for entry in of_class}
        twin = lowered.setdefault(label.casefold(), label)
        both = splits | {entry.split for entry in found[twin]}
        if len(both) > 1 and not merged:
            names = f"class {shown(label)} stands"
            if twin != label:
                names = (
                    f"classes {' and '.join(map(shown, sorted((twin, label))))}, which differ only in capitals, stand"
                )
            first, second = sorted(both, key=lambda split: [*SPLITS, ""].index(split))[:2]
            raise DataError(
                f"{name}: the {names} in {first} and in {second}; a class belongs to one split. Rename or move one, or "
                "give tasks.splits, by which classes are joined"
            )
        if twin != label:
            log.warning("%s: the classes %s and %s differ only in capitals", name, shown(twin), shown(label))
    return {label: found[label] for label in sorted(found)}


@contextmanager
def _threads() -> Iterator[ThreadPoolExecutor]:
    """As many threads as there are cores: Pillow decodes without Python's lock."""
    pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)), thread_name_prefix="decode")
    try:
        with warnings.catch_warnings():
            # Images with too many pixels are refused by our own limit, which is lower than that of Pillow's warning.
            warnings.simplefilter("ignore")
            yield pool
    finally:
        pool.shutdown(cancel_futures=True)
