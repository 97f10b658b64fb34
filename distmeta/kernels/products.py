"""The same operations as :mod:`distmeta.kernels.native`, by torch's own operators: any device, any floating-point type.

A convolution is one batched product of its patches with the filters.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from distmeta.kernels.geometry import Geometry

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
