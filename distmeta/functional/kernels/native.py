"""The kernels of ``kernels.cpp`` as torch operators ``distmeta::*``, which tracing can record.

Shapes are those of the package: x (T, N, H, W, I), filters w (T, kH, kW, I, O), y (T, N, H', W', O); for batch norm
rows (T, R, C) and vectors (T, C). T = 1 where all tasks share a tensor. float32 and float64. A pool's ``index`` is
uint8, of the shape of its output.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from distmeta.functional.kernels.build import load
from distmeta.functional.kernels.geometry import Geometry, Rulebook, rulebook

FEW_INPUTS = 64
"""Up to this many taps times input channels, patches are written side by side and multiplied at once."""

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
    call, rows, filters = _call_of(tuple(geometry), *x.shape[1:]), x.contiguous(), _whole(w)
    width, tasks = filters.shape[-1], _tasks(x, w)
    y = x.new_empty((tasks, *call.output, width))
    steps = (_step(rows, tasks), rows.shape[-1]), (_step(filters, tasks), width), y.stride(0)
    _products("conv", call, y, rows, filters, *steps)
    return _cut(y, w.shape[-1])


def conv_input(dy: Tensor, w: Tensor, geometry: _Numbers, size: _Numbers) -> Tensor:
    """dx: the convolution's gradient with respect to its input, of height and width ``size``."""
    call = _call_of(tuple(geometry), dy.shape[1], *size, w.shape[-2])
    filters, rows = _whole(_whole(w), -2), _whole(dy)
    depth, width = rows.shape[-1], filters.shape[-2]
    tasks = max(len(dy), len(w))
    dx = dy.new_empty((tasks, dy.shape[1], *size, width))
    steps = (_step(rows, tasks), depth), (_step(filters, tasks), width), dx.stride(0)
    _products("conv_input", call, dx, rows, filters, *steps)
    return _cut(dx, w.shape[-2])


def conv_weight(x: Tensor, dy: Tensor, geometry: _Numbers) -> Tensor:
    """dw: the convolution's gradient with respect to every task's filter."""
    call, rows, down = _call_of(tuple(geometry), *x.shape[1:]), x.contiguous(), _whole(dy)
    width, tasks = down.shape[-1], _tasks(x, dy)
    dw = x.new_empty((tasks, *call.kernel, rows.shape[-1], width))
    steps = (_step(rows, tasks), rows.shape[-1]), (_step(down, tasks), width), dw.stride(0)
    _products("conv_weight", call, dw, rows, down, *steps)
    return _cut(dw, dy.shape[-1])


def norm(x: Tensor, scale: Tensor, shift: Tensor, eps: float, slope: float) -> tuple[Tensor, Tensor, Tensor]:
    """z, mean and 1 / sqrt(variance + eps)."""
    channels, tasks = x.shape[-1], max(len(x), len(scale), len(shift))
    x, (scale, shift) = _whole(x), _vectors(scale, shift)
    z = x.new_empty((tasks, *x.shape[1:]))
    mean, rate = (x.new_empty((tasks, x.shape[-1])) for _ in range(2))
    _kernel("norm", x.dtype)(
        *_sizes(x, tasks),
        eps,
        slope,
        *(x.data_ptr(), _step(x, tasks), scale.data_ptr(), shift.data_ptr(), _step(scale, tasks)),
        *(z.data_ptr(), mean.data_ptr(), rate.data_ptr()),
    )
    return _cut(z, channels), _cut(mean, channels), _cut(rate, channels)


def norm_backward(
    x: Tensor, mean: Tensor, rate: Tensor, scale: Tensor, shift: Tensor, dz: Tensor, slope: float
) -> tuple[Tensor, Tensor, Tensor]:
    """dx, dscale and dshift."""
    channels, tasks = x.shape[-1], max(len(x), len(scale), len(shift), len(dz))
    x, dz, (mean, rate), (scale, shift) = _whole(x), _whole(dz), _vectors(mean, rate), _vectors(scale, shift)
    dx = x.new_empty((tasks, *x.shape[1:]))
    dscale, dshift = (x.new_empty((tasks, x.shape[-1])) for _ in range(2))
    _kernel("norm_backward", x.dtype)(
        *_sizes(x, tasks),
        slope,
        *_given(tasks, x, mean, rate, scale, shift, dz),
        *(dx.data_ptr(), dscale.data_ptr(), dshift.data_ptr()),
    )
    return _cut(dx, channels), _cut(dscale, channels), _cut(dshift, channels)


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
    channels, tasks = x.shape[-1], max(map(len, (x, scale, shift, dz, a, b, c)))
    x, dz, a = _whole(x), _whole(dz), _whole(a)
    (mean, rate), (scale, shift), (b, c) = _vectors(mean, rate), _vectors(scale, shift), _vectors(b, c)
    ddx, ddz = (x.new_empty((tasks, *x.shape[1:])) for _ in range(2))
    ddscale = x.new_empty((tasks, x.shape[-1]))
    _kernel("norm_double", x.dtype)(
        *_sizes(x, tasks),
        slope,
        *_given(tasks, x, mean, rate, scale, shift, dz),
        *(a.data_ptr(), _step(a, tasks), b.data_ptr(), c.data_ptr(), _step(b, tasks)),
        *(ddx.data_ptr(), ddscale.data_ptr(), ddz.data_ptr()),
    )
    return _cut(ddx, channels), _cut(ddscale, channels), _cut(ddz, channels)


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
    channels, tasks, dy = dy.shape[-1], _tasks(dy, index), _whole(dy)
    index = _like(index, dy)
    dx = dy.new_empty((tasks, dy.shape[1], *size, dy.shape[-1]))
    pool = _pool(tuple(geometry), dy.shape[1], size, dy.shape[2:4])
    _kernel("pool_scatter", dy.dtype)(
        *(pool.ctypes.data, tasks, torch.get_num_threads(), dy.shape[-1]),
        *(dy.data_ptr(), _step(dy, tasks), index.data_ptr(), _step(index, tasks), dx.data_ptr()),
    )
    return _cut(dx, channels)


def pool_gather(x: Tensor, index: Tensor, geometry: _Numbers) -> Tensor:
    """x where ``index`` says: what ``pool_scatter`` is the transpose of."""
    channels, tasks, x = x.shape[-1], _tasks(x, index), _whole(x)
    index = _like(index, x)
    y = x.new_empty((tasks, *index.shape[1:]))
    pool = _pool(tuple(geometry), x.shape[1], x.shape[2:4], index.shape[2:4])
    _kernel("pool_gather", x.dtype)(
        *(pool.ctypes.data, tasks, torch.get_num_threads(), x.shape[-1]),
        *(x.data_ptr(), _step(x, tasks), index.data_ptr(), _step(index, tasks), y.data_ptr()),
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
    )


class _Call(NamedTuple):
    """What does not change between the calls of a convolution of one shape.

    Attributes:
        book: its pairs.
        kernel: height and width of the filter.
        output: images, height and width of the result.
        rulebook: what the book points into.
    """

    book: _Book
    kernel: tuple[int, int]
    output: tuple[int, int, int]
    rulebook: Rulebook


@functools.lru_cache(maxsize=256)
def _call_of(geometry: tuple[int, ...], images: int, height: int, width: int, inputs: int) -> _Call:
    shape = Geometry.decode(geometry)
    pairs, starts, (_, outputs) = rules = rulebook(shape, images, (height, width))
    few = shape.taps > 1 and shape.taps * inputs <= FEW_INPUTS
    book = _Book(pairs.ctypes.data, starts.ctypes.data, shape.taps, images, outputs, few)
    return _Call(book, shape.kernel, (images, *shape.output((height, width))), rules)


def _products(
    name: str,
    call: _Call,
    out: Tensor,
    a: Tensor,
    b: Tensor,
    of_a: tuple[int, int],
    of_b: tuple[int, int],
    next_out: int,
) -> None:
    """One of the convolution's products of every task; ``of_a``, ``of_b``: elements to the next task, and in a row."""
    arguments = (a.data_ptr(), *of_a, b.data_ptr(), *of_b, out.data_ptr(), next_out)
    _kernel(name, out.dtype)(ctypes.addressof(call.book), len(out), torch.get_num_threads(), *arguments)


@functools.cache
def _kernel(name: str, dtype: torch.dtype) -> Callable[..., None]:
    function = getattr(load().library, f"{name}_{_NAMES[dtype]}")
    function.argtypes = [_ARGUMENTS[letter] for letter in _SIGNATURES[name] if letter != " "]
    function.restype = None
    return function  # type: ignore[no-any-return]


@functools.cache
def _lanes(dtype: torch.dtype) -> int:
    return load().vector_bytes // dtype.itemsize


def _step(tensor: Tensor, tasks: int) -> int:
    """Elements from one task of a contiguous tensor to the next; 0 where they share it."""
    return tensor.stride(0) if len(tensor) == tasks else 0


def _whole(tensor: Tensor, dim: int = -1) -> Tensor:
    """Contiguous, with a dimension filled up by zeros to whole vectors."""
    missing = -tensor.shape[dim] % _lanes(tensor.dtype)
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


def _vectors(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Two vectors a task that are shared alike."""
    if len(a) != len(b):
        tasks = max(len(a), len(b))
        a, b = a.expand(tasks, -1), b.expand(tasks, -1)
    return _whole(a), _whole(b)


def _sizes(x: Tensor, tasks: int) -> tuple[int, int, int, int]:
    return tasks, torch.get_num_threads(), x.shape[1], x.shape[2]


def _given(
    tasks: int, x: Tensor, mean: Tensor, rate: Tensor, scale: Tensor, shift: Tensor, dz: Tensor
) -> tuple[int, ...]:
    """What both derivatives of batch norm read."""
    return (
        *(x.data_ptr(), _step(x, tasks), mean.data_ptr(), rate.data_ptr(), _step(mean, tasks)),
        *(scale.data_ptr(), shift.data_ptr(), _step(scale, tasks), dz.data_ptr(), _step(dz, tasks)),
    )


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
