"""Drawing a classification task's classes and examples, whatever these are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from distmeta.core.philox import Purpose, distinct, words
from distmeta.core.quoting import shown
from distmeta.core.records import Split
from distmeta.errors import ConfigError
from distmeta.tasks.base import Episode


def draw_examples(
    episode: Episode, split: Split, ids: Sequence[int], counts: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """``ways`` distinct classes for each task, and of each of them ``shots + queries`` distinct examples.

    Args:
        episode: the sizes and the seed.
        split: of the tasks.
        ids: T task ids.
        counts: (C,) examples of each class of the split.

    Returns:
        (T, ways) classes of the split, and (T, ways, shots + queries) examples of these, 0 ... count - 1.

    >>> chosen, examples = draw_examples(Episode(1, 2, seed=0, ways=2), "train", [5], np.array([9, 9, 9]))
    >>> chosen.tolist(), examples.shape
    ([[2, 0]], (1, 2, 3))
    """
    assert episode.ways is not None
    tasks, size = len(ids), episode.shots + episode.queries
    chosen = distinct(words(episode.seed, split, ids, Purpose.CLASSES, episode.ways), len(counts))
    drawn = words(episode.seed, split, ids, Purpose.EXAMPLES, episode.ways * size)
    examples = distinct(drawn.reshape(-1, size), counts[chosen].reshape(-1))
    return chosen, examples.reshape(tasks, episode.ways, size)


def check_episode(split: Split, episode: Episode, counts: NDArray[np.int64], names: Sequence[str], what: str) -> None:
    """Refuse an episode that asks for more classes or more examples than a split has.

    Args:
        split: which.
        episode: of this split.
        counts: (C,) examples of each of its classes.
        names: of these classes.
        what: examples, in the plural.

    Raises:
        ConfigError: naming the setting, the split, the class and the numbers.
    """
    section = "tasks" if split == "train" else "evaluation"
    inherited = "" if split == "train" else " (what is not set is as in tasks)"
    if episode.ways is None or episode.ways > len(counts):
        most = f"2 to {len(counts):,}" if len(counts) > 2 else "2"
        fewer = f"use {most} ways, or " if len(counts) > 1 else "a task needs at least 2: "
        raise ConfigError(
            f"{section}.ways = {episode.ways}{inherited}: the {split} split has {len(counts):,} "
            f"{'class' if len(counts) == 1 else 'classes'}; {fewer}give the split more classes, such as by a larger "
            "fraction under tasks.splits"
        )
    least = int(counts.argmin())
    if episode.shots + episode.queries > counts[least]:
        short = int((counts < episode.shots + episode.queries).sum())
        others = f" ({short:,} classes have too few)" if short > 1 else ""
        number = f"{counts[least]:,} {what.removesuffix('s') if counts[least] == 1 else what}"
        raise ConfigError(
            f"{section}.shots + {section}.queries = {episode.shots} + {episode.queries} = "
            f"{episode.shots + episode.queries}{inherited}: the class {shown(names[least])} of the {split} split has "
            f"{number}{others}; ask for at most that many together, or leave such classes out"
        )
