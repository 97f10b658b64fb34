"""What a value that a module keeps may come to after more calls."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

_NEXT = range(1, 25)

_MULTIPLE = 720720 * 2**12 * 10**6
"""720720 is a multiple of the numbers from 1 to 16."""

_LATER = (100, 5040, 720720 * 1000, _MULTIPLE - 1, _MULTIPLE, _MULTIPLE + 1, -_MULTIPLE)
"""Small integer types have the first of them alone."""

_ELEMENTS = 8
"""Of a tuple, that are tried at most."""

_NUMBERS = 100_000
"""Of arrays and tensors that are tried, at most."""

_NO_NUMBERS = (torch.complex64, torch.complex128, torch.complex32)

_SIZE = 100
"""Of containers that are tried, at most."""


def trials(value: Any) -> list[Any]:
    """What a number or a container may be after more calls: the next values, and those on which schedules turn.

    A multiple of every period up to 16 and of every round one, and the numbers beside it; thresholds lie below.

    >>> trials(True)
    [False]
    >>> ("a", True) in trials(("a", False))
    True
    """
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + step for step in _NEXT] + list(_LATER)
    if isinstance(value, float):
        return [0.0, value / 2, value * 2, 1e-6, 1e6, *(value + step for step in _NEXT)]
    if isinstance(value, complex):
        return [complex(each, value.imag) for each in trials(value.real)]
    if isinstance(value, np.generic | np.ndarray | Tensor):
        return _trials_of_array(value)
    if isinstance(value, list | deque | tuple | str | bytes | set | frozenset | dict) and 0 < len(value) <= _SIZE:
        return _trials_of_container(value)
    return []


def _trials_of_array(value: Any) -> list[Any]:
    """The same for NumPy's numbers, arrays and tensors: all elements are moved as the first one is."""
    if isinstance(value, Tensor):
        value = value.detach()
        size, number = value.numel(), value.dtype not in _NO_NUMBERS
    else:
        size, number = value.size, value.dtype.kind in "biuf"
    if not 0 < size <= _NUMBERS or not number:
        return []
    first = value.reshape(-1)[0]
    like = partial(torch.full_like, first) if isinstance(value, Tensor) else first.dtype.type
    found = []
    for each in trials(first.item()):
        with suppress(OverflowError, RuntimeError, ValueError):  # the type has no such number
            found.append(value ^ like(True) if isinstance(each, bool) else value + (like(each) - first))
    return found


def _trials_of_container(value: Any) -> list[Any]:
    if isinstance(value, set | frozenset):
        return [value | set(range(count)) for count in (20, 2000)]
    if isinstance(value, dict):
        one = next(iter(value.values()))
        return [{**dict.fromkeys(range(count), one), **value} for count in (20, 2000)]
    changed = []
    if isinstance(value, tuple):
        for place, each in enumerate(value[:_ELEMENTS]):
            changed += [(*value[:place], other, *value[place + 1 :]) for other in trials(each)]
    return [*changed, value * 7, value * 1000]
