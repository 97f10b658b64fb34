"""What a module keeps between calls beside parameters and buffers, looked at from outside."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from distmeta.functional.objects import CONTAINERS, attributes, contents, is_plain, position, refill, within
from distmeta.functional.places import GENERATORS, NUMBERS, Place, Places, own_names

_DEPTH = 4
_ELEMENTS = 1000
_BYTES = 2**20
_PLACES = 20_000


class StateSnapshot:
    """What all places of a module hold at a moment; tensors are held on to, so that none takes another's identity."""

    def __init__(self, module: nn.Module) -> None:
        self._held: list[Any] = []
        self.places: dict[str, Place] = {}
        inner = (each for place in Places(module) for each in place.inner())
        for place in islice(inner, _PLACES):
            label = place.label
            while label in self.places:
                label += "'"
            self.places[label] = replace(place, label=label)
        self._prints = {label: self._print(place.get(), _DEPTH) for label, place in self.places.items()}

    def changes(self, later: StateSnapshot) -> list[Place]:
        """The places that hold something else later, new ones included."""
        return [
            place
            for label, place in later.places.items()
            if label not in self._prints or self._prints[label] != later._prints[label]
        ]

    def innermost(self, later: StateSnapshot) -> list[Place]:
        """The same without those of which it can be told which part changed."""
        changed = self.changes(later)
        parts = [place.label for place in changed if place.label in self._prints]
        outer = {label[:end] for label in parts for end in _dots(label)}
        return [place for place in changed if place.label not in outer]

    def _print(self, value: Any, depth: int) -> Any:
        """Something that is equal as long as the value stays what it is."""
        if value is None or isinstance(value, NUMBERS):
            return type(value), repr(value)
        self._held.append(value)
        if isinstance(value, Tensor):
            return "tensor", id(value), value._version if not value.is_inference() else 0
        if isinstance(value, GENERATORS):
            return "generator", generator_state(value)
        if isinstance(value, np.ndarray):
            return "array", id(value), value.shape, value.tobytes() if value.nbytes < _BYTES else None
        if depth > 0 and isinstance(value, CONTAINERS):
            parts = islice(value.items() if isinstance(value, dict) else value, _ELEMENTS)
            identity = 0 if isinstance(value, tuple) else id(value)
            return type(value), identity, len(value), tuple(self._print(part, depth - 1) for part in parts)
        if depth > 0 and is_plain(value):
            return type(value), id(value), tuple((k, self._print(v, depth - 1)) for k, v in attributes(value).items())
        return "other", id(value), position(value)


def _dots(label: str) -> Iterator[int]:
    return (end for end, letter in enumerate(label) if letter == ".")


def generator_state(generator: Any) -> Any:
    """What the next random number of a generator follows from; something else each time where it cannot be told."""
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


def holds_generator(value: Any) -> bool:
    """Whether random numbers come from this value."""
    return any(isinstance(each, GENERATORS) for each in within(value))


@contextmanager
def kept(module: nn.Module) -> Iterator[None]:
    """After the block the module's attributes and buffers are as before it, and so is what their containers hold."""
    layers = list(module.modules())
    own = [each for layer in layers for each in (vars(layer), layer._parameters, layer._buffers, layer._modules)]
    inner = [part for layer in layers for name in own_names(layer) for part in within(vars(layer)[name])]
    before = [(each, contents(each)) for each in (*inner, *own)]
    try:
        yield
    finally:
        for each, values in before:
            refill(each, values)
