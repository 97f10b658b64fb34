"""What a module keeps between calls beside parameters and buffers: attributes, globals, closures, generators."""

from __future__ import annotations

import copy
import random
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from types import CellType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from distmeta.models.copying import filled

_TORCHS_OWN = frozenset(vars(nn.Module()))
_CONTAINERS = (list, tuple, dict, set, frozenset, deque)
_GENERATORS = (random.Random, np.random.Generator, np.random.RandomState, np.random.BitGenerator, torch.Generator)
_DEPTH = 4
_ELEMENTS = 1000


@dataclass(frozen=True)
class Place:
    """Where a value is kept.

    Attributes:
        label: how messages call it.
        owner: dictionary, class or closure cell.
        key: in a dictionary or a class.
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
        return vars(self.owner)[self.key] if isinstance(self.owner, type) else self.owner[self.key]

    def set(self, value: Any) -> None:
        """Keep something else there."""
        if isinstance(self.owner, CellType):
            self.owner.cell_contents = value
        elif isinstance(self.owner, type):
            setattr(self.owner, self.key, value)
        else:
            self.owner[self.key] = value

    @contextmanager
    def holding(self, value: Any) -> Iterator[None]:
        """Within the block another value is kept there."""
        kept = self.get()
        self.set(value)
        try:
            yield
        finally:
            self.set(kept)

    def inner(self, depth: int = 2) -> Iterator[Place]:
        """This place and those within what it holds: elements of lists and dictionaries, attributes of objects."""
        yield self
        value = self.get()
        owner = value if isinstance(value, list | dict | deque) else vars(value) if _plain_object(value) else None
        if owner is None or depth == 0:
            return
        keys = list(owner) if isinstance(owner, dict) else range(len(owner))
        for key in islice(keys, _ELEMENTS):
            yield from Place(f"{self.label}.{key}", owner, key).inner(depth - 1)


class Snapshot:
    """What all places of a module hold at a moment; tensors are held on to, so that none takes another's identity."""

    def __init__(self, module: nn.Module) -> None:
        self._held: list[Any] = []
        self.places = {place.label: place for place in _places(module)}
        self._prints = {label: self._print(place.get(), _DEPTH) for label, place in self.places.items()}

    def changes(self, later: Snapshot) -> list[Place]:
        """The places that hold something else later, new ones included."""
        return [
            place
            for label, place in later.places.items()
            if label not in self._prints or self._prints[label] != later._prints[label]
        ]

    def _print(self, value: Any, depth: int) -> Any:
        """Something that is equal as long as the value stays what it is."""
        if value is None or isinstance(value, bool | int | str | bytes | float | complex):
            return type(value), repr(value)
        self._held.append(value)
        if isinstance(value, Tensor):
            return "tensor", id(value), value._version if not value.is_inference() else 0
        if isinstance(value, _GENERATORS):
            return "generator", _generator_state(value)
        if isinstance(value, np.ndarray):
            return "array", id(value), value.shape, value.tobytes() if value.nbytes < 2**20 else None
        if depth > 0 and isinstance(value, _CONTAINERS):
            parts = islice(value.items() if isinstance(value, dict) else value, _ELEMENTS)
            identity = 0 if isinstance(value, tuple) else id(value)
            return type(value), identity, len(value), tuple(self._print(part, depth - 1) for part in parts)
        if depth > 0 and _plain_object(value):
            return type(value), id(value), tuple((k, self._print(v, depth - 1)) for k, v in list(vars(value).items()))
        return "other", id(value)


def _generator_state(generator: Any) -> Any:
    if isinstance(generator, torch.Generator):
        return generator.get_state().numpy().tobytes()
    if isinstance(generator, random.Random):
        try:
            return hash(generator.getstate())
        except NotImplementedError:  # that of the operating system has none
            return 0
    if isinstance(generator, np.random.RandomState):
        return repr(
            [part.tobytes() if isinstance(part, np.ndarray) else part for part in generator.get_state(legacy=True)]
        )
    bits = generator.bit_generator if isinstance(generator, np.random.Generator) else generator
    return repr(bits.state)


def holds_generator(value: Any, depth: int = _DEPTH) -> bool:
    """Whether random numbers come from this value."""
    if isinstance(value, _GENERATORS):
        return True
    if depth == 0:
        return False
    if isinstance(value, dict):
        return any(holds_generator(inner, depth - 1) for inner in value.values())
    if isinstance(value, _CONTAINERS):
        return any(holds_generator(inner, depth - 1) for inner in value)
    return _plain_object(value) and any(holds_generator(inner, depth - 1) for inner in vars(value).values())


def _plain_object(value: Any) -> bool:
    """An object of a class of the user's own, such as a schedule."""
    known = (nn.Module, type, FunctionType, MethodType, Tensor)
    return hasattr(value, "__dict__") and not isinstance(value, known) and not _known(type(value))


def _known(cls: type) -> bool:
    """Whether a class comes with torch, NumPy, this package or Python, except for bags of attributes."""
    package = cls.__module__.partition(".")[0]
    known = package in ("torch", "numpy", "distmeta") or package in sys.stdlib_module_names
    return known and package not in ("__main__", "argparse", "types")


def _places(module: nn.Module) -> Iterator[Place]:
    classes: dict[type, None] = {}
    for path, layer in module.named_modules():
        prefix = f"{path}." if path else ""
        for name in vars(layer):
            if name not in _TORCHS_OWN:
                yield Place(f"{prefix}{name}", vars(layer), name, path)
        for name in layer._buffers:
            yield Place(f"buffer {prefix}{name}", layer._buffers, name, path, buffer=True)
        classes.update(dict.fromkeys(cls for cls in type(layer).__mro__ if not _known(cls)))
        for value in vars(layer).values():
            if isinstance(value, FunctionType):
                yield from _places_of(value, prefix)
    for cls in classes:
        for name, value in list(vars(cls).items()):
            if isinstance(value, FunctionType):
                yield from _places_of(value, f"{cls.__name__}.")
            elif _keeps(value) and not (name.startswith("__") and name.endswith("__")):
                yield Place(f"{cls.__name__}.{name}", cls, name)


def _places_of(function: FunctionType, prefix: str) -> Iterator[Place]:
    """Cells and globals that a function reads."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        if filled(cell) and _keeps(cell.cell_contents):
            yield Place(f"{name} of {prefix}{function.__name__}", cell)
    for name in function.__code__.co_names:
        if name in function.__globals__ and _keeps(function.__globals__[name]):
            yield Place(f"the global {name}", function.__globals__, name)


def _keeps(value: Any) -> bool:
    """Whether a value outside of the module can be its memory."""
    kept = (bool, int, float, Tensor, np.ndarray, *_CONTAINERS, *_GENERATORS)
    return isinstance(value, kept) or _plain_object(value)


def shallow(value: Any) -> Any:
    """A copy of a container or an object of the user's own; anything else, and what cannot be copied, itself."""
    if isinstance(value, _CONTAINERS) or _plain_object(value):
        with suppress(Exception):
            return copy.copy(value)
    return value
