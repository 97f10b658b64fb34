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
from distmeta.data.verified import check_store
from distmeta.errors import ConfigError
from distmeta.objectives import Scored, objective_name, open_objective
from distmeta.tasks.base import Episode, TaskFamily, TaskSpec
from distmeta.tasks.options.table import TableOptions
from distmeta.tasks.table_fit import FittedTable, class_indices, fit_table, indices
from distmeta.tasks.table_groups import check_ways, usable_groups
from distmeta.tasks.table_scale import scaled

log = logging.getLogger(__name__)

ROWS_FILE = f"rows{TABLE_SUFFIX}"
"""Name of the store on other hosts."""


@dataclass(frozen=True)
class TableRow:
    """A row of an episode, as it stands in the table.

    Attributes:
        part: ``support`` or ``query``.
        features: the value of each feature column: a number, a list of numbers, or a category.
        targets: the value of each target column; of a classification, with the number that the learner gets.
    """

    part: str
    features: dict[str, float | str | list[float]]
    targets: dict[str, float | str | list[float]]


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
                check_ways(split, episode.ways, len(self._fitted.classes))
        self._groups = {
            split: usable_groups(self._store, splits[split], split, episode, options, self._labels)
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
        store = open_table(options.path, _columns(options))
        check_store(store)
        return {"table": store.content_hash, **split_contents(options.splits)}

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
        try:
            y = torch.as_tensor(values).double()
        except (TypeError, ValueError, RuntimeError):
            return None  # no numbers: refused where targets are checked
        if y.shape[-1:] != (len(fitted.mean),):
            return None  # likewise
        found = ((y - y.new_tensor(fitted.mean)) / y.new_tensor(fitted.scale)).float()
        large = y[~found.isfinite() & y.isfinite()]
        if len(large):
            raise ConfigError(f"y_support has {large[0]:g}, which is too large for float32 by the scale of training")
        return found

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
        support, query = (self._data(rows) for rows in self._draw(split, ids))
        return TaskBatch(torch.from_numpy(np.array(ids, dtype=np.int64)), support, query)

    def rows(self, split: Split, task: int) -> list[TableRow]:
        """What :meth:`sample` draws for a task, as it stands in the table."""
        drawn = zip(("support", "query"), self._draw(split, [task]), strict=True)
        return [
            self._row(part, int(row), at // rows.shape[-1]) for part, rows in drawn for at, row in enumerate(rows.flat)
        ]

    def _row(self, part: str, row: int, way: int) -> TableRow:
        store = self._store
        numbers, codes = iter(store.numbers[row].tolist()), iter(zip(store.categories, store.codes[row], strict=True))
        features: dict[str, float | str | list[float]] = {}
        for each in store.features:
            if each.width == 0:
                names, code = next(codes)
                features[each.name] = names[code]
            else:
                values = [next(numbers) for _ in range(each.width)]
                features[each.name] = values[0] if each.width == 1 else values
        if not store.labels:
            found = store.y[row].tolist()
            one = len(self._fitted.target) == len(found)
            targets = dict(zip(self._fitted.target, found, strict=True)) if one else {"targets": found}
            return TableRow(part, features, dict(targets))
        number = way if self._labels is None else self._labels[store.y[row]]
        return TableRow(part, features, {self._fitted.target[0]: f"{store.labels[store.y[row]]} ({number})"})

    def _draw(self, split: Split, ids: Sequence[int]) -> list[NDArray[np.int64]]:
        """Rows of the store for support and query, each (T, ways, examples), ways 1 where none are drawn."""
        episode, groups = self._episodes[split].at(ids), self._groups[split]
        at = self._which(split, ids)
        rows = self._rows(split, ids, groups.begin[at, None] + self._classes(split, ids, at, episode.ways or 1))
        return [rows[..., : episode.shots], rows[..., episode.shots :]]

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
        episode, groups = self._episodes[split].at(ids), self._groups[split]
        first = 0 if self._options.order is None else episode.shots
        count = episode.shots + episode.queries - first
        drawn = words(episode.seed, split, ids, Purpose.EXAMPLES, chosen.shape[1] * count)
        within = first + distinct(drawn.reshape(-1, count), (groups.size[chosen] - first).reshape(-1))
        early = np.broadcast_to(np.arange(first), (*chosen.shape, first))
        within = np.concatenate([early, within.reshape(*chosen.shape, count)], -1)
        rows: NDArray[np.int64] = groups.first[chosen][..., None] + within
        return rows

    def _data(self, drawn: NDArray[np.int64]) -> dict[str, torch.Tensor]:
        """``x`` and ``y`` of these rows (T, ways, examples), class by class."""
        store, fitted = self._store, self._fitted
        rows = drawn.reshape(len(drawn), -1)
        codes: NDArray[Any] = store.codes[rows]
        known = [of[codes[..., column]] for column, of in enumerate(self._codes)]

        def where(at: tuple[int, ...]) -> str:
            task = int(np.searchsorted(np.cumsum(store.counts), rows[at[:2]], side="right"))
            return f"{self._options.path}, task {shown(store.names[task])}"

        x = fitted.encode(store.numbers[rows], np.stack(known, -1) if known else codes, where)
        if not store.labels:
            mean, scale = np.array(fitted.mean), np.array(fitted.scale)
            y = scaled(store.y[rows], mean, scale, lambda at: f"{where(at)}, target {at[-1] + 1}")
            targets = torch.from_numpy(y)
        elif self._labels is not None:
            targets = torch.from_numpy(self._labels[store.y[rows]])
        else:
            targets = torch.arange(drawn.shape[1]).repeat_interleave(drawn.shape[2]).repeat(len(drawn), 1)
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
