"""Those of :mod:`~distmeta.functional.kernels.native` by torch's operators: any device, any floating-point type.

A convolution is one batched product of its patches with the filters; a max-pool goes tap by tap.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from distmeta.functional.kernels.geometry import Geometry

_Numbers = Sequence[int]


def conv(x: Tensor, w: Tensor, geometry: _Numbers) -> Tensor:
    """y: the convolution of every task's images with its own filter."""
    shape = Geometry.decode(geometry)
    y = torch.matmul(_patches(x, shape), w.flatten(1, 3))
    return y.view(len(y), x.shape[1], *shape.output((x.shape[2], x.shape[3])), -1)


def conv_input(dy: Tensor, w: Tensor, geometry: _Numbers, size: _Numbers) -> Tensor:
    """dx: the convolution's gradient with respect to its input, of height and width ``size``."""
    shape = Geometry.decode(geometry)
    tasks, images = max(len(dy), len(w)), dy.shape[1]
    patches = torch.matmul(dy.flatten(1, 3), w.flatten(1, 3).mT)
    rows, columns = dy.shape[2:4]
    # (T, N, H', W', taps, I) to the columns that fold adds up: (T N, I taps, H' W').
    columns_first = patches.view(tasks, images, rows * columns, shape.taps, -1).permute(0, 1, 4, 3, 2)
    folded = F.fold(
        columns_first.reshape(tasks * images, -1, rows * columns),
        (size[0], size[1]),
        shape.kernel,
        shape.dilation,
        shape.padding,
        shape.stride,
    )
    return folded.view(tasks, images, *folded.shape[1:]).permute(0, 1, 3, 4, 2)


def conv_weight(x: Tensor, dy: Tensor, geometry: _Numbers) -> Tensor:
    """dw: the convolution's gradient with respect to every task's filter."""
    shape = Geometry.decode(geometry)
    dw = torch.matmul(_patches(x, shape).mT, dy.flatten(1, 3))
    return dw.view(len(dw), *shape.kernel, x.shape[-1], -1)


def norm(x: Tensor, scale: Tensor, shift: Tensor, eps: float, slope: float) -> tuple[Tensor, Tensor, Tensor]:
    """z, mean and 1 / sqrt(variance + eps)."""
    variance, mean = torch.var_mean(x, 1, correction=0)
    rate = torch.rsqrt(variance + eps)
    y = _normal(x, mean, rate) * scale[:, None] + shift[:, None]
    return torch.where(y > 0, y, slope * y), mean, rate


def norm_backward(
    x: Tensor, mean: Tensor, rate: Tensor, scale: Tensor, shift: Tensor, dz: Tensor, slope: float
) -> tuple[Tensor, Tensor, Tensor]:
    """dx, dscale and dshift."""
    normal = _normal(x, mean, rate)
    dy = _rectified(normal, scale, shift, dz, slope)
    down, along = dy.mean(1), (dy * normal).mean(1)
    dx = (scale * rate)[:, None] * (dy - down[:, None] - normal * along[:, None])
    return dx, along * x.shape[1], down * x.shape[1]


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
    """Gradients of ``sum(a dx + b dscale + c dshift)`` with respect to x, scale and dz; letters as in kernels.cpp."""
    normal = _normal(x, mean, rate)
    dy = _rectified(normal, scale, shift, dz, slope)
    factor, b, c = (scale * rate)[:, None], b[:, None], c[:, None]
    up, up_along = a.mean(1, keepdim=True), (a * normal).mean(1, keepdim=True)
    down, down_along = dy.mean(1, keepdim=True), (dy * normal).mean(1, keepdim=True)
    rest = (a * dy).mean(1, keepdim=True) - up * down - up_along * down_along
    ddz = _rectified(normal, scale, shift, factor * (a - up - normal * up_along) + b * normal + c, slope)
    u = b * dy - factor * (a * down_along + up_along * dy)
    along = (u * normal).mean(1, keepdim=True) + factor * rest
    ddx = rate[:, None] * (u - u.mean(1, keepdim=True) - normal * along)
    return ddx, (rest[:, 0] * rate) * x.shape[1], ddz


def max_pool(x: Tensor, geometry: _Numbers, size: _Numbers) -> tuple[Tensor, Tensor]:
    """The largest of every window, and which tap it came from: outputs of height and width ``size``."""
    shape = Geometry.decode(geometry)
    inside = _inside(shape, x.shape[2:4], size).to(x.device)
    padded, places = _framed(x, shape, size, -torch.inf), _places(shape, size)
    # As in torch the first of equal ones, and the last NaN where there are any; never a tap on padding.
    y = x.new_full((*x.shape[:2], *size, x.shape[-1]), -torch.inf)
    index = inside.to(torch.uint8).argmax(0).to(torch.uint8)[..., None].expand(y.shape)
    for tap, place in enumerate(places):
        value = padded[place]
        better = (value > y) | (value != value)
        y, index = torch.where(better, value, y), torch.where(better, index.new_full((), tap), index)
    return y, index.contiguous()


def pool_scatter(dy: Tensor, index: Tensor, geometry: _Numbers, size: _Numbers) -> Tensor:
    """dy where it came from in inputs of height and width ``size``, and zero elsewhere."""
    shape, outputs = Geometry.decode(geometry), dy.shape[2:4]
    tasks = max(len(dy), len(index))
    padded = _framed(dy.new_zeros((tasks, dy.shape[1], *size, dy.shape[-1])), shape, outputs, 0.0)
    for tap, place in enumerate(_places(shape, outputs)):
        padded[place] += torch.where(index == tap, dy, dy.new_zeros(()))
    down, right = shape.padding
    return padded[:, :, down : down + size[0], right : right + size[1]].contiguous()


def pool_gather(x: Tensor, index: Tensor, geometry: _Numbers) -> Tensor:
    """x where ``index`` says: what ``pool_scatter`` is the transpose of."""
    shape, outputs = Geometry.decode(geometry), index.shape[2:4]
    padded = _framed(x, shape, outputs, 0.0)
    y = x.new_zeros((max(len(x), len(index)), *index.shape[1:]))
    for tap, place in enumerate(_places(shape, outputs)):
        y = torch.where(index == tap, padded[place], y)
    return y


def _inside(shape: Geometry, inputs: _Numbers, outputs: _Numbers) -> Tensor:
    """(taps, H', W'): whether a window's tap lies on the input."""
    down, right = (torch.from_numpy(shape.inside(axis, inputs[axis], outputs[axis])) for axis in (0, 1))
    return (down.T[:, None, :, None] & right.T[None, :, None, :]).flatten(0, 1)


def _framed(x: Tensor, shape: Geometry, outputs: _Numbers, value: float) -> Tensor:
    """x with a frame that the last window reaches too."""
    frame = []
    for axis in (1, 0):
        end = (outputs[axis] - 1) * shape.stride[axis] + shape.dilation[axis] * (shape.kernel[axis] - 1) + 1
        before = shape.padding[axis]
        frame += [before, max(0, end - before - x.shape[2 + axis])]
    return F.pad(x, (0, 0, *frame), value=value)


def _places(shape: Geometry, outputs: _Numbers) -> list[tuple[slice, ...]]:
    """For every tap, where all windows have it in the framed input."""
    rows, columns = (
        [
            slice(first, first + (outputs[axis] - 1) * shape.stride[axis] + 1, shape.stride[axis])
            for first in range(0, shape.dilation[axis] * shape.kernel[axis], shape.dilation[axis])
        ]
        for axis in (0, 1)
    )
    return [(slice(None), slice(None), down, right) for down in rows for right in columns]


def _patches(x: Tensor, shape: Geometry) -> Tensor:
    """(T, N H' W', taps I): what each output sees."""
    (kernel, stride, padding, dilation), images = shape, x.shape[1]
    padded = F.pad(x, (0, 0, padding[1], padding[1], padding[0], padding[0]))
    tall, wide = shape.output((x.shape[2], x.shape[3]))
    strides = padded.stride()
    windows = padded.as_strided(
        (len(x), images, tall, wide, *kernel, x.shape[-1]),
        (
            *strides[:2],
            strides[2] * stride[0],
            strides[3] * stride[1],
            strides[2] * dilation[0],
            strides[3] * dilation[1],
            strides[4],
        ),
    )
    return windows.reshape(len(x), images * tall * wide, -1)


def _normal(x: Tensor, mean: Tensor, rate: Tensor) -> Tensor:
    return (x - mean[:, None]) * rate[:, None]


def _rectified(normal: Tensor, scale: Tensor, shift: Tensor, value: Tensor, slope: float) -> Tensor:
    """``value`` where batch norm's output is positive, ``slope * value`` elsewhere."""
    return torch.where(normal * scale[:, None] + shift[:, None] > 0, value, slope * value)
