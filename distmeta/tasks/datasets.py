"""Few-shot episodes from a map-style data set of the user's, by one line in a module of his."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from distmeta.config.sections import TaskOptions
from distmeta.config.splits import SplitColumn, Splits
from distmeta.core.quoting import shown
from distmeta.core.records import Split
from distmeta.data.labelled import SPLITS_ARGUMENT, LabelledDataset, OpenedDataset, Source
from distmeta.errors import ConfigError, DataError
from distmeta.tasks.base import Episode
from distmeta.tasks.drawing import check_episode, draw_examples
from distmeta.tasks.making import TaskMaker
from distmeta.tasks.one_by_one import OneByOneFamily, targets_of
from distmeta.tasks.options.datasets import DatasetOptions
from distmeta.tasks.reading import TaskName, numbers


class DatasetFamily(OneByOneFamily):
    """Episodes from a data set: ``ways`` classes of a split, ``shots + queries`` items of each.

    A task depends on (seed, split, id) alone, as in the image families; examples stand class by class.

    Attributes:
        source: the data set.
    """

    Options: type[TaskOptions] = DatasetOptions
    source: ClassVar[LabelledDataset]

    @classmethod
    def maker(cls, options: TaskOptions, episodes: Mapping[Split, Episode]) -> TaskMaker:
        """Draws classes and items, and reads these."""
        try:
            opened = cls.source.open()
        except (DataError, ConfigError) as error:
            raise type(error)(f"tasks.kind = {shown(options.kind)}: {error}") from error
        for split, episode in episodes.items():
            names = [opened.classes[each] for each in opened.splits[split].tolist()]
            try:
                check_episode(split, episode, opened.counts[opened.splits[split]], names, "items")
            except ConfigError as error:  # no setting says the splits
                raise ConfigError(str(error).replace("tasks.splits", SPLITS_ARGUMENT)) from None

        def make(split: Split, task: int) -> Any:
            try:
                return _task(opened, episodes[split], split, task)
            except DataError as error:
                raise TaskName(options.kind, split, task).refuse(str(error)) from error

        return TaskMaker(options.kind, make, {split: targets_of(options, each) for split, each in episodes.items()})

    @classmethod
    def contents(cls, options: TaskOptions) -> Mapping[str, str]:
        """A hash of the labels and splits, and of the data where these are in memory."""
        return {options.kind: cls.source.open().digest}


def from_dataset(source: Source, *, splits: Mapping[str, Any], labels: Any = None) -> type[DatasetFamily]:
    """A task family over a map-style data set with labels, such as those of ``torch.utils.data`` and torchvision.

    In a module of your own, for ``tasks.kind: module:mine.birds``::

        birds = from_dataset(lambda: ImageFolder("birds"), splits={"train": 0.64, "validation": 0.16, "test": 0.2})

    Args:
        source: the data set, or better a function that opens it, which is called when the data are first needed, once
            a process. ``source[i]`` is ``(inputs, label)``, or a mapping with a label; inputs are a tensor or an array,
            or several by name, of the same shape in all items.
        splits: which classes are for training, validation and test, see :mod:`distmeta.config.splits`: fractions of the
            classes, or their names.
        labels: of all items, whole numbers or names; or a function of the data set that gives them. Otherwise they are
            the data set's ``targets`` or ``labels``, or are read item by item.

    Raises:
        ConfigError: ``splits`` are wrong by themselves.

    >>> points = [(np.array([float(n)]), n // 20) for n in range(400)]
    >>> family = from_dataset(points, splits={"train": 0.5, "validation": 0.25, "test": 0.25})
    >>> spec = family.spec(family.Options(kind="module:mine.points"))
    >>> spec.inputs.shape, spec.outputs
    ((1,), 5)
    """
    try:
        chosen = TypeAdapter[Any](Splits).validate_python(splits)
    except ValidationError as error:
        found = error.errors()[0]
        place = ".".join(str(each) for each in found["loc"] if not str(each).startswith("by_"))
        message = found["msg"].removeprefix("Value error, ")
        raise ConfigError(f"from_dataset: splits{f'.{place}' if place else ''}: {message}") from None
    if isinstance(chosen, SplitColumn):
        raise ConfigError("from_dataset: splits: a data set has no columns; give fractions, or names of classes")
    caller = sys._getframe(1).f_globals.get("__name__", __name__)
    members = {"source": LabelledDataset(source, chosen, labels), "__module__": caller}
    return type("DatasetFamily", (DatasetFamily,), members)


def _task(opened: OpenedDataset, episode: Episode, split: Split, task: int) -> Any:
    """``(support, query)``, drawn as the image families draw."""
    classes = opened.splits[split]
    chosen, places = draw_examples(episode, split, [task], opened.counts[classes])
    drawn = zip(classes[chosen[0]].tolist(), places[0], strict=True)
    rows = np.stack([opened.rows[each][place] for each, place in drawn])
    return tuple(_part(opened, part) for part in (rows[:, : episode.shots], rows[:, episode.shots :]))


def _part(opened: OpenedDataset, rows: NDArray[np.int64]) -> tuple[dict[str, NDArray[Any]], NDArray[np.int64]]:
    """Inputs and labels of these items (ways, examples), class by class."""
    ways, examples = rows.shape
    items = [(index, _numbers(index, opened.item(index))) for index in rows.reshape(-1).tolist()]
    first, expected = items[0]
    for index, inputs in items[1:]:
        if inputs.keys() != expected.keys():
            raise DataError(
                f"item {index} of the data set has the inputs {', '.join(inputs)}, and item {first} "
                f"{', '.join(expected)}"
            )
        for name, array in inputs.items():
            if array.shape != expected[name].shape:
                raise DataError(
                    f"item {index} of the data set has the shape {array.shape}{_of(name)}, and item {first} "
                    f"{expected[name].shape}; all items have the same shape: resize or crop them in the data set"
                )
    stacked = {name: np.stack([inputs[name] for _, inputs in items]) for name in expected}
    return stacked, np.repeat(np.arange(ways), examples)


def _numbers(index: int, inputs: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    found = {}
    for name, value in inputs.items():
        try:
            found[name] = numbers(value)
        except ValueError as error:
            hint = "; a transform makes tensors of images" if hasattr(value, "getbands") else ""
            raise DataError(f"item {index} of the data set{_of(name)} {error}{hint}") from None
    return found


def _of(name: str) -> str:
    return "" if name == "x" else f" in {name}"
