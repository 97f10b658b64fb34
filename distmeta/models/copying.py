"""A copy of a module that shares nothing with it, functions that its attributes hold included."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from types import CellType, FunctionType, MethodType
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.weight_norm import WeightNorm

from distmeta.errors import ConfigError

_DEPTH = 6


def copy_module(module: nn.Module, memo: dict[int, Any] | None = None) -> nn.Module:
    """A deep copy, in which functions that refer to the module refer to the copy.

    ``copy.deepcopy`` takes functions as they are, so that ``self.act = lambda x: x * self.scale`` would read the
    original's ``scale`` for ever.

    Args:
        module: stays as it is.
        memo: of a ``copy.deepcopy`` that this is part of.

    Raises:
        ConfigError: the module has lazy parameters without a size, or holds what cannot be copied.

    >>> layer = nn.Linear(1, 1)
    >>> layer.twice = lambda x, layer=layer: layer(x) * 2
    >>> copied = copy_module(layer)
    >>> copied.twice.__defaults__[0] is copied
    True
    """
    if any(is_lazy(parameter) for parameter in module.parameters()):
        raise ConfigError("the model has lazy parameters without a size; run it once on an example first")
    memo = {} if memo is None else memo
    functions = _Functions(module, memo)
    try:
        copied = copy.deepcopy(module, memo)
        functions.fill()
    except Exception as error:
        raise ConfigError(
            f"the model cannot be copied: {error}; it should hold no results of computations as attributes"
        ) from error
    return copied


class _Functions:
    """New functions for those that reach into the module, entered into the memo before anything is copied."""

    def __init__(self, module: nn.Module, memo: dict[int, Any]) -> None:
        self._memo = memo
        self._new: list[tuple[FunctionType, FunctionType]] = []
        self._cells: dict[int, tuple[CellType, CellType]] = {}
        layers = list(module.modules())
        self._own = {id(layer) for layer in layers}
        self._own |= {id(tensor) for tensor in (*module.parameters(), *module.buffers())}
        for layer in layers:
            _detach_results(layer, memo)
            for value in vars(layer).values():
                for function in _functions(value, _DEPTH):
                    self._renew(function)

    def fill(self) -> None:
        """Let the new functions refer to the copies."""
        for old, new in self._cells.values():
            new.cell_contents = copy.deepcopy(old.cell_contents, self._memo)
        for function, renewed in self._new:
            renewed.__defaults__ = copy.deepcopy(function.__defaults__, self._memo)
            renewed.__kwdefaults__ = copy.deepcopy(function.__kwdefaults__, self._memo)

    def _renew(self, function: FunctionType) -> None:
        if id(function) in self._memo or not self._reaches(function, _DEPTH):
            return
        cells = tuple(self._cell(cell) for cell in function.__closure__ or ())
        renewed = FunctionType(function.__code__, function.__globals__, function.__name__, None, cells)
        renewed.__dict__.update(function.__dict__)
        self._memo[id(function)] = renewed
        self._new.append((function, renewed))
        for value in _held(function):
            for inner in _functions(value, _DEPTH):
                self._renew(inner)

    def _cell(self, cell: CellType) -> CellType:
        if not filled(cell):
            return cell
        return self._cells.setdefault(id(cell), (cell, CellType()))[1]

    def _reaches(self, value: Any, depth: int) -> bool:
        if id(value) in self._own:
            return True
        return depth > 0 and any(self._reaches(inner, depth - 1) for inner in _parts(value))


def _parts(value: Any) -> Iterator[Any]:
    """What a function, a method, a partial or a container holds."""
    if isinstance(value, FunctionType):
        yield from _held(value)
    elif isinstance(value, MethodType):
        yield from (value.__func__, value.__self__)
    elif isinstance(value, functools.partial):
        yield from (value.func, *value.args, *value.keywords.values())
    elif isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list | tuple | set | frozenset):
        yield from value


def _functions(value: Any, depth: int) -> Iterator[FunctionType]:
    if isinstance(value, FunctionType):
        yield value
    elif depth > 0:
        for inner in _parts(value):
            yield from _functions(inner, depth - 1)


def _held(function: FunctionType) -> Iterator[Any]:
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


def _detach_results(layer: nn.Module, memo: dict[int, Any]) -> None:
    """``torch.nn.utils.weight_norm`` keeps a weight that it computes anew in every call: the copy may have any."""
    for hook in layer._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm) and (weight := vars(layer).get(hook.name)) is not None:
            memo[id(weight)] = weight.detach().clone()
