"""The kernels of ``kernels.cpp`` as torch operators ``distmeta::*``, which tracing can record.

Shapes are those of the package: x (T, N, H, W, I), filters w (T, kH, kW, I, O), y (T, N, H', W', O); for batch norm
rows (T, R, C) and vectors (T, C). T = 1 where all tasks share a tensor. float32 and float64. A pool's ``index`` is
uint8, of the shape of its output.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from distmeta.functional.kernels.books import book
from distmeta.functional.kernels.calling import alike, cut, kernel, missing_channels, strides_of, tasks_of, whole
from distmeta.functional.kernels.geometry import Geometry

_Numbers = Sequence[int]


def conv(x: Tensor, w: Tensor, geometry: _Numbers) -> Tensor:
    """y: the convolution of every task's images with its own filter."""
    width = w.shape[-1]
    if missing_channels(width, w.dtype):
        return cut(conv(x, whole(w), geometry), width)
    return _product("conv", x.shape, w.shape, x.dtype, tuple(geometry))(x, w)


def conv_input(dy: Tensor, w: Tensor, geometry: _Numbers, size: _Numbers) -> Tensor:
    """dx: the convolution's gradient with respect to its input, of height and width ``size``."""
    inputs, outputs = w.shape[-2:]
    if missing_channels(inputs, w.dtype) or missing_channels(outputs, w.dtype):
        return cut(conv_input(whole(dy), whole(whole(w), -2), geometry, size), inputs)
    return _product("conv_input", dy.shape, w.shape, dy.dtype, tuple(geometry), tuple(size))(dy, w)


def conv_weight(x: Tensor, dy: Tensor, geometry: _Numbers) -> Tensor:
    """dw: the convolution's gradient with respect to every task's filter."""
    width = dy.shape[-1]
    if missing_channels(width, dy.dtype):
        return cut(conv_weight(x, whole(dy), geometry), width)
    return _product("conv_weight", x.shape, dy.shape, x.dtype, tuple(geometry))(x, dy)


def norm(x: Tensor, scale: Tensor, shift: Tensor, eps: float, slope: float) -> tuple[Tensor, Tensor, Tensor]:
    """z, mean and 1 / sqrt(variance + eps)."""
    channels, dtype = x.shape[-1], x.dtype
    if missing_channels(channels, dtype):
        return _cut_all(norm(whole(x), whole(scale), whole(shift), eps, slope), channels)
    x, (scale, shift) = x.contiguous(), alike(scale, shift)
    tasks, rows, (next_x, next_c) = strides_of(x.shape, scale.shape)
    z, mean, rate = x.new_empty((tasks, rows, channels)), *(x.new_empty((tasks, channels)) for _ in range(2))
    kernel("norm", dtype)(
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
    if missing_channels(channels, dtype):
        x, mean, rate, scale, shift, dz = map(whole, (x, mean, rate, scale, shift, dz))
        return _cut_all(norm_backward(x, mean, rate, scale, shift, dz, slope), channels)
    x, dz, (mean, rate), (scale, shift) = x.contiguous(), dz.contiguous(), alike(mean, rate), alike(scale, shift)
    tasks, rows, (next_x, next_m, next_c, next_z) = strides_of(x.shape, mean.shape, scale.shape, dz.shape)
    dx, dscale, dshift = x.new_empty((tasks, rows, channels)), *(x.new_empty((tasks, channels)) for _ in range(2))
    kernel("norm_backward", dtype)(
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
    if missing_channels(channels, dtype):
        x, mean, rate, scale, shift, dz, a, b, c = map(whole, (x, mean, rate, scale, shift, dz, a, b, c))
        return _cut_all(norm_double(x, mean, rate, scale, shift, dz, a, b, c, slope), channels)
    x, dz, a = x.contiguous(), dz.contiguous(), a.contiguous()
    (mean, rate), (scale, shift), (b, c) = alike(mean, rate), alike(scale, shift), alike(b, c)
    layout = strides_of(x.shape, mean.shape, scale.shape, dz.shape, a.shape, b.shape)
    tasks, rows, (next_x, next_m, next_c, next_z, next_a, next_b) = layout
    ddx, ddz = (x.new_empty((tasks, rows, channels)) for _ in range(2))
    ddscale = x.new_empty((tasks, channels))
    kernel("norm_double", dtype)(
        *(tasks, torch.get_num_threads(), rows, channels, slope),
        *(x.data_ptr(), next_x, mean.data_ptr(), rate.data_ptr(), next_m),
        *(scale.data_ptr(), shift.data_ptr(), next_c, dz.data_ptr(), next_z),
        *(a.data_ptr(), next_a, b.data_ptr(), c.data_ptr(), next_b),
        *(ddx.data_ptr(), ddscale.data_ptr(), ddz.data_ptr()),
    )
    return ddx, ddscale, ddz


def max_pool(x: Tensor, geometry: _Numbers, size: _Numbers) -> tuple[Tensor, Tensor]:
    """The largest of every window, and which tap it came from: outputs of height and width ``size``."""
    channels, x = x.shape[-1], whole(x)
    y = x.new_empty((*x.shape[:2], *size, x.shape[-1]))
    index = torch.empty_like(y, dtype=torch.uint8)
    pool = _pool(tuple(geometry), x.shape[1], x.shape[2:4], size)
    kernel("max_pool", x.dtype)(
        *(pool.ctypes.data, len(x), torch.get_num_threads(), x.shape[-1]),
        *(x.data_ptr(), y.data_ptr(), index.data_ptr()),
    )
    return cut(y, channels), cut(index, channels)


def pool_scatter(dy: Tensor, index: Tensor, geometry: _Numbers, size: _Numbers) -> Tensor:
    """dy where it came from in inputs of height and width ``size``, and zero elsewhere."""
    channels, dy = dy.shape[-1], whole(dy)
    index = _like(index, dy)
    tasks, _, (next_y, next_i) = strides_of(dy.shape, index.shape)
    dx = dy.new_empty((tasks, dy.shape[1], *size, dy.shape[-1]))
    pool = _pool(tuple(geometry), dy.shape[1], size, dy.shape[2:4])
    kernel("pool_scatter", dy.dtype)(
        *(pool.ctypes.data, tasks, torch.get_num_threads(), dy.shape[-1]),
        *(dy.data_ptr(), next_y, index.data_ptr(), next_i, dx.data_ptr()),
    )
    return cut(dx, channels)


def pool_gather(x: Tensor, index: Tensor, geometry: _Numbers) -> Tensor:
    """x where ``index`` says: what ``pool_scatter`` is the transpose of."""
    channels, x = x.shape[-1], whole(x)
    index = _like(index, x)
    tasks, _, (next_x, next_i) = strides_of(x.shape, index.shape)
    y = x.new_empty((tasks, *index.shape[1:]))
    pool = _pool(tuple(geometry), x.shape[1], x.shape[2:4], index.shape[2:4])
    kernel("pool_gather", x.dtype)(
        *(pool.ctypes.data, tasks, torch.get_num_threads(), x.shape[-1]),
        *(x.data_ptr(), next_x, index.data_ptr(), next_i, y.data_ptr()),
    )
    return cut(y, channels)


def _pool(geometry: tuple[int, ...], images: int, inputs: _Numbers, outputs: _Numbers) -> npt.NDArray[np.int64]:
    """A pool as the kernels take it."""
    return _pool_of(geometry, images, tuple(inputs), tuple(outputs))


@functools.lru_cache(maxsize=256)
def _pool_of(
    geometry: tuple[int, ...], images: int, inputs: tuple[int, ...], outputs: tuple[int, ...]
) -> npt.NDArray[np.int64]:
    return np.array([images, *inputs, *outputs, *geometry], np.int64)


class _Product:
    """One of a convolution's products for tensors of these shapes, whose channels fill whole vectors.

    Small networks call their layers thousands of times a second, so all that the shapes decide is decided once.
    """

    def __init__(
        self,
        name: str,
        a: torch.Size,
        b: torch.Size,
        dtype: torch.dtype,
        geometry: tuple[int, ...],
        size: tuple[int, int],
    ) -> None:
        images, inputs = a[1], b[-2] if name == "conv_input" else a[-1]
        self._book = book(geometry, images, size, inputs)
        self._tasks, _, (self._next_a, self._next_b) = strides_of(a, b)
        self._width_a, self._width_b = a[-1], inputs if name == "conv_input" else b[-1]
        shapes = {
            "conv": (images, *self._book.output, b[-1]),
            "conv_input": (images, *size, inputs),
            "conv_weight": (*Geometry.decode(geometry).kernel, inputs, b[-1]),
        }
        self._shape = (self._tasks, *shapes[name])
        self._next_out = math.prod(shapes[name])
        self._kernel = kernel(name, dtype)

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        a, b = a.contiguous(), b.contiguous()
        out = a.new_empty(self._shape)
        self._kernel(
            *(self._book.address, self._tasks, torch.get_num_threads()),
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
    return _Product(name, a, b, dtype, geometry, size or (a[2], a[3]))


def _like(index: Tensor, tensor: Tensor) -> Tensor:
    """Contiguous, with as many channels as a tensor that is filled up."""
    missing = tensor.shape[-1] - index.shape[-1]
    return (F.pad(index, (0, missing)) if missing else index).contiguous()


def _cut_all(tensors: tuple[Tensor, Tensor, Tensor], channels: int) -> tuple[Tensor, Tensor, Tensor]:
    first, second, third = (cut(tensor, channels) for tensor in tensors)
    return first, second, third


# Defining operators is a registration in torch's table; nothing is compiled before one is called.
_OPERATORS = torch.library.Library("distmeta", "DEF")
_SCHEMAS: dict[Callable[..., Any], str] = {
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

OPERATORS = torch.ops.distmeta
"""What a tracer can record; the functions above are opaque to it."""


def register(operator: Callable[..., Any], schema: str, fake: Callable[..., Any]) -> None:
    """Make a function an operator of its name; ``fake`` gives tensors like its results without computing them."""
    name = operator.__name__
    _OPERATORS.define(name + schema)
    _OPERATORS.impl(name, operator, "CPU")
    torch.library.register_fake(f"distmeta::{name}", fake, lib=_OPERATORS)


def _fake_conv(x: Tensor, w: Tensor, geometry: _Numbers) -> Tensor:
    height, width = Geometry.decode(geometry).output((x.shape[2], x.shape[3]))
    return x.new_empty((tasks_of(x, w), x.shape[1], height, width, w.shape[-1]))


def _fake_conv_input(dy: Tensor, w: Tensor, geometry: _Numbers, size: _Numbers) -> Tensor:
    return dy.new_empty((tasks_of(dy, w), dy.shape[1], size[0], size[1], w.shape[-2]))


def _fake_conv_weight(x: Tensor, dy: Tensor, geometry: _Numbers) -> Tensor:
    return x.new_empty((tasks_of(x, dy), *Geometry.decode(geometry).kernel, x.shape[-1], dy.shape[-1]))


def _fake_norm(x: Tensor, scale: Tensor, shift: Tensor, eps: float, slope: float) -> Any:
    return _fake_results(tasks_of(x, scale, shift), x, 1, 2)


def _fake_norm_backward(*arguments: Any) -> Any:
    return _fake_results(tasks_of(*arguments[:-1]), arguments[0], 1, 2)


def _fake_norm_double(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    ddx, ddz, ddscale = _fake_results(tasks_of(*arguments[:-1]), arguments[0], 2, 1)
    return ddx, ddscale, ddz


def _fake_max_pool(x: Tensor, geometry: _Numbers, size: _Numbers) -> tuple[Tensor, Tensor]:
    y = x.new_empty((*x.shape[:2], *size, x.shape[-1]))
    return y, torch.empty_like(y, dtype=torch.uint8)


def _fake_pool_scatter(dy: Tensor, index: Tensor, geometry: _Numbers, size: _Numbers) -> Tensor:
    return dy.new_empty((tasks_of(dy, index), dy.shape[1], *size, dy.shape[-1]))


def _fake_pool_gather(x: Tensor, index: Tensor, geometry: _Numbers) -> Tensor:
    return x.new_empty((tasks_of(x, index), *index.shape[1:]))


def _fake_results(tasks: int, x: Tensor, rows: int, vectors: int) -> Any:
    """Tensors like x, then vectors a channel."""
    like_x = [x.new_empty((tasks, *x.shape[1:])) for _ in range(rows)]
    return (*like_x, *(x.new_empty((tasks, x.shape[-1])) for _ in range(vectors)))


_FAKES: dict[Callable[..., Any], Callable[..., Any]] = {
    conv: _fake_conv,
    conv_input: _fake_conv_input,
    conv_weight: _fake_conv_weight,
    norm: _fake_norm,
    norm_backward: _fake_norm_backward,
    norm_double: _fake_norm_double,
    max_pool: _fake_max_pool,
    pool_scatter: _fake_pool_scatter,
    pool_gather: _fake_pool_gather,
}
for _operator, _schema in _SCHEMAS.items():
    register(_operator, _schema, _FAKES[_operator])
