"""Omniglot: handwritten characters of 50 alphabets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from distmeta.config.sections import TaskOptions
from distmeta.core.philox import Purpose, distinct, words
from distmeta.core.records import Split
from distmeta.data.omniglot_build import open_omniglot
from distmeta.data.omniglot_source import STORE
from distmeta.data.store import EpisodeStore
from distmeta.tasks.images import ImageFamily, SplitClasses
from distmeta.tasks.options import OmniglotOptions

SHUFFLED = {"vinyals": (1100, 100), "khodadadeh": (1200, 100)}
"""Characters for training and validation, of splits that shuffle them; the others are for test."""

VALIDATION_ALPHABETS = 5
_PARTITION_SEED = 0x6F6D6E69


class Omniglot(ImageFamily):
    """1,623 characters, 20 drawings each, 28 x 28, strokes 1 on 0.

    Lake, Salakhutdinov, Tenenbaum: "Human-level concept learning through probabilistic program induction",
    Science 2015.

    Splits, by name:

    - ``vinyals`` (Vinyals et al. 2016, Finn et al. 2017): the characters of both archives in one fixed
      shuffle, 1,100 for training, 100 for validation, 423 for test. The papers' own shuffles are not
      published.
    - ``khodadadeh`` (Khodadadeh et al. 2019, UMTRA): the same shuffle, 1,200 for training, 100 for validation, 323 for
      test.
    - ``alphabets``, stricter: no alphabet in two splits. Test is the 20 alphabets of the evaluation archive
      (659 characters), validation five of the background archive by a fixed shuffle (168 characters:
      Alphabet_of_the_Magi, Early_Aramaic, Gujarati, Japanese_(hiragana), Latin), training the other 25 (796
      characters).

    With ``rotations`` each character turned by 0, 90, 180 and 270 degrees (``np.rot90``) is a class of its
    own, in every split, and all four are in the same one.

    Data comes from ``tasks.root``, else ``DISTMETA_DATA``, else the official download. Opening and preparing
    raise ``DataError`` where it is missing, damaged or incomplete.
    """

    Options: type[TaskOptions] = OmniglotOptions

    @classmethod
    def _open(cls, options: TaskOptions) -> tuple[EpisodeStore, Mapping[Split, SplitClasses]]:
        assert isinstance(options, OmniglotOptions)
        store = open_omniglot(options.root)
        split = by_alphabets(store) if options.split == "alphabets" else by_characters(store, *SHUFFLED[options.split])
        rotations = range(4 if options.rotations else 1)
        return store, {name: SplitClasses.of(characters, rotations) for name, characters in split.items()}

    @classmethod
    def picture(cls, options: TaskOptions, content: bytes) -> Tensor:
        """Dark strokes on a light ground, as in the data's own files, become strokes of 1 on 0."""
        return 1 - super().picture(options, content)

    @classmethod
    def holdings(cls, options: TaskOptions) -> Mapping[str, Path]:
        """The built store."""
        assert isinstance(options, OmniglotOptions)
        return {STORE: open_omniglot(options.root).path}

    @classmethod
    def moved(cls, options: TaskOptions, folder: Path) -> TaskOptions:
        """With the store's folder as ``root``."""
        return options.model_copy(update={"root": str(folder)})


def by_characters(store: EpisodeStore, train: int, validation: int) -> dict[Split, NDArray[np.int64]]:
    """Splits of the shuffled characters, so many of them for each: indices of the store's, in order of their names."""
    order = _shuffled(len(store.classes))
    return {
        "train": np.sort(order[:train]),
        "validation": np.sort(order[train : train + validation]),
        "test": np.sort(order[train + validation :]),
    }


def by_alphabets(store: EpisodeStore) -> dict[Split, NDArray[np.int64]]:
    """The ``alphabets`` split: indices of the store's characters."""
    groups = np.array(store.groups)
    evaluation = np.char.startswith(groups, "evaluation/")
    background = np.unique(groups[~evaluation])
    held_out = background[_shuffled(len(background))[:VALIDATION_ALPHABETS]]
    validation = np.isin(groups, held_out)
    return {
        "train": np.flatnonzero(~evaluation & ~validation),
        "validation": np.flatnonzero(validation),
        "test": np.flatnonzero(evaluation),
    }


def _shuffled(n: int) -> NDArray[np.int64]:
    """A fixed permutation of 0 ... n - 1."""
    order: NDArray[np.int64] = distinct(words(_PARTITION_SEED, "train", [n], Purpose.PARTITION, n), n)[0]
    return order
