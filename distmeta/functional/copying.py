"""A copy of a module that shares nothing with it, functions that its attributes hold included."""

from __future__ import annotations

import copy
import io
import threading
import weakref
from types import CellType, FunctionType, GeneratorType
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from distmeta.errors import ConfigError
from distmeta.functional.objects import filled, held, within

_LOCKS = (
    type(threading.Lock()),
    type(threading.RLock()),
    threading.Condition,
    threading.Event,
    threading.Semaphore,
)
"""What copies may share, and has to be shared to be of any use."""

_UNCOPYABLE: dict[type, str] = {io.IOBase: "an open file", GeneratorType: "a Python generator"}


def copy_module(module: nn.Module, memo: dict[int, Any] | None = None) -> nn.Module:
    """A deep copy, in which functions and weak references that lead to the module lead to the copy.

    ``copy.deepcopy`` takes them as they are, so that ``self.act = lambda x: x * self.scale`` would read the original's
    ``scale`` for ever.

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
        raise _uncopyable(module, error) from error
    _check_apart(module, copied)
    _lead_back(copied, memo)
    return copied


def _check_apart(module: nn.Module, copied: nn.Module) -> None:
    """Refuse layers that are in the copy themselves: what is done to it would be done to the original."""
    own = {id(layer) for layer in module.modules()}
    shared = next((path for path, layer in copied.named_modules() if id(layer) in own), None)
    if shared is not None:
        raise ConfigError(
            f"the model cannot be copied: {shared or 'it'} gives itself when it is copied; let its __deepcopy__ give a "
            "copy, or leave it out"
        )


def _lead_back(copied: nn.Module, memo: dict[int, Any]) -> None:
    """Let weak references in attributes lead to the copies of what they lead to."""
    for layer in copied.modules():
        for name, value in vars(layer).items():
            if type(value) is weakref.ref and isinstance(value(), nn.Module) and id(value()) in memo:
                vars(layer)[name] = weakref.ref(memo[id(value())])


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
            for each in within(vars(layer)):
                if isinstance(each, FunctionType) and id(each) not in memo and self._reaches(each):
                    self._renew(each)
                elif is_result(each):
                    memo.setdefault(id(each), each.detach().clone())
                elif isinstance(each, _LOCKS):
                    memo[id(each)] = each

    def fill(self) -> None:
        """Let the new functions refer to the copies."""
        for old, new in self._cells.values():
            new.cell_contents = copy.deepcopy(old.cell_contents, self._memo)
        for function, renewed in self._new:
            renewed.__defaults__ = copy.deepcopy(function.__defaults__, self._memo)
            renewed.__kwdefaults__ = copy.deepcopy(function.__kwdefaults__, self._memo)

    def _renew(self, function: FunctionType) -> None:
        cells = tuple(self._cell(cell) for cell in function.__closure__ or ())
        renewed = FunctionType(function.__code__, function.__globals__, function.__name__, None, cells)
        renewed.__dict__.update(function.__dict__)
        self._memo[id(function)] = renewed
        self._new.append((function, renewed))

    def _cell(self, cell: CellType) -> CellType:
        if not filled(cell):
            return cell
        return self._cells.setdefault(id(cell), (cell, CellType()))[1]

    def _reaches(self, function: FunctionType) -> bool:
        return any(id(each) in self._own for inner in held(function) for each in within(inner))


def is_result(value: Any) -> bool:
    """Whether this is a tensor that was computed from parameters, of which a copy is a constant.

    ``torch.nn.utils.prune`` and the older ``spectral_norm`` and ``weight_norm`` keep a weight that they compute anew in
    every call.
    """
    return isinstance(value, Tensor) and value.grad_fn is not None


def _uncopyable(module: nn.Module, error: Exception) -> ConfigError:
    """Why a module cannot be copied, with the attribute whose fault it is."""
    for path, layer in module.named_modules():
        for name, value in vars(layer).items():
            if name not in vars(nn.Module()) and not _copies(value):
                kinds = (words for each in within(value) for cls, words in _UNCOPYABLE.items() if isinstance(each, cls))
                kind = next(kinds, type(value).__name__)
                label = f"{path}.{name}" if path else name
                return ConfigError(
                    f"the model cannot be copied: its {label} is, or holds, {kind} ({error}); "
                    "let it hold what copy.deepcopy can copy: open a file, or make an iterator, where it is used"
                )
    return ConfigError(f"the model cannot be copied: {error}; let it hold only what copy.deepcopy can copy")


def _copies(value: Any) -> bool:
    try:
        copy.deepcopy(value, {id(each): each for each in within(value) if isinstance(each, _LOCKS) or is_result(each)})
    except Exception:  # whatever a user's class raises
        return False
    return True
