"""The kernels of ``kernels.cpp`` as torch operators ``distmeta::*``, which tracing can record.

Shapes are those of the package: x (T, N, H, W, I), filters w (T, kH, kW, I, O), y (T, N, H', W', O); for batch norm
rows (T, R, C) and vectors (T, C). T = 1 where all tasks share a tensor. float32 and float64.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from distmeta.kernels.build import load
from distmeta.kernels.geometry import Geometry, Rulebook, diagonal, rulebook

FEW_INPUTS = 64
"""Up to this many taps times input channels, the patches are written side by side and multiplied at once."""

_NAMES = {torch.float32: "float", torch.float64: "double"}
_ARGUMENTS = {"p": ctypes.c_void_p, "i": ctypes.c_int, "l": ctypes.c_int64, "d": ctypes.c_double}
_SIGNATURES = {
    "patches": "ppiii pli pl",
    "conv": "ppiii pli pli pl",
    "conv_input": "ppiii pli pli pl",
    "conv_weight": "ppiii pli pli pl",
    "norm": "iili dd pl ppl ppp",
    "norm_backward": "iili d pl ppl ppl pl ppp",
    "norm_double": "iili d pl ppl ppl pl pl ppl ppp",
}
_Numbers = Sequence[int]


def conv(x: Tensor, w: Tensor, geometry: _Numbers) -> Tensor:
    """y: the convolution of every task's images with its own filter."""
    shape, size = Geometry.decode(geometry), (x.shape[2], x.shape[3])
    images, outputs = x.shape[1], w.shape[-1]
    rows, book = _rows(x, shape)
    filters = _filters(w, book)
    y = x.new_empty((_tasks(x, w), book.rows[1], filters.shape[-1]))
    _products("conv", book, y, rows, filters)
    return y[..., :outputs].reshape(len(y), images, *shape.output(size), outputs)


def conv_input(dy: Tensor, w: Tensor, geometry: _Numbers, size: _Numbers) -> Tensor:
    """dx: the convolution's gradient with respect to its input, of height and width ``size``."""
    shape, inputs = Geometry.decode(geometry), w.shape[-2]
    book = rulebook(shape, dy.shape[1], (size[0], size[1]))
    filters = _whole(_whole(w), -2)
    rows = _whole(dy).reshape(len(dy), -1, filters.shape[-1])
    dx = dy.new_empty((_tasks(dy, w), book.rows[0], filters.shape[-2]))
    _products("conv_input", book, dx, rows, filters.reshape(len(w), shape.taps, *filters.shape[-2:]), inputs_last=True)
    return dx[..., :inputs].reshape(len(dx), dy.shape[1], *size, inputs)


def conv_weight(x: Tensor, dy: Tensor, geometry: _Numbers) -> Tensor:
    """dw: the convolution's gradient with respect to every task's filter."""
    shape, outputs = Geometry.decode(geometry), dy.shape[-1]
    rows, book = _rows(x, shape)
    down = _whole(dy).reshape(len(dy), -1, _round_up(outputs, dy.dtype))
    taps = len(book.starts) - 1
    dw = x.new_empty((_tasks(x, dy), taps, rows.shape[-1], down.shape[-1]))
    _products("conv_weight", book, dw, rows, down)
    return dw[..., :outputs].reshape(len(dw), *shape.kernel, x.shape[-1], outputs)


def norm(x: Tensor, scale: Tensor, shift: Tensor, eps: float, slope: float) -> tuple[Tensor, Tensor, Tensor]:
    """z, mean and 1 / sqrt(variance + eps)."""
    tasks, channels = _tasks(x, scale, shift), x.shape[-1]
    x, (scale, shift) = _whole(x), _vectors(scale, shift)
    z = x.new_empty((tasks, *x.shape[1:]))
    mean, rate = (x.new_empty((tasks, x.shape[-1])) for _ in range(2))
    sizes = (tasks, torch.get_num_threads(), x.shape[1], x.shape[-1])
    _call("norm", x.dtype, *sizes, eps, slope, x, _next(x, tasks), scale, shift, _next(scale, tasks), z, mean, rate)
    return z[..., :channels], mean[..., :channels], rate[..., :channels]


def norm_backward(
    x: Tensor, mean: Tensor, rate: Tensor, scale: Tensor, shift: Tensor, dz: Tensor, slope: float
) -> tuple[Tensor, Tensor, Tensor]:
    """dx, dscale and dshift."""
    tasks, channels = _tasks(x, mean, scale, shift, dz), x.shape[-1]
    x, dz, (mean, rate), (scale, shift) = _whole(x), _whole(dz), _vectors(mean, rate), _vectors(scale, shift)
    dx = x.new_empty((tasks, *x.shape[1:]))
    dscale, dshift = (x.new_empty((tasks, x.shape[-1])) for _ in range(2))
    sizes = (tasks, torch.get_num_threads(), x.shape[1], x.shape[-1])
    given = (x, _next(x, tasks), mean, rate, _next(mean, tasks), scale, shift, _next(scale, tasks))
    _call("norm_backward", x.dtype, *sizes, slope, *given, dz, _next(dz, tasks), dx, dscale, dshift)
    return dx[..., :channels], dscale[..., :channels], dshift[..., :channels]


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
    tasks, channels = _tasks(x, mean, scale, shift, dz, a, b, c), x.shape[-1]
    x, dz, a = _whole(x), _whole(dz), _whole(a)
    (mean, rate), (scale, shift), (b, c) = _vectors(mean, rate), _vectors(scale, shift), _vectors(b, c)
    ddx, ddz = (x.new_empty((tasks, *x.shape[1:])) for _ in range(2))
    ddscale = x.new_empty((tasks, x.shape[-1]))
    sizes = (tasks, torch.get_num_threads(), x.shape[1], x.shape[-1])
    given = (x, _next(x, tasks), mean, rate, _next(mean, tasks), scale, shift, _next(scale, tasks))
    cotangents = (dz, _next(dz, tasks), a, _next(a, tasks), b, c, _next(b, tasks))
    _call("norm_double", x.dtype, *sizes, slope, *given, *cotangents, ddx, ddscale, ddz)
    return ddx[..., :channels], ddscale[..., :channels], ddz[..., :channels]


@functools.cache
def _function(name: str, dtype: torch.dtype) -> Callable[..., None]:
    function = getattr(load().library, f"{name}_{_NAMES[dtype]}")
    function.argtypes = [_ARGUMENTS[letter] for letter in _SIGNATURES[name] if letter != " "]
    function.restype = None
    return function  # type: ignore[no-any-return]


def _call(name: str, dtype: torch.dtype, *arguments: Any) -> None:
    _function(name, dtype)(*(value.data_ptr() if isinstance(value, Tensor) else value for value in arguments))


def _products(name: str, book: Rulebook, out: Tensor, a: Tensor, b: Tensor, inputs_last: bool = False) -> None:
    """One of the convolution's products, of every task: ``out`` from ``a`` and ``b``."""
    tasks = len(out)
    width = b.shape[-2] if inputs_last else b.shape[-1]
    book_arguments = (book.pairs.ctypes.data, book.starts.ctypes.data, len(book.starts) - 1)
    each = (a, _next(a, tasks), a.shape[-1], b, _next(b, tasks), width, out, _next(out, tasks))
    _call(name, out.dtype, *book_arguments, tasks, torch.get_num_threads(), *each)


def _rows(x: Tensor, shape: Geometry) -> tuple[Tensor, Rulebook]:
    """The input as rows (T, R, depth), and the pairs by which a filter meets them."""
    inputs = x.shape[-1]
    book = rulebook(shape, x.shape[1], (x.shape[2], x.shape[3]))
    rows = x.contiguous().view(len(x), -1, inputs)
    if shape.taps * inputs > FEW_INPUTS or shape.taps == 1:
        return rows, book
    patches = x.new_empty((len(x), book.rows[1], shape.taps * inputs))
    arguments = (book.pairs.ctypes.data, book.starts.ctypes.data, shape.taps, len(x), torch.get_num_threads())
    _call("patches", x.dtype, *arguments, rows, _next(rows, len(x)), inputs, patches, _next(patches, len(x)))
    return patches, diagonal(book.rows[1])


def _filters(w: Tensor, book: Rulebook) -> Tensor:
    """Filters (T, taps of the rulebook, depth, O), whole vectors of outputs."""
    w = _whole(w)
    return w.view(len(w), len(book.starts) - 1, -1, w.shape[-1])


def _tasks(*tensors: Tensor) -> int:
    return max(map(len, tensors))


def _next(tensor: Tensor, tasks: int) -> int:
    """Elements from one task to the next; 0 where they share the tensor."""
    return tensor[0].numel() if len(tensor) == tasks else 0


def _round_up(size: int, dtype: torch.dtype) -> int:
    lanes = load().vector_bytes // dtype.itemsize
    return -(-size // lanes) * lanes


def _whole(tensor: Tensor, dim: int = -1) -> Tensor:
    """Contiguous, with a dimension filled up by zeros to whole vectors."""
    missing = _round_up(tensor.shape[dim], tensor.dtype) - tensor.shape[dim]
    if missing:
        tensor = F.pad(tensor, (0, missing) if dim == -1 else (0, 0, 0, missing))
    return tensor.contiguous()


def _vectors(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Two vectors a task that are shared alike."""
    tasks = _tasks(a, b)
    return _whole(a.expand(tasks, -1)), _whole(b.expand(tasks, -1))


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
}
for _name, _fake in _FAKES.items():
    torch.library.register_fake(f"distmeta::{_name}", _fake, lib=_OPERATORS)
