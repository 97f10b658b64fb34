"""Watching what a call writes, and which generators it draws random numbers from."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from distmeta.functional.hidden_state import generator_state

_METADATA = frozenset({"aten::detach_", "aten::requires_grad_"})
_URANDOM = os.urandom
_DRAWS = ("random", "getrandbits")


class Writes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within this mode, which of some tensors are written: through views and ``.data`` too, whether or not they change.

    Attributes:
        found: name of a written tensor -> the operation that wrote it first.
        generators: states, at their first use, of generators of the module's own that operations drew from.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: dict[str, str] = {}
        self.generators: list[Any] = []
        self._drawn: dict[int, torch.Generator] = {}
        self._tensors = dict(tensors)
        self._names: dict[int, list[str]] = {}
        for name, tensor in self._tensors.items():
            if tensor.numel():
                self._names.setdefault(storage(tensor), []).append(name)

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Note what the operation writes, and compute it."""
        kwargs = kwargs or {}
        for value in (*args, *kwargs.values()):
            if isinstance(value, torch.Generator) and id(value) not in self._drawn:
                self._drawn[id(value)] = value
                self.generators.append(generator_state(value))
        schema = func._schema
        if schema.is_mutable and schema.name not in _METADATA:
            for position, argument in enumerate(schema.arguments):
                if argument.alias_info is not None and argument.alias_info.is_write:
                    value = args[position] if position < len(args) else kwargs.get(argument.name)
                    self._note(value, schema.name)
        return func(*args, **kwargs)

    def _note(self, value: Any, operation: str) -> None:
        for tensor in tree_leaves(value):
            if isinstance(tensor, Tensor) and tensor.layout == torch.strided and tensor.numel():
                for name in self._names.get(storage(tensor), ()):
                    self.found.setdefault(name, operation.replace("aten::", ""))


def storage(tensor: Tensor) -> int:
    """What views of one another share."""
    return int(tensor.untyped_storage()._cdata)


@contextmanager
def kept_generators() -> Iterator[None]:
    """After the block Python's and NumPy's global generators are as before it."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


class Randomness:
    """Within this context, which generators beside torch's own are drawn from.

    Attributes:
        sources: of the random numbers, in words, each with what they follow from.
    """

    def __init__(self) -> None:
        self.sources: list[tuple[str, Any]] = []
        self._drawn: dict[int, Any] = {}

    def beside(self, other: Randomness) -> list[str]:
        """The sources that gave other numbers in another context: those that are not seeded in every call."""
        return [words for words, state in self.sources if (words, state) not in other.sources]

    def __enter__(self) -> Randomness:
        self._python, self._numpy = random.getstate(), _numpy_state()
        self._profile = sys.getprofile()
        sys.setprofile(self._look)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(self._profile)
        if random.getstate() != self._python:
            self.sources.insert(0, ("Python's module random", object()))
        if _numpy_state() != self._numpy:
            self.sources.insert(0, ("NumPy's global generator (numpy.random)", object()))

    def _look(self, frame: Any, event: str, argument: Any) -> None:
        if event != "c_call" or (words := _source(argument)) is None or _importing(frame):
            return
        owner = getattr(argument, "__self__", None)
        if id(owner) not in self._drawn:
            self._drawn[id(owner)] = owner
            state = object() if argument is _URANDOM else generator_state(owner)
            self.sources.append((words, state))


def _importing(frame: Any) -> bool:
    """Whether a call happens while a Python module is imported, as parts of torch are at their first use."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _source(function: Callable[..., Any]) -> str | None:
    if function is _URANDOM:
        return "the operating system's generator (os.urandom, secrets, uuid)"
    owner = getattr(function, "__self__", None)
    if isinstance(owner, random.Random) and owner is not random._inst and function.__name__ in _DRAWS:  # type: ignore[attr-defined]
        return "a generator of its own (random.Random)"
    if isinstance(owner, np.random.Generator):
        return "a generator of its own (numpy.random.Generator)"
    return None


def _numpy_state() -> str:
    return repr([part.tobytes() if isinstance(part, np.ndarray) else part for part in np.random.get_state(legacy=True)])
