"""Map-style data sets of the user's, such as ``torch.utils.data.Dataset``: their labels, and items by index."""

from __future__ import annotations

import hashlib
import logging
import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distmeta.config.importing import raised
from distmeta.config.splits import SplitFractions, SplitNames
from distmeta.core.advance import LoggedAdvance
from distmeta.core.records import Split
from distmeta.data.splits import split_contents, split_names
from distmeta.errors import ConfigError, DataError, DistmetaError

log = logging.getLogger(__name__)

LABELS = ("targets", "labels", "_labels")
"""Attributes in which data sets of torchvision and others keep the labels of all items."""

KEYS = ("label", "labels", "target", "targets", "y")
"""Under which items that are mappings keep their label."""

HASHED = 2**30
"""Bytes of a data set in memory up to which its hash is over all of them."""

SPLITS_ARGUMENT = "from_dataset: splits"
"""What messages call the splits, which no setting says."""

ARGMAX = "from_dataset(..., labels=one_hot.argmax(1))"
"""How labels are made of one-hot ones."""

Source = Any
"""A data set, or a function without arguments that opens one."""


@dataclass(frozen=True)
class OpenedDataset:
    """A data set with its classes.

    Attributes:
        items: the data set.
        classes: names of the C classes.
        rows: the indices of each class's items.
        counts: (C,) how many these are.
        splits: for each split the indices of its classes.
        digest: a hash of the labels, of the splits and, where it is in memory, of the data.
    """

    items: Any
    classes: tuple[str, ...]
    rows: tuple[NDArray[np.int64], ...]
    counts: NDArray[np.int64]
    splits: Mapping[Split, NDArray[np.int64]]
    digest: str

    def item(self, index: int) -> dict[str, Any]:
        """The inputs of one item, by name; ``x`` where there is one.

        Raises:
            DataError: naming the item, where the data set raises.
        """
        try:
            item = self.items[index]
        except DistmetaError:
            raise
        except Exception as error:  # whatever the user's code raises
            raise DataError(f"item {index} of the data set cannot be read: it raised {raised(error)}") from error
        if isinstance(item, tuple | list) and item:
            item = item[0]
        if isinstance(item, Mapping):
            return {str(name): value for name, value in item.items() if name not in KEYS}
        return {"x": item}


class LabelledDataset:
    """A data set that is opened when it is first needed, once a process.

    Args:
        source: the data set, or a function without arguments that opens it.
        splits: which classes are for training, validation and test.
        labels: the label of every item, or a function that takes the data set and gives them; read off the data set
            otherwise.
    """

    def __init__(self, source: Source, splits: SplitNames | SplitFractions, labels: Any = None) -> None:
        self._source, self._splits, self._labels = source, splits, labels
        self._opening = threading.Lock()
        self._opened: OpenedDataset | None = None

    def open(self) -> OpenedDataset:
        """The data set, its labels read.

        Raises:
            DataError: it cannot be opened, is no map-style data set, or its labels are not one an item.
            ConfigError: the splits name classes that it does not have, or leave one split empty.
        """
        with self._opening:
            if self._opened is None:
                try:
                    self._opened = self._open()
                except DistmetaError:
                    raise
                except (Exception, SystemExit) as error:  # whatever the user's code raises
                    raise DataError(f"the data set cannot be opened: it raised {raised(error)}") from error
            return self._opened

    def _open(self) -> OpenedDataset:
        items = self._source
        # A class has the methods of its instances, and no items.
        if isinstance(items, type) or (callable(items) and not hasattr(items, "__getitem__")):
            items = items()
        if not (hasattr(items, "__getitem__") and hasattr(items, "__len__")):
            raise DataError(
                f"expected a map-style data set, with len() and items by index, but it is a {type(items).__name__}"
            )
        if len(items) == 0:
            raise DataError("the data set has no items; expected some of each class")
        labels = _checked(self._given(items), len(items))
        values, of_item, counts = np.unique(labels, return_inverse=True, return_counts=True)
        names = _names(items, values)
        order = np.argsort(of_item, kind="stable").astype(np.int64)
        rows = tuple(np.split(order, np.cumsum(counts)[:-1]))
        try:
            splits = split_names(names, self._splits, "the data set")
        except (ConfigError, DataError) as error:  # no setting says it, but the argument of from_dataset
            raise type(error)(str(error).replace("tasks.splits", SPLITS_ARGUMENT)) from None
        return OpenedDataset(items, names, rows, counts.astype(np.int64), splits, self._digest(items, labels))

    def _given(self, items: Any) -> Any:
        """The labels, in whatever form they come."""
        if self._labels is not None:
            return self._labels(items) if callable(self._labels) else self._labels
        for name in LABELS:
            found = getattr(items, name, None)
            if found is not None and hasattr(found, "__len__") and len(found) == len(items):
                return found
        return _read_through(items)

    def _digest(self, items: Any, labels: NDArray[Any]) -> str:
        digest = hashlib.sha256(f"{len(items)} {labels.dtype.str}\n".encode())
        digest.update(np.ascontiguousarray(labels).tobytes())
        digest.update(self._splits.model_dump_json().encode())
        digest.update(repr(sorted(split_contents(self._splits).items())).encode())
        data: Any = getattr(items, "data", None)
        if hasattr(data, "detach"):
            data = data.detach().cpu().numpy()
        if isinstance(data, np.ndarray) and data.dtype.kind in "fiub" and data.nbytes <= HASHED:
            digest.update(f"{data.dtype.str} {data.shape}\n".encode())
            digest.update(np.ascontiguousarray(data).data)
        return digest.hexdigest()


def _read_through(items: Any) -> list[Any]:
    """The labels of all items, read one by one."""
    labels: list[Any] = []
    advance = LoggedAdvance(log, "reading labels", "items")
    for index in range(len(items)):
        item = items[index]
        if isinstance(item, Mapping):
            found = [item[key] for key in KEYS if key in item]
        else:
            found = list(item[1:2]) if isinstance(item, tuple | list) else []
        if not found:
            raise DataError(
                f"item {index} of the data set has no label: expected (inputs, label), or a mapping with "
                f"{', '.join(KEYS)}; or name them all: from_dataset(..., labels=...)"
            )
        labels.append(_label(found[0], index))
        advance(index + 1, len(items))
    return labels


def _label(label: Any, index: int) -> Any:
    """An item's label, of one number or name."""
    shape = tuple(getattr(label, "shape", (len(label),) if isinstance(label, list | tuple) else ()))
    if math.prod(shape) != 1 or len(shape) > 1:
        raise DataError(
            f"the label of item {index} of the data set has the shape {shape}: expected one whole number or name; of "
            f"one-hot labels give the place of the 1: {ARGMAX}"
        )
    label = label[0] if isinstance(label, list | tuple) else label
    return label.item() if hasattr(label, "item") else label


def _checked(labels: Any, count: int) -> NDArray[Any]:
    """One label an item: whole numbers or text."""
    if hasattr(labels, "detach"):
        labels = labels.detach().cpu().numpy()
    if isinstance(labels, np.ma.MaskedArray) and np.ma.is_masked(labels):
        at = int(np.flatnonzero(np.ma.getmaskarray(labels))[0])
        raise DataError(f"the labels of the data set are masked, the first at {at}; expected one for each item")
    try:
        array = np.asarray(labels)
    except ValueError:
        array = np.empty(0, dtype=object)
    if array.dtype.kind not in "iubU" or array.ndim != 1:
        raise DataError(
            f"the labels of the data set are {array.dtype} of shape {array.shape}: expected one whole number or name "
            f"an item, (N,){'; of one-hot labels give the places of the 1: ' + ARGMAX if array.ndim == 2 else ''}"
        )
    if len(array) != count:
        raise DataError(f"the data set has {count:,} items and {len(array):,} labels; give one for each")
    return array.astype(np.int64) if array.dtype.kind == "b" else array


def _names(items: Any, values: NDArray[Any]) -> tuple[str, ...]:
    """Names of the classes with these labels: those that the data set has, where its labels are their places."""
    known = getattr(items, "classes", None)
    if isinstance(known, tuple | list) and values.dtype.kind in "iu" and values[0] >= 0 and values[-1] < len(known):
        names = tuple(str(known[value]) for value in values.tolist())
        if len(set(names)) == len(names):
            return names
    return tuple(str(value) for value in values.tolist())
