"""Procedural characters: a small Omniglot-like data set that is drawn, not downloaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from distmeta.config.sections import TaskOptions
from distmeta.core.records import SPLITS, Split
from distmeta.data.store import EpisodeStore, write_store
from distmeta.storage.cache import build_once, cache_for
from distmeta.tasks.images import ImageFamily, SplitClasses
from distmeta.tasks.options import GlyphOptions
from distmeta.tasks.strokes import GENERATOR, draw

CLASSES: dict[Split, int] = {"train": 1000, "validation": 200, "test": 200}
EXAMPLES = 20


class Glyphs(ImageFamily):
    """Characters of 2 to 4 pen strokes: 1,000 to train, 200 to validate, 200 to test, 20 drawings each.

    The data set is fixed, the same for every seed and on every machine: a character's strokes come from its
    number, each drawing bends, turns, scales, shears and shifts them and takes a pen of its own width (see
    :mod:`distmeta.tasks.strokes`). Built once into the cache, in a few seconds.

    >>> import os, tempfile, torch
    >>> from distmeta.tasks.base import Episode
    >>> os.environ["DISTMETA_CACHE"] = tempfile.mkdtemp()
    >>> episodes = {"train": Episode(shots=1, queries=15, seed=0, ways=5)}
    >>> family = Glyphs(Glyphs.Options(kind="glyphs"), episodes, torch.device("cpu"))
    >>> family.sample("train", range(8)).query["x"].shape
    torch.Size([8, 75, 1, 28, 28])
    """

    Options: type[TaskOptions] = GlyphOptions

    @classmethod
    def _open(cls, options: TaskOptions) -> tuple[EpisodeStore, Mapping[Split, SplitClasses]]:
        name = f"glyphs-{GENERATOR}.arrow"
        store = EpisodeStore.open(build_once(cache_for(name) / name, _build))
        groups = np.array(store.groups)
        return store, {split: SplitClasses.of(np.flatnonzero(groups == split)) for split in SPLITS}


def _build(path: Path) -> None:
    split_of = np.repeat(SPLITS, [CLASSES[split] for split in SPLITS])
    images = np.concatenate([draw(range(start, start + 50), EXAMPLES) for start in range(0, len(split_of), 50)])
    names = np.array([f"glyph-{number:04d}" for number in range(len(split_of))])
    rows = np.repeat(np.arange(len(split_of)), EXAMPLES)
    write_store(path, images.reshape(-1, *images.shape[2:]), names[rows].tolist(), split_of[rows].tolist())
