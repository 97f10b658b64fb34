"""Arrays of given tasks: NumPy's ``.npz`` files, for tasks that are neither images, tables nor texts."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distmeta.core.quoting import shown
from distmeta.errors import DataError
from distmeta.runs.given.base import ONE, GivenExamples, same_file, task_name

_UNREADABLE = (
    *(OSError, ValueError, KeyError, EOFError, TypeError, NotImplementedError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error, struct.error),
)
"""What NumPy raises of files that are damaged, or of another kind."""


class GivenArrays:
    """An ``.npz`` file of the inputs' arrays (N, ...) by name, ``y`` (N, ...) and ``task`` (N,) where there are such.

    Args:
        place: a local path.
        inputs: the inputs' names.
        labelled: whether ``y`` must be there.
        classes: whether ``y`` holds classes (N,), and not numbers.

    Raises:
        DataError: the file is damaged, or an array is missing or of another kind; the message names both.
    """

    naming = "array 'task'"

    def __init__(self, place: str, inputs: Sequence[str], labelled: bool, classes: bool) -> None:
        self.place = place
        arrays = self._read(inputs)
        wanted = [*inputs, *(["y"] if labelled else [])]
        missing = [name for name in wanted if name not in arrays]
        if missing:
            raise DataError(f"{place} has no array {shown(missing[0])}; it has {', '.join(map(shown, arrays))}")
        known = {name: arrays[name] for name in (*inputs, "y", "task") if name in arrays}
        lengths = {len(array) if array.ndim else -1 for array in known.values()}
        if len(lengths) > 1 or -1 in lengths:
            shapes = ", ".join(f"{name} {array.shape}" for name, array in known.items())
            raise DataError(f"{place}: give each array the same number of rows (N, ...); the shapes are {shapes}")
        if 0 in lengths:
            raise DataError(f"{place} has no rows; give at least one")
        self._arrays = {name: self._numbers(name, arrays[name]) for name in inputs}
        self._y = None
        if "y" in arrays:
            self._y = self._names("y", "classes", arrays["y"]) if classes else self._numbers("y", arrays["y"])
        names = [ONE] * lengths.pop()
        if "task" in arrays:
            names = [task_name(name) for name in self._names("task", "names of tasks", arrays["task"])]
        rows: dict[str, list[int]] = {}
        for row, name in enumerate(names):
            rows.setdefault(name, []).append(row)
        self.tasks: Mapping[str, GivenExamples] = {name: self._examples(np.array(own)) for name, own in rows.items()}

    def inputs(self, examples: GivenExamples) -> Any:
        """One array, or arrays by name."""
        arrays = {name: array[examples.source] for name, array in self._arrays.items()}
        return arrays["x"] if list(arrays) == ["x"] else arrays

    def takes(self, path: Path) -> bool:
        """Whether a file is the one that is read."""
        return same_file(self.place, path)

    def close(self) -> None:
        """Nothing is open."""

    def _read(self, inputs: Sequence[str]) -> dict[str, np.ndarray]:
        wanted = f"expected a NumPy file (.npz) with the arrays {', '.join(inputs)}, y and perhaps task"
        try:
            file = np.load(self.place, allow_pickle=False)
            if isinstance(file, np.ndarray):
                raise DataError(
                    f"{self.place} is a single array (.npy), whatever its name says; {wanted}: write it by numpy.savez"
                )
            with file:
                return {name: file[name] for name in file.files}
        except _UNREADABLE as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            if "pickle" in reason:  # which NumPy takes every other file for
                reason = "it is no NumPy file, or holds Python objects instead of numbers and texts"
            raise DataError(f"{self.place} cannot be read: {reason}; {wanted}") from None

    def _numbers(self, name: str, array: np.ndarray) -> np.ndarray:
        """The array, if it holds finite numbers."""
        if array.dtype.kind not in "biuf":
            kind = "complex numbers" if array.dtype.kind == "c" else f"values of type {array.dtype}"
            raise DataError(f"{self.place}: the array {shown(name)} holds {kind}; expected real numbers")
        finite = np.isfinite(array).reshape(len(array), -1).all(1)
        if not finite.all():
            row = int(np.flatnonzero(~finite)[0]) + 1
            raise DataError(
                f"{self.place}, row {row:,} of the array {shown(name)}: a number is not finite; mend or leave out such "
                "rows"
            )
        return array

    def _names(self, name: str, what: str, array: np.ndarray) -> np.ndarray:
        """The array (N,), if it holds names: texts, whole numbers or truth values."""
        if array.size != len(array):
            hint = " (of one-hot rows give y.argmax(1))" if name == "y" and array.ndim == 2 else ""
            raise DataError(
                f"{self.place}: the array {shown(name)} has the shape {array.shape}; expected {what}, one for each "
                f"row, ({len(array)},){hint}"
            )
        array = array.reshape(len(array))
        if array.dtype.kind == "S":
            array = np.char.decode(array, "utf-8", "replace")
        if array.dtype.kind not in "biufU":
            raise DataError(
                f"{self.place}: the array {shown(name)} holds values of type {array.dtype}; expected {what}, texts or "
                "whole numbers"
            )
        empty = np.isnan(array) if array.dtype.kind == "f" else array == "" if array.dtype.kind == "U" else np.array([])
        if empty.any():
            row = int(np.flatnonzero(empty)[0]) + 1
            raise DataError(
                f"{self.place}, row {row:,} of the array {shown(name)}: nothing stands there; expected {what}: fill it "
                "in or remove the row"
            )
        return array

    def _examples(self, rows: np.ndarray) -> GivenExamples:
        labels = None if self._y is None else list(self._y[rows])
        return GivenExamples([int(row) + 1 for row in rows], labels, rows)
