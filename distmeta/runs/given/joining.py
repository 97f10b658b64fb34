"""Support sets and queries of the same tasks, joined by name and turned into what a learner takes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distmeta.config.problems import suggest
from distmeta.core.quoting import shown
from distmeta.core.records import TensorSpec
from distmeta.errors import ConfigError, DataError
from distmeta.runs.adapting import GivenTask
from distmeta.runs.class_labels import label_indices, own_classes, shared_classes
from distmeta.runs.given.arrays import GivenArrays
from distmeta.runs.given.base import ONE, GivenExamples, Reader
from distmeta.runs.given.images import GivenImages
from distmeta.runs.given.rows import GivenColumns, GivenRows
from distmeta.runs.inference import MetaLearner
from distmeta.runs.input_kinds import input_kind
from distmeta.runs.policies import PolicyLearner
from distmeta.tasks import TASKS
from distmeta.tasks.options import TableOptions
from distmeta.tasks.table_fit import FittedTable

_MOST_NAMED = 10
"""Tasks that a message names."""


@dataclass(frozen=True)
class Told:
    """A task, for people.

    Attributes:
        name: as the files have it.
        rows: of the queries.
        classes: what the class indices stand for; ``None`` where there are none.
        targets: of the queries where they are known: class indices (N,) or values (N, D).
    """

    name: str
    rows: Sequence[str | int]
    classes: Sequence[Any] | None
    targets: Tensor | None


class GivenTasks:
    """Tasks of files, read one by one.

    Args:
        learner: that they are for.
        support: reader of the support sets.
        query: reader of the queries.

    Raises:
        DataError: naming the task that has no support set, or no labels.
    """

    def __init__(self, learner: MetaLearner, support: Reader, query: Reader) -> None:
        self._learner, self._support, self._query = learner, support, query
        self._classes = learner.parts.objective.classes
        self._shared = shared_classes(learner)
        for one, other in ((support, query), (query, support)):
            if ONE in one.tasks and ONE not in other.tasks:
                raise DataError(
                    f"{one.place} has no {one.naming}, and {other.place} has one, with {_few(other.tasks)}: name the "
                    "tasks in both, or in neither where there is one"
                )
        self._supports = {name: self._support_of(name) for name in query.tasks}

    def __len__(self) -> int:
        return len(self._query.tasks)

    def tasks(self) -> Iterator[GivenTask]:
        """What :func:`~distmeta.runs.adapting.adapt` takes, in the order of the queries."""
        for name, query in self._query.tasks.items():
            support = self._supports[name]
            yield self._support.inputs(support), self._targets(name), self._query.inputs(query)

    def told(self) -> Iterator[Told]:
        """The same tasks, for people."""
        for name, query in self._query.tasks.items():
            classes = self._names(name) if self._classes else None
            targets = None if query.labels is None else self._known(name, self._query, query, classes)
            yield Told(name, query.rows, classes, targets)

    def name(self, number: int) -> str:
        """Of a task, by its number."""
        return list(self._query.tasks)[number]

    def refused(self, number: int, problem: str) -> DataError:
        """What the learner refused of a task, with the task's name and the file that it is in, as far as that shows."""
        name = self.name(number)
        of_support = problem.startswith(("x_support", "y_support", "the support set"))
        place = self._support.place if of_support else self._query.place if re.match(r"x\b", problem) else ""
        words = [*([place] if place else []), *([] if name == ONE else [f"task {name}"])]
        return DataError(": ".join(filter(None, [", ".join(words), problem])))

    def check_out(self, out: Path) -> None:
        """Refuse a file to write that is one of those that are read."""
        for reader, option in ((self._support, "--support"), (self._query, "--query")):
            if reader.takes(out):
                raise DataError(f"--out = {out} is what {option} = {reader.place} reads; name another file to write")

    def close(self) -> None:
        """End what was opened."""
        self._support.close()
        self._query.close()

    def _support_of(self, name: str) -> GivenExamples:
        """The support set of a task, which may be 1 in one file and the text 1.0 in the other."""
        tasks = self._support.tasks
        if name in tasks:
            return tasks[name]
        whole = [name.removesuffix(".0"), f"{name}.0"]
        like = [each for each in whole if each != name and each in tasks and each not in self._query.tasks]
        if len(like) == 1 and re.fullmatch(r"-?\d+", like[0].removesuffix(".0")):
            return tasks[like[0]]
        raise DataError(
            f"{self._query.place}: task {shown(name)} has no support set in {self._support.place}"
            f"{suggest(name, tasks) if len(tasks) <= _MOST_NAMED else f'; there are {_few(tasks)}'}"
        )

    def _names(self, name: str) -> list[Any]:
        """What class indices stand for: the labels, sorted; of classes that all tasks share, these."""
        if self._shared is not None:
            return self._shared
        labels = self._supports[name].labels
        assert labels is not None
        return own_classes(labels)

    def _targets(self, name: str) -> Any:
        support = self._supports[name]
        if support.labels is None:
            of_task = "" if name == ONE else f" of task {shown(name)}"
            raise DataError(f"{self._support.place}: the support set{of_task} has no labels")
        if not self._classes:
            return _values(support, self._support.place)
        indices = self._known(name, self._support, support, self._names(name))
        if self._shared is None:
            return indices
        return [self._shared[index] for index in indices.tolist()]  # the family takes names of shared classes

    def _known(self, name: str, reader: Reader, given: GivenExamples, classes: Sequence[Any] | None) -> Tensor:
        assert given.labels is not None
        if classes is None:
            return _values(given, reader.place)
        try:
            return label_indices(given.labels, classes)
        except KeyError as error:
            label, at = error.args
            lacking = "its support set has not" if self._shared is None else "no training task has"
            label = label.item() if isinstance(label, np.generic) else label
            raise DataError(
                f"{reader.place}, {_row(given.rows[at])}: {_task(name)} has the class {shown(label)}, which {lacking}; "
                f"there are {', '.join(map(str, classes))}"
            ) from None


def open_tasks(learner: MetaLearner, support: str, query: str) -> GivenTasks:
    """The tasks of files as the learner's own were: images, a table, texts; NumPy's arrays for all others.

    Args:
        learner: that they are for.
        support: path or URI of the support sets, with labels.
        query: of the queries; labels, where there are any, are what predictions are compared with.

    Raises:
        DataError: a file is missing, damaged or lacks something; the message names it.
        ConfigError: the learner's tasks cannot be given as files.
    """
    if isinstance(learner, PolicyLearner):
        raise ConfigError("a policy adapts by acting in its task: distmeta.load(RUN).adapt(collect), in Python")
    first = _reader(learner, support, labelled=True, several=None)
    try:
        second = _reader(learner, query, labelled=False, several=len(first.tasks) > 1)
    except BaseException:
        first.close()
        raise
    return GivenTasks(learner, first, second)


def one_support(learner: MetaLearner, support: str) -> tuple[Any, Any]:
    """The support set of the one task of a file, as :meth:`~distmeta.runs.inference.MetaLearner.adapt` takes it.

    Raises:
        DataError: there are several tasks, or it is damaged.
    """
    reader = _reader(learner, support, labelled=True, several=None)
    try:
        if len(reader.tasks) != 1:
            raise DataError(f"{support} holds {len(reader.tasks):,} tasks; give the support set of one")
        given = GivenTasks(learner, reader, reader)
        x, y, _ = next(given.tasks())
        return x, y
    finally:
        reader.close()


def _reader(learner: MetaLearner, place: str, *, labelled: bool, several: bool | None) -> Reader:
    options, inputs = learner.config.tasks, learner.parts.spec.inputs
    option = "--support" if labelled else "--query"
    if place.lower().endswith(".npz"):
        names = ["x"] if isinstance(inputs, TensorSpec) else list(inputs)
        return GivenArrays(place, names, labelled, learner.parts.objective.classes)
    classes = learner.parts.objective.classes
    if isinstance(options, TableOptions):
        columns = GivenColumns(options.task, tuple(options.target), classes, tuple(FittedTable.of(options).columns))
        return GivenRows(place, columns, labelled=labelled, kind=option)
    kind = input_kind(options, inputs)
    if kind == "texts":
        text, label = getattr(options, "text", "text"), getattr(options, "label", "label")
        return GivenRows(place, GivenColumns("task", (label,), classes, text=text), labelled=labelled, kind=option)
    decode = TASKS[options.kind].picture
    if kind == "images":
        return GivenImages(place, partial(decode, options), labelled, several)
    raise ConfigError(f"{option} = {place}: tasks.kind = {options.kind} takes a NumPy file (.npz) with x, y and task")


def _values(given: GivenExamples, place: str) -> Tensor:
    """(N, D) numbers."""
    rows, width = [], None
    for at, label in zip(given.rows, given.labels or (), strict=True):
        try:
            row = np.asarray(label, dtype=np.float64).reshape(-1)
        except (TypeError, ValueError):
            raise DataError(f"{place}, {_row(at)}: targets should be numbers, and {shown(label)} is none") from None
        if not np.isfinite(row).all():
            raise DataError(f"{place}, {_row(at)}: targets should be finite numbers, and {shown(label)} is none")
        if width not in (None, len(row)):
            raise DataError(f"{place}, {_row(at)}: {len(row)} numbers in the target, where rows before have {width}")
        width = len(row)
        rows.append(row)
    return torch.tensor(np.stack(rows))


def _row(row: str | int) -> str:
    return f"row {row:,}" if isinstance(row, int) else shown(row)


def _task(name: str) -> str:
    return "the task" if name == ONE else f"task {shown(name)}"


def _few(names: Iterable[str]) -> str:
    """Names of tasks, as many as a message holds."""
    known = list(names)
    more = len(known) - _MOST_NAMED
    return ", ".join(map(shown, known[:_MOST_NAMED])) + (f" and {more:,} more" if more > 0 else "")
