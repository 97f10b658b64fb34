"""Axes of charts: from numbers to places, with ticks at round numbers."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

TOWERING = 100.0
"""How many times the middle number the largest has to be for an axis of ratios."""


@dataclass(frozen=True)
class Scale:
    """One axis.

    Attributes:
        low: number at ``start``.
        high: number at ``end``.
        start: place of ``low``, in the chart's units.
        end: place of ``high``.
        log: whether equal ratios take equal lengths.
        percent: whether numbers are fractions that are shown in percent.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False
    percent: bool = False

    @classmethod
    def of(
        cls, values: Iterable[float], start: float, end: float, *, log: bool = False, percent: bool = False
    ) -> Scale:
        """A scale on which all of these numbers have a place; those that are not finite do not count.

        >>> Scale.of([1.0, 9.0], 0, 100).place(5.0)
        50.0
        """
        finite = [value for value in values if math.isfinite(value) and (value > 0 or not log)]
        low, high = (min(finite), max(finite)) if finite else (1.0, 10.0) if log else (0.0, 1.0)
        if low == high:
            low, high = (low / 2, high * 2) if log else (low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2)
        return cls(low, high, start, end, log, percent)

    def place(self, value: float) -> float:
        """Where a number is."""
        share = (self._of(value) - self._of(self.low)) / (self._of(self.high) - self._of(self.low))
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[tuple[float, str]]:
        """Round numbers, and how they are written."""
        found = _decades(self.low, self.high) if self.log else _round_numbers(self.low, self.high)
        return [(value, self.text(value)) for value in found]

    def text(self, value: float) -> str:
        """A number as it is written on the axis."""
        return f"{100 * value:.4g} %" if self.percent and math.isfinite(value) else short(value)

    def _of(self, value: float) -> float:
        return math.log10(value) if self.log else value


def far_apart(values: Iterable[float]) -> bool:
    """Whether on an axis of equal differences most of these numbers would lie at its foot.

    >>> far_apart([1.0, 2.0, 3.0]), far_apart([1.0, 2.0, 4e8]), far_apart([-1.0, 2.0, 4e8])
    (False, True, False)
    """
    finite = [value for value in values if math.isfinite(value)]
    return bool(finite) and min(finite) > 0 and max(finite) > TOWERING * statistics.median(finite)


def short(value: float) -> str:
    """A number in few characters.

    >>> short(12000), short(0.25), short(3e-5), short(1500000)
    ('12k', '0.25', '3e-05', '1.5M')
    """
    if not math.isfinite(value):
        return "not finite"
    for unit, step in (("M", 1e6), ("k", 1e3)):
        if abs(value) >= 10 * step or (abs(value) >= step and unit == "M"):
            return f"{value / step:.4g}{unit}"
    return f"{value:.4g}"


def _round_numbers(low: float, high: float) -> list[float]:
    rough = (high - low) / 4
    size = 10 ** math.floor(math.log10(rough))
    step = next(size * times for times in (1, 2, 2.5, 5, 10) if size * times >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(place * step, 12) for place in range(first, math.floor(high / step + 1e-9) + 1)]


def _decades(low: float, high: float) -> list[float]:
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    marks: Sequence[float] = (1, 2, 5) if len(exponents) < 4 else (1,)
    found = [times * 10.0**exponent for exponent in exponents for times in marks]
    inside = [value for value in found if low <= value <= high]
    return inside if len(inside) > 1 else _round_numbers(low, high)
