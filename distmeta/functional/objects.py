"""What Python objects hold: functions their closures, containers their elements, a user's objects their attributes."""

from __future__ import annotations

import functools
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from types import CellType, FunctionType, GeneratorType, MethodType
from typing import Any

from torch import Tensor, nn

CONTAINERS = (list, tuple, dict, set, frozenset, deque)

_ELEMENTS = 1000
"""Of a container, that are looked at at most."""

_OBJECTS = 20_000
"""That are looked at in one go at most."""


def within(value: Any) -> Iterator[Any]:
    """The value and all that it holds, each object once; layers and tensors are not looked into.

    >>> [each for each in within([1, {"a": (2,)}]) if isinstance(each, int)]
    [1, 2]
    """
    waiting, seen = deque([value]), {id(value)}
    while waiting and len(seen) < _OBJECTS:
        each = waiting.popleft()
        yield each
        for part in islice(_parts(each), _ELEMENTS):
            if id(part) not in seen:
                seen.add(id(part))
                waiting.append(part)


def _parts(value: Any) -> Iterator[Any]:
    if isinstance(value, FunctionType):
        yield from held(value)
    elif isinstance(value, MethodType):
        yield from (value.__func__, value.__self__)
    elif isinstance(value, functools.partial):
        yield from (value.func, *value.args, *value.keywords.values())
    elif isinstance(value, functools._lru_cache_wrapper):
        yield value.__wrapped__
    elif isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, CONTAINERS):
        yield from value
    elif is_plain(value):
        yield from attributes(value).values()


def held(function: FunctionType) -> Iterator[Any]:
    """What a function's closure and its default arguments hold."""
    for cell in function.__closure__ or ():
        if filled(cell):
            yield cell.cell_contents
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()


def filled(cell: CellType) -> bool:
    """Whether a closure's variable has a value yet."""
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def is_plain(value: Any) -> bool:
    """An object of a class of the user's own, such as a schedule."""
    other = (nn.Module, type, FunctionType, MethodType, Tensor)
    return not isinstance(value, other) and not known(type(value)) and bool(_slots(value) or hasattr(value, "__dict__"))


def attributes(value: Any) -> dict[str, Any]:
    """An object's attributes, those in slots included."""
    kept = dict(getattr(value, "__dict__", {}))
    kept |= {name: getattr(value, name) for name in _slots(value) if hasattr(value, name)}
    return kept


def _slots(value: Any) -> list[str]:
    names: list[str] = []
    for cls in type(value).__mro__:
        own = vars(cls).get("__slots__", ()) if not known(cls) else ()
        names += [own] if isinstance(own, str) else own
    return [name for name in names if name not in ("__dict__", "__weakref__") and not name.startswith("__")]


def contents(value: Any) -> Any:
    """What a container or an object of the user's holds now, for :func:`refill`; ``None`` of anything else."""
    if isinstance(value, list | deque):
        return list(value)
    if isinstance(value, dict):
        return dict(value)
    if isinstance(value, set):
        return set(value)
    return attributes(value) if is_plain(value) else None


def refill(value: Any, held: Any) -> None:
    """Let a container or an object hold what :func:`contents` gave."""
    if isinstance(value, list | deque):
        value.clear()
        value.extend(held)
    elif isinstance(value, dict | set):
        value.clear()
        value.update(held)
    elif held is not None:
        for name in attributes(value).keys() - held.keys():
            object.__delattr__(value, name)
        for name, each in held.items():
            object.__setattr__(value, name, each)


def known(cls: type) -> bool:
    """Whether a class comes with torch, NumPy, this package or Python, except for bags of attributes."""
    package = cls.__module__.partition(".")[0]
    return package not in ("__main__", "argparse", "types") and comes_with_python(package)


def comes_with_python(package: str) -> bool:
    """Whether a package is torch, NumPy, this one or one of Python's own."""
    return package in ("torch", "numpy", "distmeta") or package in sys.stdlib_module_names


def position(value: Any) -> str:
    """Where an iterator, a generator or a cache of Python's own stands; empty for anything else."""
    if isinstance(value, functools._lru_cache_wrapper):
        return str(value.cache_info().misses)
    if not hasattr(value, "__next__") or not known(type(value)):
        return ""
    if isinstance(value, GeneratorType):
        frame = value.gi_frame
        return repr(frame and (frame.f_lasti, frame.f_locals))[-_ELEMENTS:]
    with suppress(Exception):
        return repr(value.__reduce__())[-_ELEMENTS:]
    return repr(value)
