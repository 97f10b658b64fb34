"""Where a module can keep something from call to call."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from types import CellType, CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from distmeta.functional.objects import (
    CONTAINERS,
    attributes,
    comes_with_python,
    contents,
    filled,
    held,
    is_plain,
    known,
    position,
    refill,
    within,
)

GENERATORS = (random.Random, np.random.Generator, np.random.RandomState, np.random.BitGenerator, torch.Generator)
NUMBERS = (bool, int, float, complex, str, bytes, np.generic)

_TORCHS_OWN = frozenset(vars(nn.Module())) - {"training"}
_ELEMENTS = 1000
_FUNCTIONS = 1000
"""Of the user's and of libraries, that are looked through at most, the nearest first."""


@dataclass(frozen=True)
class Place:
    """Where a value is kept.

    Attributes:
        label: how messages call it.
        owner: container, object, class or closure cell.
        key: in a container, an object or a class.
        layer: path of the submodule whose attribute it is; ``None`` for others.
        buffer: whether it is a buffer of the submodule.
    """

    label: str
    owner: Any
    key: Any = ""
    layer: str | None = None
    buffer: bool = False

    def get(self) -> Any:
        """What is kept there now."""
        if isinstance(self.owner, CellType):
            return self.owner.cell_contents
        if isinstance(self.owner, dict | list | deque):
            return self.owner[self.key]
        return vars(self.owner)[self.key] if isinstance(self.owner, type) else attributes(self.owner)[self.key]

    def set(self, value: Any) -> None:
        """Keep something else there."""
        if isinstance(self.owner, CellType):
            self.owner.cell_contents = value
        elif isinstance(self.owner, dict | list | deque):
            self.owner[self.key] = value
        elif isinstance(self.owner, type):
            setattr(self.owner, self.key, value)
        else:
            object.__setattr__(self.owner, self.key, value)

    @contextmanager
    def holding(self, value: Any) -> Iterator[None]:
        """Within the block another value is kept there; in a container itself, since others may lead to it as well."""
        kept = self.get()
        inside = contents(kept) if isinstance(kept, list | deque | set | dict) else None
        if inside is None:
            self.set(value)
        else:
            refill(kept, value)
        try:
            yield
        finally:
            self.set(kept)
            if inside is not None:
                refill(kept, inside)

    def inner(self, depth: int = 3) -> Iterator[Place]:
        """This place and those within what it holds: elements of lists and dictionaries, attributes of objects."""
        yield self
        value = self.get()
        if depth == 0 or not (isinstance(value, list | dict | deque) or is_plain(value)):
            return
        keys = value if isinstance(value, dict) else attributes(value) if is_plain(value) else range(len(value))
        for key in islice(list(keys), _ELEMENTS):
            yield from Place(f"{self.label}.{key}", value, key).inner(depth - 1)


class Places:
    """The places of a module, and of all the functions of the user's that its own ones call."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._classes: dict[type, None] = {}
        self._functions: dict[FunctionType, str] = {}

    def __iter__(self) -> Iterator[Place]:
        own = {id(layer) for layer in self._module.modules()}
        for path, layer in self._module.named_modules():
            prefix = f"{path}." if path else ""
            yield from self._of_unregistered(layer, prefix, own)
            for name in own_names(layer):
                yield Place(f"{prefix}{name}", vars(layer), name, path)
            for name in layer._buffers if isinstance(layer._buffers, dict) else ():  # TorchScript's are none
                yield Place(f"buffer {prefix}{name}", layer._buffers, name, path, buffer=True)
            self._find(vars(layer), prefix)
            self._add_classes(type(layer))
        # Both grow as they are looked through.
        seen_classes, seen_functions = 0, 0
        while seen_classes < len(self._classes) or seen_functions < len(self._functions):
            if seen_functions > _FUNCTIONS:
                return
            for cls in list(self._classes)[seen_classes:]:
                seen_classes += 1
                yield from self._of_class(cls)
            for function, prefix in list(self._functions.items())[seen_functions:]:
                seen_functions += 1
                yield from self._of_function(function, prefix)

    def _of_unregistered(self, layer: nn.Module, prefix: str, own: set[int]) -> Iterator[Place]:
        """What layers keep that an attribute leads to, but that are no submodules."""
        for name in own_names(layer):
            label = f"{prefix}{name}."
            hidden = [each for each in within(vars(layer)[name]) if isinstance(each, nn.Module)]
            for part in (part for each in hidden for part in each.modules()):
                if id(part) not in own:
                    own.add(id(part))
                    yield from (Place(f"{label}{each}", vars(part), each) for each in own_names(part))
                    yield from (Place(f"{label}{each}", part._buffers, each) for each in part._buffers)
                    self._add_classes(type(part))
                    yield from self._of_unregistered(part, label, own)

    def _find(self, value: Any, prefix: str) -> None:
        """Note the functions and classes that a value leads to."""
        for each in within(value):
            if isinstance(each, FunctionType) and not comes_with_python(_package(each)):
                self._functions.setdefault(each, prefix)
            elif isinstance(each, type):
                self._add_classes(each)
            elif is_plain(each):
                self._add_classes(type(each))

    def _add_classes(self, cls: type) -> None:
        self._classes.update(dict.fromkeys(each for each in cls.__mro__ if not known(each)))

    def _of_class(self, cls: type) -> Iterator[Place]:
        for name, value in list(vars(cls).items()):
            inner = getattr(value, "__func__", getattr(value, "fget", value))
            if isinstance(inner, FunctionType):
                self._functions.setdefault(inner, f"{cls.__name__}.")
            elif _keeps(value) and not (name.startswith("__") and name.endswith("__")):
                yield Place(f"{cls.__name__}.{name}", cls, name)
                self._find(value, f"{cls.__name__}.")

    def _of_function(self, function: FunctionType, prefix: str) -> Iterator[Place]:
        """What a function has in its closure, its defaults and its attributes, and the globals that it reads."""
        called = f"{prefix}{function.__name__}"
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            if filled(cell) and _keeps(cell.cell_contents):
                yield Place(f"{name} of {called}", cell)
        for number, value in enumerate(held(function)):
            self._find(value, prefix)
            if isinstance(value, CONTAINERS) or is_plain(value):
                yield Place(f"default {number} of {called}", {"": value}, "")
        for name, value in vars(function).items():
            if _keeps(value):
                yield Place(f"{called}.{name}", vars(function), name)
        names = set(_names(function.__code__))
        yield from self._of_scope(function.__globals__, names, "the global ")

    def _of_scope(self, scope: dict[str, Any], names: set[str], prefix: str) -> Iterator[Place]:
        for name in sorted(names & scope.keys()):
            value = scope[name]
            if isinstance(value, ModuleType):
                if not comes_with_python(value.__name__.partition(".")[0]):
                    yield from self._of_scope(vars(value), names, f"{value.__name__}.")
            elif _keeps(value):
                yield Place(f"{prefix}{name}", scope, name)
                self._find(value, prefix)
            elif isinstance(value, FunctionType | type):
                self._find(value, "")


def _names(code: CodeType) -> Iterator[str]:
    """The names that a function's code uses, inner functions' included."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _package(function: FunctionType) -> str:
    return (function.__module__ or "").partition(".")[0]


def own_names(layer: nn.Module) -> list[str]:
    """Attributes that a layer has beside those of every ``nn.Module``, and whether it is in training."""
    return [name for name in vars(layer) if name not in _TORCHS_OWN]


def _keeps(value: Any) -> bool:
    """Whether a value outside of the module can be its memory."""
    other = (Tensor, np.ndarray, *CONTAINERS, *GENERATORS)
    return isinstance(value, (*NUMBERS, *other)) or is_plain(value) or bool(position(value))
