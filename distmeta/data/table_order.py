"""Columns that order a table's rows: numbers, dates and times, compared to the last digit."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distmeta.core.quoting import shown
from distmeta.data.table_source import ValuePlace, numbers, refuse_nulls, to_numpy
from distmeta.data.table_types import is_numeral, is_text

ORDER = np.dtype([("whole", np.int64), ("rest", np.float64)])
"""A value, as its floor and what is above that: compared in turn, they tell any two numbers of a column apart."""

_MOST = 2**63 - 1
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def ordered(array: Any, place: ValuePlace, *, spelled: bool = False) -> NDArray[Any]:
    """(N,) :data:`ORDER`, keys in the order of a column of numbers, dates or times; times in seconds.

    Args:
        array: the column.
        place: of the batch.
        spelled: whether numbers may be written as text, as in a CSV file.

    Raises:
        DataError: naming the row without a value, or of text.
    """
    import pyarrow as pa

    refuse_nulls(array, place)
    kind = array.type
    if spelled and is_text(kind):
        return _spelled(array, place)
    if pa.types.is_date(kind):
        return _seconds(array.cast(pa.timestamp("ms")), "ms")
    if pa.types.is_timestamp(kind) or pa.types.is_time(kind) or pa.types.is_duration(kind):
        return _seconds(array, kind.unit)
    if pa.types.is_uint64(kind):
        values = to_numpy(array)
        whole = np.minimum(values, np.uint64(_MOST))
        return _keys(whole.astype(np.int64), (values - whole).astype(np.float64))
    if pa.types.is_integer(kind):
        return _keys(to_numpy(array.cast(pa.int64())), np.zeros(len(array)))
    if pa.types.is_decimal(kind):
        return _decimals(array.to_pylist())
    values = numbers(array, place)[:, 0]
    floor = np.floor(values)
    inner = np.abs(values) < 2.0**63
    whole = np.where(values < 0, -_MOST - 1, _MOST)
    whole[inner] = floor[inner].astype(np.int64)
    return _keys(whole, np.where(inner, values - floor, values))


def _keys(whole: NDArray[np.int64], rest: NDArray[np.float64]) -> NDArray[Any]:
    keys = np.empty(len(whole), ORDER)
    keys["whole"], keys["rest"] = whole, rest
    return keys


def _seconds(array: Any, unit: str) -> NDArray[Any]:
    import pyarrow as pa

    values = to_numpy(array.cast(pa.int64() if array.type.bit_width == 64 else pa.int32()))
    whole, rest = np.divmod(values.astype(np.int64), _PER_SECOND[unit])
    return _keys(whole, rest / _PER_SECOND[unit])


def _spelled(array: Any, place: ValuePlace) -> NDArray[Any]:
    """Numbers that are written as text."""
    import pyarrow as pa

    try:
        return _keys(to_numpy(array.cast(pa.int64())), np.zeros(len(array)))
    except pa.ArrowException:  # some are no whole ones
        pass
    values = array.cast(pa.string()).to_pylist()
    for at, value in enumerate(values):
        if not value.strip():
            place.refuse(at, "there is no value")
        if not is_numeral(value):
            place.refuse(at, f"{shown(value)} is text, where numbers are wanted")
        if not math.isfinite(float(value)):
            place.refuse(at, f"{value.strip()} is not a finite number; mend or leave out such rows")
    return _decimals([Decimal(value.strip()) for value in values])


def _decimals(values: list[Decimal]) -> NDArray[Any]:
    keys = np.empty(len(values), ORDER)
    for at, value in enumerate(values):
        whole = max(-_MOST - 1, min(_MOST, math.floor(value)))
        keys[at] = whole, float(value - whole)
    return keys
