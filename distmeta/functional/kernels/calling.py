"""How tensors are given to the kernels of ``kernels.cpp``."""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from distmeta.functional.kernels.build import load

_NAMES = {torch.float32: "float", torch.float64: "double"}
_ARGUMENTS = {"p": ctypes.c_void_p, "i": ctypes.c_int, "l": ctypes.c_int64, "d": ctypes.c_double}
_SIGNATURES = {
    "conv": "pii pli pli pl",
    "conv_input": "pii pli pli pl",
    "conv_weight": "pii pli pli pl",
    "norm": "iili dd pl ppl ppp",
    "norm_backward": "iili d pl ppl ppl pl ppp",
    "norm_double": "iili d pl ppl ppl pl pl ppl ppp",
    "block": "p ii ii dd pl pl ppl pppp",
    "block_backward": "p ii ii d pl pl pl ppl ppl pl pl ppppp",
    "block_double": "p ii ii d pl pl pl ppl ppl pl pl pl pl ppl ppppp",
    "max_pool": "p iii p pp",
    "pool_scatter": "p iii pl pl p",
    "pool_gather": "p iii pl pl p",
}


@functools.cache
def kernel(name: str, dtype: torch.dtype) -> Callable[..., None]:
    """A function of ``kernels.cpp``, for tensors of this type."""
    function = getattr(load().library, f"{name}_{_NAMES[dtype]}")
    function.argtypes = [_ARGUMENTS[letter] for letter in _SIGNATURES[name] if letter != " "]
    function.restype = None
    return function  # type: ignore[no-any-return]


@functools.cache
def _lanes(dtype: torch.dtype) -> int:
    return load().vector_bytes // dtype.itemsize


def missing_channels(channels: int, dtype: torch.dtype) -> int:
    """How many channels are missing to whole vectors."""
    return -channels % _lanes(dtype)


def whole(tensor: Tensor, dim: int = -1) -> Tensor:
    """Contiguous, with a dimension filled up by zeros to whole vectors."""
    missing = missing_channels(tensor.shape[dim], tensor.dtype)
    if missing:
        tensor = F.pad(tensor, (0, missing) if dim == -1 else (0, 0, 0, missing))
    return tensor.contiguous()


def cut(tensor: Tensor, channels: int) -> Tensor:
    """Without the zeros that were filled up."""
    return tensor if tensor.shape[-1] == channels else tensor[..., :channels].contiguous()


def alike(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Two vectors a task, contiguous, that are shared alike."""
    if len(a) != len(b):
        tasks = max(len(a), len(b))
        a, b = a.expand(tasks, -1), b.expand(tasks, -1)
    return a.contiguous(), b.contiguous()


@functools.lru_cache(maxsize=512)
def strides_of(*shapes: torch.Size) -> tuple[int, int, tuple[int, ...]]:
    """Tasks, rows of the first tensor, and elements to the next task of each: 0 where all tasks share it."""
    tasks = max(shape[0] for shape in shapes)
    return tasks, shapes[0][1], tuple(math.prod(shape[1:]) if shape[0] == tasks else 0 for shape in shapes)


def tasks_of(*tensors: Tensor) -> int:
    """How many tasks tensors are of, of which some may be shared."""
    return max(map(len, tensors))
