"""Which rows of a table an episode may take: those of a task, or of a class of a task, where there are enough."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distmeta.core.quoting import shown
from distmeta.core.records import Split
from distmeta.data.table_store import TableStore
from distmeta.errors import ConfigError, DataError
from distmeta.tasks.base import Episode
from distmeta.tasks.options.table import TableOptions


@dataclass(frozen=True)
class RowGroups:
    """Rows that stand side by side: those of a task, or of a class of a task; the ones a split can use.

    Attributes:
        tasks: (T,) int64, the tasks, by their place in the store.
        begin: (T,) int64, the first group of each.
        count: (T,) int64, how many groups each has; 1 where they are the tasks themselves.
        first: (G,) int64, the first row of each group.
        size: (G,) int64, its rows.
        label: (G,) int64, its class, where groups are classes.
    """

    tasks: NDArray[np.int64]
    begin: NDArray[np.int64]
    count: NDArray[np.int64]
    first: NDArray[np.int64]
    size: NDArray[np.int64]
    label: NDArray[np.int64]


def usable_groups(
    store: TableStore,
    tasks: NDArray[np.int64],
    split: Split,
    episode: Episode,
    options: TableOptions,
    known: NDArray[np.int64] | None,
) -> RowGroups:
    """The tasks of a split that have rows enough, as an episode takes them.

    Raises:
        ConfigError: no task has.
        DataError: a class that no training task has.
    """
    rows = episode.shots + episode.queries
    if episode.ways is None:
        good = tasks[store.counts[tasks] >= rows]
        one = np.ones(len(good), np.int64)
        groups = RowGroups(good, np.arange(len(good)), one, store.first[good], store.counts[good], one)
        if known is not None:
            _check_classes(store, good, known)
    else:
        groups = _by_class(store, tasks, rows, episode.ways)
        if known is not None and (known[groups.label] < 0).any():
            _refuse_class(store, groups.label[known[groups.label] < 0][0])
    if len(groups.tasks) == 0:
        section = "tasks" if split == "train" else "evaluation"
        each = f" of each of {episode.ways} classes" if episode.ways else ""
        raise ConfigError(
            f"{section}.shots + {section}.queries = {episode.shots} + {episode.queries} = {rows}: none of the "
            f"{len(tasks):,} {split} tasks of {options.path} has so many rows{each}; ask for fewer"
        )
    return groups


def check_ways(split: Split, ways: int | None, classes: int) -> None:
    """Refuse a number of ways that is not that of the classes, where all tasks share them."""
    if ways not in (None, classes):
        section = "tasks" if split == "train" else "evaluation"
        raise ConfigError(
            f"{section}.ways = {ways}: with tasks.classes = all every episode has all of the {classes} classes; set it "
            f"to {classes}, or leave it out so that rows are drawn whatever their class"
        )


def _by_class(store: TableStore, tasks: NDArray[np.int64], rows: int, ways: int) -> RowGroups:
    """The classes with rows enough, of tasks with classes enough."""
    of_row = np.repeat(np.arange(len(store.counts)), store.counts)
    starts = np.flatnonzero((np.diff(store.y, prepend=-1) != 0) | (np.diff(of_row, prepend=-1) != 0))
    size = np.diff(starts, append=len(store.y))
    task = of_row[starts]
    wanted = np.zeros(len(store.counts), bool)
    wanted[tasks] = True
    good = (size >= rows) & wanted[task]
    enough = np.bincount(task[good], minlength=len(store.counts)) >= ways
    good &= enough[task]
    names, begin, count = np.unique(task[good], return_index=True, return_counts=True)
    return RowGroups(names, begin, count, starts[good], size[good], store.y[starts[good]].astype(np.int64))


def _check_classes(store: TableStore, tasks: NDArray[np.int64], known: NDArray[np.int64]) -> None:
    wanted = np.zeros(len(store.counts), bool)
    wanted[tasks] = True
    for rows, of_row in store.blocks():
        labels = store.y[rows][wanted[of_row]]
        if len(labels) and known[labels].min() < 0:
            _refuse_class(store, labels[known[labels] < 0][0])


def _refuse_class(store: TableStore, label: int | np.integer[Any]) -> None:
    raise DataError(
        f"the class {shown(store.labels[int(label)])} stands in tasks for validation or test, and in no training task; "
        "with tasks.classes=all every class needs training tasks"
    )
