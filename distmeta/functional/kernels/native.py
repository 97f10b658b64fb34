"""The kernels of ``kernels.cpp`` as torch operators ``distmeta::*``, which tracing can record.

Shapes are those of the package: x (T, N, H, W, I), filters w (T, kH, kW, I, O), y (T, N, H', W', O); for batch norm
rows (T, R, C) and vectors (T, C). T = 1 where all tasks share a tensor. float32 and float64. A pool's ``index`` is
uint8, of the shape of its output.
"""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from distmeta.functional.kernels.build import load
from distmeta.functional.kernels.geometry import Geometry, rulebook

FEW_INPUTS = 64
"""Up to this many taps times input channels, all that an output sees is multiplied at once, not tap by tap."""

_NAMES = {torch.float32: "float", torch.float64: "double"}
_ARGUMENTS = {"p": ctypes.c_void_p, "i": ctypes.c_int, "l": ctypes.c_int64, "d": ctypes.c_double}
_SIGNATURES = {
    "conv": "pii pli pli pl",
    "conv_input": "pii pli pli pl",
    "conv_weight": "pii pli pli pl",
    "norm": "iili dd pl ppl ppp",
    "norm_backward": "iili d pl ppl ppl pl ppp",
    "norm_double": "iili d pl ppl ppl pl pl ppl ppp",
    "max_pool": "p iii p pp",
    "pool_scatter": "p iii pl pl p",
    "pool_gather": "p iii pl pl p",
}
_Numbers = Sequence[int]


def conv(x: Tensor, w: Tensor, geometry: _Numbers) -> Tensor:
    """y: the convolution of every task's images with its own filter."""
    width = w.shape[-1]
    if _missing(width, w.dtype):
        return _cut(conv(x, _whole(w), geometry), width)
    return _product("conv", x.shape, w.shape, x.dtype, tuple(geometry))(x, w)


def conv_input(dy: Tensor, w: Tensor, geometry: _Numbers, size: _Numbers) -> Tensor:
    """dx: the convolution's gradient with respect to its input, of height and width ``size``."""
    inputs, outputs = w.shape[-2:]
    if _missing(inputs, w.dtype) or _missing(outputs, w.dtype):
        return _cut(conv_input(_whole(dy), _whole(_whole(w), -2), geometry, size), inputs)
    return _product("conv_input", dy.shape, w.shape, dy.dtype, tuple(geometry), tuple(size))(dy, w)


def conv_weight(x: Tensor, dy: Tensor, geometry: _Numbers) -> Tensor:
    """dw: the convolution's gradient with respect to every task's filter."""
    width = dy.shape[-1]
    if _missing(width, dy.dtype):
        return _cut(conv_weight(x, _whole(dy), geometry), width)
    return _product("conv_weight", x.shape, dy.shape, x.dtype, tuple(geometry))(x, dy)


def norm(x: Tensor, scale: Tensor, shift: Tensor, eps: float, slope: float) -> tuple[Tensor, Tensor, Tensor]:
    """z, mean and 1 / sqrt(variance + eps)."""
    channels, dtype = x.shape[-1], x.dtype
    if _missing(channels, dtype):
        return _cut_all(norm(_whole(x), _whole(scale), _whole(shift), eps, slope), channels)
    x, (scale, shift) = x.contiguous(), _alike(scale, shift)
    tasks, rows, (next_x, next_c) = _layout(x.shape, scale.shape)
    z, mean, rate = x.new_empty((tasks, rows, channels)), *(x.new_empty((tasks, channels)) for _ in range(2))
    _kernel("norm", dtype)(
        *(tasks, torch.get_num_threads(), rows, channels, eps, slope),
        *(x.data_ptr(), next_x, scale.data_ptr(), shift.data_ptr(), next_c),
        *(z.data_ptr(), mean.data_ptr(), rate.data_ptr()),
    )
    return z, mean, rate


def norm_backward(
    x: Tensor, mean: Tensor, rate: Tensor, scale: Tensor, shift: Tensor, dz: Tensor, slope: float
) -> tuple[Tensor, Tensor, Tensor]:
    """dx, dscale and dshift."""
    channels, dtype = x.shape[-1], x.dtype
    if _missing(channels, dtype):
        x, mean, rate, scale, shift, dz = map(_whole, (x, mean, rate, scale, shift, dz))
        return _cut_all(norm_backward(x, mean, rate, scale, shift, dz, slope), channels)
    x, dz, (mean, rate), (scale, shift) = x.contiguous(), dz.contiguous(), _alike(mean, rate), _alike(scale, shift)
    tasks, rows, (next_x, next_m, next_c, next_z) = _layout(x.shape, mean.shape, scale.shape, dz.shape)
    dx, dscale, dshift = x.new_empty((tasks, rows, channels)), *(x.new_empty((tasks, channels)) for _ in range(2))
    _kernel("norm_backward", dtype)(
        *(tasks, torch.get_num_threads(), rows, channels, slope),
        *(x.data_ptr(), next_x, mean.data_ptr(), rate.data_ptr(), next_m),
        *(scale.data_ptr(), shift.data_ptr(), next_c, dz.data_ptr(), next_z),
        *(dx.data_ptr(), dscale.data_ptr(), dshift.data_ptr()),
    )
    return dx, dscale, dshift


def norm_double(
    x: Tensor,
    mean: Tensor,
    rate: Tensor,
    scale: Tensor,
    shift: Tensor,
    dz: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    slope: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of ``sum(a dx + b dscale + c dshift)`` with respect to x, scale and dz."""
    channels, dtype = x.shape[-1], x.dtype
    if _missing(channels, dtype):
        x, mean, rate, scale, shift, dz, a, b, c = map(_whole, (x, mean, rate, scale, shift, dz, a, b, c))
        return _cut_all(norm_double(x, mean, rate, scale, shift, dz, a, b, c, slope), channels)
    x, dz, a = x.contiguous(), dz.contiguous(), a.contiguous()
    (mean, rate), (scale, shift), (b, c) = _alike(mean, rate), _alike(scale, shift), _alike(b, c)
    layout = _layout(x.shape, mean.shape, scale.shape, dz.shape, a.shape, b.shape)
    tasks, rows, (next_x, next_m, next_c, next_z, next_a, next_b) = layout
    ddx, ddz = (x.new_empty((tasks, rows, channels)) for _ in range(2))
    ddscale = x.new_empty((tasks, channels))
    _kernel("norm_double", dtype)(
        *(tasks, torch.get_num_threads(), rows, channels, slope),
        *(x.data_ptr(), next_x, mean.data_ptr(), rate.data_ptr(), next_m),
        *(scale.data_ptr(), shift.data_ptr(), next_c, dz.data_ptr(), next_z),
        *(a.data_ptr(), next_a, b.data_ptr(), c.data_ptr(), next_b),
        *(ddx.data_ptr(), ddscale.data_ptr(), ddz.data_ptr()),
    )
    return ddx, ddscale, ddz


def max_pool(x: Tensor, geometry: _Numbers, size: _Numbers) -> tuple[Tensor, Tensor]:
    """The largest of every window, and which tap it came from: outputs of height and width ``size``."""
    channels, x = x.shape[-1], _whole(x)
    y = x.new_empty((*x.shape[:2], *size, x.shape[-1]))
    index = torch.empty_like(y, dtype=torch.uint8)
    pool = _pool(tuple(geometry), x.shape[1], x.shape[2:4], size)
    _kernel("max_pool", x.dtype)(
        *(pool.ctypes.data, len(x), torch.get_num_threads(), x.shape[-1]),
        *(x.data_ptr(), y.data_ptr(), index.data_ptr()),
    )
    return _cut(y, channels), _cut(index, channels)


def pool_scatter(dy: Tensor, index: Tensor, geometry: _Numbers, size: _Numbers) -> Tensor:
    """dy where it came from in inputs of height and width ``size``, and zero elsewhere."""
    channels, dy = dy.shape[-1], _whole(dy)
    index = _like(index, dy)
    tasks, _, (next_y, next_i) = _layout(dy.shape, index.shape)
    dx = dy.new_empty((tasks, dy.shape[1], *size, dy.shape[-1]))
    pool = _pool(tuple(geometry), dy.shape[1], size, dy.shape[2:4])
    _kernel("pool_scatter", dy.dtype)(
        *(pool.ctypes.data, tasks, torch.get_num_threads(), dy.shape[-1]),
        *(dy.data_ptr(), next_y, index.data_ptr(), next_i, dx.data_ptr()),
    )
    return _cut(dx, channels)


def pool_gather(x: Tensor, index: Tensor, geometry: _Numbers) -> Tensor:
    """x where ``index`` says: what ``pool_scatter`` is the transpose of."""
    channels, x = x.shape[-1], _whole(x)
    index = _like(index, x)
    tasks, _, (next_x, next_i) = _layout(x.shape, index.shape)
    y = x.new_empty((tasks, *index.shape[1:]))
    pool = _pool(tuple(geometry), x.shape[1], x.shape[2:4], index.shape[2:4])
    _kernel("pool_gather", x.dtype)(
        *(pool.ctypes.data, tasks, torch.get_num_threads(), x.shape[-1]),
        *(x.data_ptr(), next_x, index.data_ptr(), next_i, y.data_ptr()),
    )
    return _cut(y, channels)


def _pool(geometry: tuple[int, ...], images: int, inputs: _Numbers, outputs: _Numbers) -> npt.NDArray[np.int64]:
    """A pool as the kernels take it."""
    return _pool_of(geometry, images, tuple(inputs), tuple(outputs))


@functools.lru_cache(maxsize=256)
def _pool_of(
    geometry: tuple[int, ...], images: int, inputs: tuple[int, ...], outputs: tuple[int, ...]
) -> npt.NDArray[np.int64]:
    return np.array([images, *inputs, *outputs, *geometry], np.int64)


class _Book(ctypes.Structure):
    """A rulebook as the kernels take it."""

    _fields_ = (
        ("pairs", ctypes.c_void_p),
        ("starts", ctypes.c_void_p),
        *((name, ctypes.c_int32) for name in ("taps", "images", "outputs", "few")),
        *((name, ctypes.c_int32 * 2) for name in ("from", "to", "kernel", "stride", "padding", "dilation")),
    )


class _Product:
    """One of a convolution's products for tensors of these shapes, whose channels fill whole vectors.

    Small networks call their layers thousands of times a second, so all that the shapes decide is decided once.
    """

    def __init__(
        self, name: str, a: torch.Size, b: torch.Size, dtype: torch.dtype, geometry: Geometry, size: tuple[int, int]
    ) -> None:
        images, inputs = a[1], b[-2] if name == "conv_input" else a[-1]
        self._rules = pairs, starts, (_, outputs) = rulebook(geometry, images, size)
        few = geometry.taps > 1 and geometry.taps * inputs <= FEW_INPUTS
        sizes = [(ctypes.c_int32 * 2)(*two) for two in (size, geometry.output(size), *geometry)]
        self._book = _Book(pairs.ctypes.data, starts.ctypes.data, geometry.taps, images, outputs, few, *sizes)
        self._tasks, _, (self._next_a, self._next_b) = _layout(a, b)
        self._width_a, self._width_b = a[-1], inputs if name == "conv_input" else b[-1]
        shapes = {
            "conv": (images, *geometry.output(size), b[-1]),
            "conv_input": (images, *size, inputs),
            "conv_weight": (*geometry.kernel, inputs, b[-1]),
        }
        self._shape = (self._tasks, *shapes[name])
        self._next_out = math.prod(shapes[name])
        self._kernel = _kernel(name, dtype)
        self._address = ctypes.addressof(self._book)

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        a, b = a.contiguous(), b.contiguous()
        out = a.new_empty(self._shape)
        self._kernel(
            *(self._address, self._tasks, torch.get_num_threads()),
            *(a.data_ptr(), self._next_a, self._width_a, b.data_ptr(), self._next_b, self._width_b),
            *(out.data_ptr(), self._next_out),
        )
        return out


@functools.lru_cache(maxsize=512)
def _product(
    name: str,
    a: torch.Size,
    b: torch.Size,
    dtype: torch.dtype,
    geometry: tuple[int, ...],
    size: tuple[int, int] | None = None,
) -> _Product:
    """``size``: height and width of the input, where ``a`` is not the input."""
    return _Product(name, a, b, dtype, Geometry.decode(geometry), size or (a[2], a[3]))


@functools.cache
def _kernel(name: str, dtype: torch.dtype) -> Callable[..., None]:
    function = getattr(load().library, f"{name}_{_NAMES[dtype]}")
    function.argtypes = [_ARGUMENTS[letter] for letter in _SIGNATURES[name] if letter != " "]
    function.restype = None
    return function  # type: ignore[no-any-return]


@functools.cache
def _lanes(dtype: torch.dtype) -> int:
    return load().vector_bytes // dtype.itemsize


def _missing(channels: int, dtype: torch.dtype) -> int:
    """How many channels are missing to whole vectors."""
    return -channels % _lanes(dtype)


def _whole(tensor: Tensor, dim: int = -1) -> Tensor:
    """Contiguous, with a dimension filled up by zeros to whole vectors."""
    missing = _missing(tensor.shape[dim], tensor.dtype)
    if missing:
        tensor = F.pad(tensor, (0, missing) if dim == -1 else (0, 0, 0, missing))
    return tensor.contiguous()


def _like(index: Tensor, tensor: Tensor) -> Tensor:
    """Contiguous, with as many channels as a tensor that is filled up."""
    missing = tensor.shape[-1] - index.shape[-1]
    return (F.pad(index, (0, missing)) if missing else index).contiguous()


def _cut(tensor: Tensor, channels: int) -> Tensor:
    """Without the zeros that were filled up."""
    return tensor if tensor.shape[-1] == channels else tensor[..., :channels].contiguous()


def _cut_all(tensors: tuple[Tensor, Tensor, Tensor], channels: int) -> tuple[Tensor, Tensor, Tensor]:
    first, second, third = (_cut(tensor, channels) for tensor in tensors)
    return first, second, third


def _alike(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Two vectors a task, contiguous, that are shared alike."""
    if len(a) != len(b):
        tasks = max(len(a), len(b))
        a, b = a.expand(tasks, -1), b.expand(tasks, -1)
    return a.contiguous(), b.contiguous()


@functools.lru_cache(maxsize=512)
def _layout(*shapes: torch.Size) -> tuple[int, int, tuple[int, ...]]:
    """Tasks, rows of the first tensor, and elements to the next task of each: 0 where all tasks share it."""
    tasks = max(shape[0] for shape in shapes)
    return tasks, shapes[0][1], tuple(math.prod(shape[1:]) if shape[0] == tasks else 0 for shape in shapes)


# Defining operators is a registration in torch's table; nothing is compiled before one is called.
_OPERATORS = torch.library.Library("distmeta", "DEF")
_SCHEMAS = {
    conv: "(Tensor x, Tensor w, int[] geometry) -> Tensor",
    conv_input: "(Tensor dy, Tensor w, int[] geometry, int[] size) -> Tensor",
    conv_weight: "(Tensor x, Tensor dy, int[] geometry) -> Tensor",
    norm: "(Tensor x, Tensor scale, Tensor shift, float eps, float slope) -> (Tensor, Tensor, Tensor)",
    norm_backward: "(Tensor x, Tensor mean, Tensor rate, Tensor scale, Tensor shift, Tensor dz, float slope) "
    "-> (Tensor, Tensor, Tensor)",
    norm_double: "(Tensor x, Tensor mean, Tensor rate, Tensor scale, Tensor shift, Tensor dz, Tensor a, Tensor b, "
    "Tensor c, float slope) -> (Tensor, Tensor, Tensor)",
    max_pool: "(Tensor x, int[] geometry, int[] size) -> (Tensor, Tensor)",
    pool_scatter: "(Tensor dy, Tensor index, int[] geometry, int[] size) -> Tensor",
    pool_gather: "(Tensor x, Tensor index, int[] geometry) -> Tensor",
}
for _operator, _schema in _SCHEMAS.items():
    _OPERATORS.define(_operator.__name__ + _schema)
    _OPERATORS.impl(_operator.__name__, _operator, "CPU")

OPERATORS = torch.ops.distmeta
"""What a tracer can record; the functions above are opaque to it."""


def _fake_conv(x: Tensor, w: Tensor, geometry: _Numbers) -> Tensor:
    height, width = Geometry.decode(geometry).output((x.shape[2], x.shape[3]))
    return x.new_empty((_tasks(x, w), x.shape[1], height, width, w.shape[-1]))


def _fake_conv_input(dy: Tensor, w: Tensor, geometry: _Numbers, size: _Numbers) -> Tensor:
    return dy.new_empty((_tasks(dy, w), dy.shape[1], size[0], size[1], w.shape[-2]))


def _fake_conv_weight(x: Tensor, dy: Tensor, geometry: _Numbers) -> Tensor:
    return x.new_empty((_tasks(x, dy), *Geometry.decode(geometry).kernel, x.shape[-1], dy.shape[-1]))


def _fake_norm(x: Tensor, scale: Tensor, shift: Tensor, eps: float, slope: float) -> Any:
    return _fake_results(_tasks(x, scale, shift), x, 1, 2)


def _fake_norm_backward(*arguments: Any) -> Any:
    return _fake_results(_tasks(*arguments[:-1]), arguments[0], 1, 2)


def _fake_norm_double(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    ddx, ddz, ddscale = _fake_results(_tasks(*arguments[:-1]), arguments[0], 2, 1)
    return ddx, ddscale, ddz


def _fake_max_pool(x: Tensor, geometry: _Numbers, size: _Numbers) -> tuple[Tensor, Tensor]:
    y = x.new_empty((*x.shape[:2], *size, x.shape[-1]))
    return y, torch.empty_like(y, dtype=torch.uint8)


def _fake_pool_scatter(dy: Tensor, index: Tensor, geometry: _Numbers, size: _Numbers) -> Tensor:
    return dy.new_empty((_tasks(dy, index), dy.shape[1], *size, dy.shape[-1]))


def _fake_pool_gather(x: Tensor, index: Tensor, geometry: _Numbers) -> Tensor:
    return x.new_empty((_tasks(x, index), *index.shape[1:]))


def _tasks(*tensors: Tensor) -> int:
    return max(map(len, tensors))


def _fake_results(tasks: int, x: Tensor, rows: int, vectors: int) -> Any:
    """Tensors like x, then vectors a channel."""
    like_x = [x.new_empty((tasks, *x.shape[1:])) for _ in range(rows)]
    return (*like_x, *(x.new_empty((tasks, x.shape[-1])) for _ in range(vectors)))


_FAKES: dict[str, Callable[..., Any]] = {
    "conv": _fake_conv,
    "conv_input": _fake_conv_input,
    "conv_weight": _fake_conv_weight,
    "norm": _fake_norm,
    "norm_backward": _fake_norm_backward,
    "norm_double": _fake_norm_double,
    "max_pool": _fake_max_pool,
    "pool_scatter": _fake_pool_scatter,
    "pool_gather": _fake_pool_gather,
}
for _name, _fake in _FAKES.items():
    torch.library.register_fake(f"distmeta::{_name}", _fake, lib=_OPERATORS)
