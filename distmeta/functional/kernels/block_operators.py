"""A convolution with the batch norm and the (leaky) ReLU behind it as torch operators ``distmeta::block*``.

Shapes are as in :mod:`~distmeta.functional.kernels.native`. Output channels fill whole vectors. A tensor (T, 0) stands
for one that there is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from distmeta.functional.kernels.books import Book, book
from distmeta.functional.kernels.calling import alike, cut, kernel, missing_channels, strides_of, tasks_of, whole
from distmeta.functional.kernels.geometry import Geometry
from distmeta.functional.kernels.native import OPERATORS, register

__all__ = ["OPERATORS", "block", "block_backward", "block_double"]

_Numbers = Sequence[int]


def block(
    x: Tensor, w: Tensor, scale: Tensor, shift: Tensor, geometry: _Numbers, eps: float, slope: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """z, the convolution's own output y, and mean and 1 / sqrt(variance + eps) of y."""
    x, w, (scale, shift) = x.contiguous(), w.contiguous(), alike(scale, shift)
    tasks, images, (next_x, next_w, next_c) = strides_of(x.shape, w.shape, scale.shape)
    rules, channels = _book(x, w, geometry), w.shape[-1]
    y, z = (x.new_empty((tasks, images, *rules.output, channels)) for _ in range(2))
    mean, rate = (x.new_empty((tasks, channels)) for _ in range(2))
    kernel("block", x.dtype)(
        *(rules.address, tasks, torch.get_num_threads(), x.shape[-1], channels, eps, slope),
        *(x.data_ptr(), next_x, w.data_ptr(), next_w, scale.data_ptr(), shift.data_ptr(), next_c),
        *(y.data_ptr(), z.data_ptr(), mean.data_ptr(), rate.data_ptr()),
    )
    return z, y, mean, rate


def block_backward(
    x: Tensor,
    w: Tensor,
    y: Tensor,
    mean: Tensor,
    rate: Tensor,
    scale: Tensor,
    shift: Tensor,
    dz: Tensor,
    more: Tensor,
    geometry: _Numbers,
    slope: float,
    to_input: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """dy with ``more``, a cotangent of y itself, in it; dx (only ``to_input``), dw, dscale and dshift."""
    inputs = x.shape[-1]
    if to_input and missing_channels(inputs, x.dtype):
        given = (whole(x), whole(w, -2), y, mean, rate, scale, shift, dz, more)
        dy, dx, dw, dscale, dshift = block_backward(*given, geometry, slope, to_input)
        return dy, cut(dx, inputs), dw[..., :inputs, :].contiguous(), dscale, dshift
    x, w, y, dz, more = (each.contiguous() for each in (x, w, y, dz, more))
    (mean, rate), (scale, shift) = alike(mean, rate), alike(scale, shift)
    shapes = (x.shape, w.shape, y.shape, mean.shape, scale.shape, dz.shape, more.shape)
    tasks, _, (next_x, next_w, next_y, next_m, next_c, next_z, next_more) = strides_of(*shapes)
    rules, channels = _book(x, w, geometry), w.shape[-1]
    dy, dw = x.new_empty((tasks, *y.shape[1:])), x.new_empty((tasks, *w.shape[1:]))
    dx = x.new_empty((tasks, *x.shape[1:]) if to_input else (tasks, 0))
    dscale, dshift = (x.new_empty((tasks, channels)) for _ in range(2))
    kernel("block_backward", x.dtype)(
        *(rules.address, tasks, torch.get_num_threads(), inputs, channels, slope),
        *(x.data_ptr(), next_x, w.data_ptr(), next_w, y.data_ptr(), next_y),
        *(mean.data_ptr(), rate.data_ptr(), next_m, scale.data_ptr(), shift.data_ptr(), next_c),
        *(dz.data_ptr(), next_z, _address(more), next_more),
        *(dy.data_ptr(), _address(dx), dw.data_ptr(), dscale.data_ptr(), dshift.data_ptr()),
    )
    return dy, dx, dw, dscale, dshift


def block_double(
    x: Tensor,
    w: Tensor,
    y: Tensor,
    mean: Tensor,
    rate: Tensor,
    scale: Tensor,
    shift: Tensor,
    dz: Tensor,
    dy: Tensor,
    a: Tensor,
    v: Tensor,
    b: Tensor,
    c: Tensor,
    geometry: _Numbers,
    slope: float,
    to_input: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of ``sum(a dx + v dw + b dscale + c dshift)`` by x (``to_input``), w (with a), y, scale and dz.

    y is a variable of its own here: :func:`block_backward` takes its gradient as ``more``.
    """
    inputs = x.shape[-1]
    if (to_input or a.numel()) and missing_channels(inputs, x.dtype):
        filled = whole(a) if a.numel() else a
        given = (whole(x), whole(w, -2), y, mean, rate, scale, shift, dz, dy, filled, whole(v, -2), b, c)
        ddx, ddw, ddy, ddscale, ddz = block_double(*given, geometry, slope, to_input)
        to_w = ddw[..., :inputs, :].contiguous() if a.numel() else ddw
        return cut(ddx, inputs) if to_input else ddx, to_w, ddy, ddscale, ddz
    x, w, y, dz, dy, a, v = (each.contiguous() for each in (x, w, y, dz, dy, a, v))
    (mean, rate), (scale, shift), (b, c) = alike(mean, rate), alike(scale, shift), alike(b, c)
    tensors = (x, w, y, mean, scale, dz, dy, a, v, b)
    tasks, _, strides = strides_of(*(each.shape for each in tensors))
    next_x, next_w, next_y, next_m, next_c, next_z, next_d, next_a, next_v, next_b = strides
    rules, channels = _book(x, w, geometry), w.shape[-1]
    ddx = x.new_empty((tasks, *x.shape[1:]) if to_input else (tasks, 0))
    ddw = x.new_empty((tasks, *w.shape[1:]) if a.numel() else (tasks, 0))
    ddy, ddz = (x.new_empty((tasks, *y.shape[1:])) for _ in range(2))
    ddscale = x.new_empty((tasks, channels))
    kernel("block_double", x.dtype)(
        *(rules.address, tasks, torch.get_num_threads(), inputs, channels, slope),
        *(x.data_ptr(), next_x, w.data_ptr(), next_w, y.data_ptr(), next_y),
        *(mean.data_ptr(), rate.data_ptr(), next_m, scale.data_ptr(), shift.data_ptr(), next_c),
        *(dz.data_ptr(), next_z, dy.data_ptr(), next_d, _address(a), next_a, v.data_ptr(), next_v),
        *(b.data_ptr(), c.data_ptr(), next_b),
        *(_address(ddx), _address(ddw), ddy.data_ptr(), ddscale.data_ptr(), ddz.data_ptr()),
    )
    return ddx, ddw, ddy, ddscale, ddz


def _book(x: Tensor, w: Tensor, geometry: _Numbers) -> Book:
    return book(tuple(geometry), x.shape[1], (x.shape[2], x.shape[3]), w.shape[-2])


def _address(tensor: Tensor) -> int | None:
    """Of the first element, if there is one."""
    return tensor.data_ptr() if tensor.numel() else None


def _fake_block(x: Tensor, w: Tensor, scale: Tensor, shift: Tensor, geometry: _Numbers, *_: float) -> Any:
    tasks, channels = tasks_of(x, w, scale, shift), w.shape[-1]
    size = Geometry.decode(geometry).output((x.shape[2], x.shape[3]))
    maps = [x.new_empty((tasks, x.shape[1], *size, channels)) for _ in range(2)]
    return (*maps, *(x.new_empty((tasks, channels)) for _ in range(2)))


def _fake_block_backward(*arguments: Any) -> Any:
    *tensors, _, _, to_input = arguments
    x, w, y, tasks = *tensors[:3], tasks_of(*tensors)
    dx = x.new_empty((tasks, *x.shape[1:]) if to_input else (tasks, 0))
    vectors = (x.new_empty((tasks, w.shape[-1])) for _ in range(2))
    return x.new_empty((tasks, *y.shape[1:])), dx, x.new_empty((tasks, *w.shape[1:])), *vectors


def _fake_block_double(*arguments: Any) -> Any:
    *tensors, _, _, to_input = arguments
    x, w, y, a, tasks = *tensors[:3], tensors[9], tasks_of(*tensors)
    ddx = x.new_empty((tasks, *x.shape[1:]) if to_input else (tasks, 0))
    ddw = x.new_empty((tasks, *w.shape[1:]) if a.numel() else (tasks, 0))
    ddy, ddz = (x.new_empty((tasks, *y.shape[1:])) for _ in range(2))
    return ddx, ddw, ddy, x.new_empty((tasks, w.shape[-1])), ddz


_GIVEN = "Tensor x, Tensor w, Tensor y, Tensor mean, Tensor rate, Tensor scale, Tensor shift, Tensor dz"
register(
    block,
    "(Tensor x, Tensor w, Tensor scale, Tensor shift, int[] geometry, float eps, float slope) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
    _fake_block,
)
register(
    block_backward,
    f"({_GIVEN}, Tensor more, int[] geometry, float slope, bool to_input) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _fake_block_backward,
)
register(
    block_double,
    f"({_GIVEN}, Tensor dy, Tensor a, Tensor v, Tensor b, Tensor c, int[] geometry, float slope, bool to_input) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _fake_block_double,
)
