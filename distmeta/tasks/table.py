"""Tables: each row an example, and a column that says to which task it belongs."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from distmeta.config.sections import TaskOptions
from distmeta.config.splits import SplitColumn
from distmeta.core.philox import Purpose, distinct, words
from distmeta.core.quoting import shown
from distmeta.core.records import SPLITS, Inputs, Split, TaskBatch, TensorSpec
from distmeta.data.splits import moved_splits, split_contents, split_files, split_names
from distmeta.data.table_build import open_table
from distmeta.data.table_store import TABLE_SUFFIX, TableColumns, TableStore
from distmeta.errors import ConfigError, DataError
from distmeta.objectives import Scored, objective_name, open_objective
from distmeta.tasks.base import Episode, TaskFamily, TaskSpec
from distmeta.tasks.options.table import TableOptions
from distmeta.tasks.table_fit import FittedTable, class_indices, fit_table, indices

log = logging.getLogger(__name__)

ROWS_FILE = f"rows{TABLE_SUFFIX}"
"""Name of the store on other hosts."""


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


class Table(TaskFamily):
    """Tasks of a table (Parquet or CSV): regression, or classification of each task's own classes or of shared ones.

    Every training task comes once an epoch, in an order keyed by the seed, and so does every meta-validation and
    meta-test task; which of its rows are support and query is drawn anew each time. Rows come from a memory-mapped
    store, which is built once a host, so that a batch costs no more than its rows, however many tasks there are.

    Support and query hold ``x`` (T, N, F) float32, numbers standardised and categories one-hot, and ``y``: (T, N, D)
    float32, standardised, or (T, N) int64 classes.
    """

    Options: type[TaskOptions] = TableOptions

    def __init__(self, options: TaskOptions, episodes: Mapping[Split, Episode], device: torch.device) -> None:
        assert isinstance(options, TableOptions)
        self._options, self._episodes, self._device = options, dict(episodes), device
        self._store, splits = _open(options)
        self._fitted = _fitted(options)
        names = [each.categories for each in self._fitted.columns if each.categories is not None]
        self._codes = [indices(known, kept) for known, kept in zip(self._store.categories, names, strict=True)]
        self._labels: NDArray[np.int64] | None = None
        if self._fitted.classes is not None:
            self._labels = indices(self._store.labels, self._fitted.classes)
            for split, episode in episodes.items():
                _check_ways(split, episode.ways, len(self._fitted.classes))
        self._groups = {
            split: _usable(self._store, splits[split], split, episode, options, self._labels)
            for split, episode in episodes.items()
        }
        self._epochs: dict[tuple[Split, int], NDArray[np.int64]] = {}

    @classmethod
    def prepare(cls, options: TaskOptions, episodes: Mapping[Split, Episode]) -> None:
        """Build the store where there is none yet; say how many tasks have too few rows."""
        family = cls(options, episodes, torch.device("cpu"))
        _, splits = _open(family._options)
        for split, groups in family._groups.items():
            left_out = len(splits[split]) - len(groups.tasks)
            if left_out:
                log.info(
                    "%s: %s of %s %s tasks have too few rows for an episode and are left out",
                    family._options.path,
                    f"{left_out:,}",
                    f"{len(splits[split]):,}",
                    split,
                )

    @classmethod
    def fit(cls, options: TaskOptions, episodes: Mapping[Split, Episode]) -> Mapping[str, Any]:
        """Names, scales, categories and classes, of all rows of the training tasks."""
        assert isinstance(options, TableOptions)
        store, splits = _open(options)
        return fit_table(store, splits["train"], options, _is_scaled(options)).model_dump(exclude_defaults=True)

    @classmethod
    def holdings(cls, options: TaskOptions) -> Mapping[str, Path]:
        """The store, and files of names."""
        assert isinstance(options, TableOptions)
        return {ROWS_FILE: open_table(options.path, _columns(options)).path, **split_files(options.splits)}

    @classmethod
    def contents(cls, options: TaskOptions) -> Mapping[str, str]:
        """Hashes of the rows that are used and of files of names."""
        assert isinstance(options, TableOptions)
        return {"table": open_table(options.path, _columns(options)).content_hash, **split_contents(options.splits)}

    @classmethod
    def moved(cls, options: TaskOptions, folder: Path) -> TaskOptions:
        """With the store in this folder as ``path``."""
        assert isinstance(options, TableOptions)
        splits = moved_splits(options.splits, folder)
        return options.model_copy(update={"path": str(folder / ROWS_FILE), "splits": splits})

    @classmethod
    def spec(cls, options: TaskOptions) -> TaskSpec:
        """The features as one row of numbers, and the target's numbers or classes."""
        assert isinstance(options, TableOptions)
        fitted = _fitted(options)
        if not _is_classification(options):
            scale = tuple(fitted.scale) if _is_scaled(options) else None
            return TaskSpec(TensorSpec((fitted.width,)), len(fitted.scale), scale=scale, unit=options.unit)
        outputs = len(fitted.classes) if fitted.classes is not None else options.ways
        assert outputs is not None
        return TaskSpec(TensorSpec((fitted.width,)), outputs)

    # What users of a trained model give and get -------------------------------------------------------------------

    @classmethod
    def encode(cls, options: TaskOptions, values: Any) -> Inputs:
        """Columns by name, or raw numbers (N, F), as the network gets them."""
        assert isinstance(options, TableOptions)
        return torch.from_numpy(_fitted(options).rows(values))

    @classmethod
    def encode_targets(cls, options: TaskOptions, values: Any) -> torch.Tensor | None:
        """Targets in the user's unit, standardised; classes that tasks share, by their index."""
        assert isinstance(options, TableOptions)
        fitted = _fitted(options)
        if fitted.classes is not None:
            return torch.from_numpy(class_indices(values, fitted.classes, "y_support"))
        if not _is_scaled(options):
            return None
        y = torch.as_tensor(values).double()
        return ((y - y.new_tensor(fitted.mean)) / y.new_tensor(fitted.scale)).float()

    @classmethod
    def decode(cls, options: TaskOptions, outputs: torch.Tensor) -> torch.Tensor:
        """Predicted values in the user's unit; logits, and outputs that are not the values themselves, as they are."""
        assert isinstance(options, TableOptions)
        fitted = _fitted(options)
        if not _is_scaled(options) or outputs.shape[-1] != len(fitted.scale):
            return outputs
        return outputs * outputs.new_tensor(fitted.scale) + outputs.new_tensor(fitted.mean)

    # Episodes -----------------------------------------------------------------------------------------------------

    def sample(self, split: Split, ids: Sequence[int]) -> TaskBatch:
        """These tasks, on the family's device; a task depends on (seed, split, id) alone."""
        episode, groups = self._episodes[split], self._groups[split]
        at = self._which(split, ids)
        ways = episode.ways or 1
        chosen = groups.begin[at, None] + self._classes(split, ids, at, ways)
        rows = self._rows(split, ids, chosen)  # (T, ways, shots + queries)
        support, query = (
            self._data(part.reshape(len(rows), -1), groups.label[chosen])
            for part in (rows[..., : episode.shots], rows[..., episode.shots :])
        )
        return TaskBatch(torch.from_numpy(np.array(ids, dtype=np.int64)), support, query)

    def name(self, split: Split, task: int) -> str:
        """The name in the table of a task's task."""
        return str(self._store.names[self._groups[split].tasks[self._which(split, [task])[0]]])

    def _which(self, split: Split, ids: Sequence[int]) -> NDArray[np.int64]:
        """The usable tasks, by number: each once an epoch."""
        count = len(self._groups[split].tasks)
        found = np.empty(len(ids), np.int64)
        for place, task in enumerate(ids):
            epoch, at = divmod(int(task), count)
            found[place] = self._epoch(split, epoch, count)[at]
        return found

    def _epoch(self, split: Split, epoch: int, count: int) -> NDArray[np.int64]:
        """The order of an epoch, kept while it is drawn from."""
        key = (split, epoch)
        if key not in self._epochs:
            drawn = words(self._episodes[split].seed, split, [epoch], Purpose.PARTITION, count)[0]
            while len(self._epochs) >= 2 * len(SPLITS):
                self._epochs.pop(next(iter(self._epochs)))
            self._epochs[key] = np.argsort(drawn, kind="stable")
        return self._epochs[key]

    def _classes(self, split: Split, ids: Sequence[int], at: NDArray[np.int64], ways: int) -> NDArray[np.int64]:
        """Which of its groups each task uses (T, ways): drawn, or all in their order where tasks share the classes."""
        if self._episodes[split].ways is None or self._labels is not None:
            return np.broadcast_to(np.arange(ways), (len(at), ways))
        drawn = words(self._episodes[split].seed, split, ids, Purpose.CLASSES, ways)
        return distinct(drawn, self._groups[split].count[at])

    def _rows(self, split: Split, ids: Sequence[int], chosen: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of the store (T, ways, shots + queries): distinct ones of each group, the support set's first."""
        episode, groups = self._episodes[split], self._groups[split]
        first = 0 if self._options.order is None else episode.shots
        count = episode.shots + episode.queries - first
        drawn = words(episode.seed, split, ids, Purpose.EXAMPLES, chosen.shape[1] * count)
        within = first + distinct(drawn.reshape(-1, count), (groups.size[chosen] - first).reshape(-1))
        early = np.broadcast_to(np.arange(first), (*chosen.shape, first))
        within = np.concatenate([early, within.reshape(*chosen.shape, count)], -1)
        rows: NDArray[np.int64] = groups.first[chosen][..., None] + within
        return rows

    def _data(self, rows: NDArray[np.int64], labels: NDArray[np.int64]) -> dict[str, torch.Tensor]:
        """``x`` and ``y`` of these rows (T, N)."""
        store, fitted = self._store, self._fitted
        codes: NDArray[Any] = store.codes[rows]
        known = [of[codes[..., column]] for column, of in enumerate(self._codes)]
        x = fitted.encode(store.numbers[rows], np.stack(known, -1) if known else codes)
        if not store.labels:
            y = (store.y[rows] - np.array(fitted.mean)) / np.array(fitted.scale)
            targets = torch.from_numpy(y.astype(np.float32))
        elif self._labels is not None:
            targets = torch.from_numpy(self._labels[store.y[rows]])
        else:
            ways = labels.shape[1]
            targets = torch.arange(ways).repeat_interleave(rows.shape[1] // ways).repeat(len(rows), 1)
        return {"x": torch.from_numpy(x).to(self._device), "y": targets.to(self._device)}


def _fitted(options: TableOptions) -> FittedTable:
    """What the training tasks teach: as the options carry it, or learned now."""
    carried = options if options.fitted is not None else options.with_fitted(Table.fit(options, {}))
    return FittedTable.of(carried)


def _is_classification(options: TableOptions) -> bool:
    return open_objective(options.objective).classes


def _is_scaled(options: TableOptions) -> bool:
    """Whether targets are standardised: numbers without bounds, whose metrics are told in the user's unit."""
    objective = open_objective(options.objective)
    plain = isinstance(objective, Scored) and objective.kind == "values" and objective.bounds == (None, None)
    return options.standardise and plain


def _columns(options: TableOptions) -> TableColumns:
    """What is taken of the table.

    Raises:
        ConfigError: settings that make no sense with the objective.
    """
    classes = _is_classification(options)
    if classes and len(options.target) > 1:
        raise ConfigError(f"tasks.target names {len(options.target)} columns, and classes stand in one; name one")
    if classes and options.ways is None and options.classes == "each":
        raise ConfigError(
            "tasks.ways: a table with classes of each task needs the number of classes of an episode; set tasks.ways, "
            "or tasks.classes=all where all tasks share their classes"
        )
    if not classes and options.ways is not None:
        raise ConfigError(
            f"tasks.ways = {options.ways}: tasks.objective = {objective_name(options.objective)} is no classification; "
            "leave it out"
        )
    return TableColumns(
        options.task,
        options.target,
        options.features,
        options.categories,
        classes,
        options.ways is not None,
        options.order,
        options.splits.column if isinstance(options.splits, SplitColumn) else None,
        options.most_categories,
    )


def _open(options: TableOptions) -> tuple[TableStore, dict[Split, NDArray[np.int64]]]:
    store = open_table(options.path, _columns(options))
    column = None if store.splits is None else dict(zip(store.names, store.splits, strict=True))
    return store, split_names(store.names, options.splits, options.path, "task", column)


def _usable(
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


def _check_ways(split: Split, ways: int | None, classes: int) -> None:
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
