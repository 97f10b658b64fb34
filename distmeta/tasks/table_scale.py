"""The scale of a table's numbers: learned block by block, and applied where float32 can hold the result."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from distmeta.core.quoting import shown
from distmeta.data.table_store import TableStore
from distmeta.errors import DataError


def scaled(
    values: NDArray[np.float64],
    mean: NDArray[np.float64],
    scale: NDArray[np.float64],
    where: Callable[[tuple[int, ...]], str],
) -> NDArray[np.float32]:
    """Numbers (..., F) brought to mean 0 and standard deviation 1, as float32.

    Args:
        values: the numbers.
        mean: (F,).
        scale: (F,).
        where: what messages call the number at a place (..., F).

    Raises:
        DataError: a finite number is none any more in float32.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        found: NDArray[np.float32] = ((values - mean) / scale).astype(np.float32)
    large = ~np.isfinite(found) & np.isfinite(values)
    if large.any():
        at = tuple(np.argwhere(large)[0].tolist())
        standardised = "" if mean[at[-1]] == 0 and scale[at[-1]] == 1 else " by the scale of the training tasks"
        raise DataError(
            f"{where(at)}: {values[at]:g} is too large for float32{standardised}; scale the column, or leave out such "
            "rows or the column"
        )
    return found


class ColumnExtremes:
    """The smallest and the largest number of columns, and in which rows they stand."""

    def __init__(self) -> None:
        self._found: list[tuple[NDArray[np.float64], NDArray[np.int64]]] = []

    def add(self, values: NDArray[np.float64], first: int) -> None:
        """A block of rows (N, width), from this one."""
        inner = [values.argmin(0), values.argmax(0)]
        new = [(np.take_along_axis(values, at[None], 0)[0], at + first) for at in inner]
        if self._found:
            (low, its), (lower, at) = self._found[0], new[0]
            new[0] = np.minimum(low, lower), np.where(lower < low, at, its)
            (high, its), (higher, at) = self._found[1], new[1]
            new[1] = np.maximum(high, higher), np.where(higher > high, at, its)
        self._found = new

    def check(self, store: TableStore, mean: Sequence[float], scale: Sequence[float], names: Sequence[str]) -> None:
        """Refuse what is too large for float32, with its task."""
        ends = np.cumsum(store.counts)
        for values, rows in self._found:

            def where(at: tuple[int, ...], rows: NDArray[np.int64] = rows) -> str:
                task = int(np.searchsorted(ends, rows[at[-1]], side="right"))
                return f"task {shown(store.names[task])}, column {shown(names[at[-1]])}"

            scaled(values, np.array(mean), np.array(scale), where)


class ColumnMoments:
    """Mean and variance of columns, block by block (Chan, Golub, LeVeque 1979)."""

    def __init__(self, width: int) -> None:
        self._count = 0
        self._mean, self._squares = np.zeros(width), np.zeros(width)

    def add(self, values: NDArray[np.float64]) -> None:
        """A block of rows (N, width)."""
        count = len(values)
        if not count:
            return
        with np.errstate(over="ignore", invalid="ignore"):  # see check
            mean = values.mean(0)
            total, apart = self._count + count, mean - self._mean
            self._squares += np.square(values - mean).sum(0) + np.square(apart) * (self._count * count / total)
            self._mean += apart * (count / total)
        self._count = total

    def check(self, names: Sequence[str]) -> None:
        """Refuse a column whose numbers are too large for a variance."""
        for at in np.flatnonzero(~np.isfinite(self._squares))[:1]:
            raise DataError(
                f"the column {shown(names[at])} has numbers too large to be standardised; scale them, or leave it out"
            )

    def standard(self) -> tuple[list[float], list[float]]:
        """Means, and standard deviations; 1 for a column that does not vary."""
        deviation = np.sqrt(self._squares / max(self._count, 1))
        flat = deviation <= 1e-12 * np.abs(self._mean)
        return self._mean.tolist(), np.where(flat, 1.0, deviation).tolist()

    def none(self) -> tuple[list[float], list[float]]:
        """What changes nothing."""
        return [0.0] * len(self._mean), [1.0] * len(self._mean)
