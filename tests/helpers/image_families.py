"""An image family over a small store whose pixels say which image they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from distmeta.config.sections import TaskOptions
from distmeta.core.records import SPLITS, Split
from distmeta.data.store import EpisodeStore, write_store
from distmeta.tasks.images import ImageFamily, SplitClasses
from distmeta.tasks.options import ImageOptions

STORE = "dots.arrow"


class DotOptions(ImageOptions):
    """Settings of :class:`Dots`."""

    folder: str
    turns: int = 1


class Dots(ImageFamily):
    """The store of a folder that :func:`write_dots` has filled; its groups are the splits."""

    Options: type[TaskOptions] = DotOptions

    @classmethod
    def _open(cls, options: TaskOptions) -> tuple[EpisodeStore, Mapping[Split, SplitClasses]]:
        assert isinstance(options, DotOptions)
        store = EpisodeStore.open(Path(options.folder) / STORE)
        groups = np.array(store.groups)
        turns = range(options.turns)
        return store, {split: SplitClasses.of(np.flatnonzero(groups == split), turns) for split in SPLITS}

    @classmethod
    def holdings(cls, options: TaskOptions) -> Mapping[str, Path]:
        """The store."""
        return {STORE: Path(options.folder) / STORE}  # type: ignore[attr-defined]

    @classmethod
    def moved(cls, options: TaskOptions, folder: Path) -> TaskOptions:
        """With the store's folder."""
        return options.model_copy(update={"folder": str(folder)})


def write_dots(folder: Path, classes: int = 8, examples: int = 6, seed: int = 0) -> np.ndarray:
    """Images (48, 28, 28) of training classes, and 6 classes of 6 for validation and for test; all are random.

    Splitting the same training images into other classes leaves their order, so that nothing but classes differs.
    """
    generator = np.random.default_rng(seed)
    counts = [classes * examples, 36, 36]
    sizes = [examples, 6, 6]
    images = generator.integers(0, 256, (sum(counts), 28, 28), dtype=np.uint8)
    names, groups = [], []
    for split, count, size in zip(SPLITS, counts, sizes, strict=True):
        order = {"train": "a", "validation": "b", "test": "c"}[split]
        names += [f"{order}{index // size:03d}" for index in range(count)]
        groups += [split] * count
    folder.mkdir(exist_ok=True)
    write_store(folder / STORE, images, names, groups)
    return images
