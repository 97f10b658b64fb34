"""Support sets and queries of the same tasks, joined by name and turned into what a learner takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
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
from distmeta.runs.given.base import GivenExamples, Reader
from distmeta.runs.given.images import GivenImages
from distmeta.runs.given.rows import GivenRows
from distmeta.runs.inference import MetaLearner
from distmeta.runs.input_kinds import input_kind
from distmeta.runs.policies import PolicyLearner
from distmeta.tasks import TASKS
from distmeta.tasks.options import TableOptions


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
        for name in query.tasks:
            if name not in support.tasks:
                raise DataError(
                    f"{query.place}: task {shown(name)} has no support set in {support.place}"
                    f"{suggest(name, support.tasks)}"
                )

    def __len__(self) -> int:
        return len(self._query.tasks)

    def tasks(self) -> Iterator[GivenTask]:
        """What :func:`~distmeta.runs.adapting.adapt` takes, in the order of the queries."""
        for name, query in self._query.tasks.items():
            support = self._support.tasks[name]
            yield self._support.inputs(support), self._targets(name, support), self._query.inputs(query)

    def told(self) -> Iterator[Told]:
        """The same tasks, for people."""
        for name, query in self._query.tasks.items():
            classes = self._names(self._support.tasks[name]) if self._classes else None
            targets = None if query.labels is None else self._known(name, query.labels, classes)
            yield Told(name, query.rows, classes, targets)

    def name(self, number: int) -> str:
        """Of a task, by its number."""
        return list(self._query.tasks)[number]

    def close(self) -> None:
        """End what was opened."""
        self._support.close()
        self._query.close()

    def _names(self, support: GivenExamples) -> list[Any]:
        """What class indices stand for: the labels, sorted; of classes that all tasks share, these."""
        assert support.labels is not None
        return self._shared if self._shared is not None else own_classes(support.labels)

    def _targets(self, name: str, support: GivenExamples) -> Any:
        if support.labels is None:
            raise DataError(f"{self._support.place}: the support set of task {shown(name)} has no labels")
        if not self._classes:
            return _values(support.labels, self._support.place)
        if self._shared is not None:
            return support.labels  # which the family knows
        return self._known(name, support.labels, self._names(support))

    def _known(self, name: str, labels: Sequence[Any], classes: Sequence[Any] | None) -> Tensor:
        if classes is None:
            return _values(labels, self._query.place)
        try:
            return label_indices(labels, classes)
        except KeyError as error:
            raise DataError(
                f"{self._query.place}: task {shown(name)} has the class {shown(error.args[0])}, which its support set "
                f"has not; there are {', '.join(map(str, classes))}"
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
        return GivenArrays(place, names, labelled)
    if isinstance(options, TableOptions):
        own = [options.task, *(options.target if learner.parts.objective.classes else ())]
        return GivenRows(place, task=options.task, target=options.target, texts=own, labelled=labelled, kind=option)
    kind = input_kind(options, inputs)
    if kind == "texts":
        text, label = getattr(options, "text", "text"), getattr(options, "label", "label")
        texts = ["task", text, label]
        return GivenRows(place, task="task", target=[label], texts=texts, labelled=labelled, text=text, kind=option)
    decode = TASKS[options.kind].picture
    if kind == "images":
        return GivenImages(place, partial(decode, options), labelled, several)
    raise ConfigError(f"{option} = {place}: tasks.kind = {options.kind} takes a NumPy file (.npz) with x, y and task")


def _values(labels: Sequence[Any], place: str) -> Tensor:
    """(N, D) numbers."""
    try:
        values = torch.tensor(np.asarray(labels, dtype=np.float64))
    except (TypeError, ValueError):
        raise DataError(f"{place}: targets should be numbers; the first is {shown(labels[0])}") from None
    return values.reshape(len(values), -1)
