"""Arrays of given tasks: NumPy's ``.npz`` files, for tasks that are neither images, tables nor texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from distmeta.core.quoting import shown
from distmeta.errors import DataError
from distmeta.runs.given.base import ONE, GivenExamples


class GivenArrays:
    """An ``.npz`` file of the inputs' arrays (N, ...) by name, ``y`` (N, ...) and ``task`` (N,) where there are such.

    Args:
        place: a local path.
        inputs: the inputs' names.
        labelled: whether ``y`` must be there.
    """

    def __init__(self, place: str, inputs: Sequence[str], labelled: bool) -> None:
        self.place, self._names = place, inputs
        try:
            with np.load(place, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise DataError(
                f"{place} cannot be read: {error}; expected a NumPy file (.npz) with the arrays "
                f"{', '.join(inputs)}, y and perhaps task"
            ) from None
        wanted = [*inputs, *(["y"] if labelled else [])]
        missing = [name for name in wanted if name not in arrays]
        if missing:
            raise DataError(f"{place} has no array {shown(missing[0])}; it has {', '.join(map(shown, arrays))}")
        known = {name: arrays[name] for name in (*inputs, "y", "task") if name in arrays}
        if len({len(array) if array.ndim else -1 for array in known.values()}) > 1:
            raise DataError(f"{place}: {', '.join(known)} are of different lengths; give each the same number of rows")
        self._arrays, self._y = {name: arrays[name] for name in inputs}, arrays.get("y")
        names = arrays.get("task", np.full(len(next(iter(known.values()))), ONE))
        found, first = np.unique(names, return_index=True)
        ordered = found[np.argsort(first)]
        self.tasks = {str(name): self._examples(np.flatnonzero(names == name)) for name in ordered}

    def inputs(self, examples: GivenExamples) -> Any:
        """One array, or arrays by name."""
        arrays = {name: array[examples.source] for name, array in self._arrays.items()}
        return arrays["x"] if list(arrays) == ["x"] else arrays

    def close(self) -> None:
        """Nothing is open."""

    def _examples(self, rows: np.ndarray) -> GivenExamples:
        labels = None if self._y is None else list(self._y[rows])
        return GivenExamples([int(row) + 1 for row in rows], labels, rows)
