"""A convolution, the batch norm behind it and its (leaky) ReLU as one differentiable function, by the kernels.

What one of them writes is still in the cache when the next one reads it, forwards and in both derivatives; values are
those of the three one after the other.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from distmeta.functional.kernels import block_operators
from distmeta.functional.kernels.calling import missing_channels
from distmeta.functional.kernels.functions import NO_THIRD, TaskFunction, sum_to
from distmeta.functional.kernels.geometry import Geometry


def fits(w: Tensor) -> bool:
    """Whether there are kernels for a filter (O, I, kH, kW) of this type and number of outputs."""
    return w.dtype in (torch.float32, torch.float64) and not missing_channels(w.shape[0], w.dtype)


def conv_norm(
    x: Tensor, w: Tensor, scale: Tensor, shift: Tensor, geometry: Geometry, eps: float, slope: float
) -> Tensor:
    """``functions.batch_norm(functions.conv2d(x, w, ...), scale, shift, ...)`` for one task, twice differentiable.

    Args:
        x: (N, I, H, W); fastest where its channels lie last in memory, as those of the result do.
        w: (O, I, kH, kW) that :func:`fits`.
        scale: (O,).
        shift: (O,).
        geometry: how the filter moves.
        eps: added to the variance.
        slope: 0 for a ReLU, 1 for none.

    Returns:
        (N, O, H', W').
    """
    maps = x.permute(0, 2, 3, 1).contiguous().unsqueeze(0)
    filters = w.permute(2, 3, 1, 0).unsqueeze(0)
    z, *_ = _Block.apply(maps, filters, scale.unsqueeze(0), shift.unsqueeze(0), geometry.encode(), eps, slope)
    return cast(Tensor, z).squeeze(0).permute(0, 3, 1, 2)


class _Block(TaskFunction):
    tensors = 4

    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return cast("tuple[Tensor, Tensor, Tensor, Tensor]", block_operators.OPERATORS.block(*arguments))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        x, w, scale, shift, ctx.geometry, _, ctx.slope = inputs
        _, y, mean, rate = output
        ctx.mark_non_differentiable(y, mean, rate)
        ctx.save_for_backward(x, w, y, mean, rate, scale, shift)

    @staticmethod
    def backward(ctx: Any, dz: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        x, w, _, _, _, scale, shift = ctx.saved_tensors
        needs_x = ctx.needs_input_grad[0]
        _, dx, dw, dscale, dshift = _BlockBackward.apply(*ctx.saved_tensors, dz, ctx.geometry, ctx.slope, needs_x)
        to_x = sum_to(dx, x) if needs_x else None
        return to_x, sum_to(dw, w), sum_to(dscale, scale), sum_to(dshift, shift), None, None, None


class _BlockBackward(TaskFunction):
    """Those of ``_Block`` as functions of x, w, scale and dz; y, mean and rate count as functions of x and w."""

    tensors = 8

    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, ...]:
        return cast("tuple[Tensor, ...]", block_operators.OPERATORS.block_backward(*arguments))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        *tensors, ctx.geometry, ctx.slope, _ = inputs
        dy = output[0]
        ctx.mark_non_differentiable(dy)
        ctx.save_for_backward(*tensors, dy)

    @staticmethod
    def backward(ctx: Any, _: Any, a: Tensor, v: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor | None, ...]:
        x, w, _, _, _, scale, _, dz, _ = ctx.saved_tensors
        needs_x = ctx.needs_input_grad[0]
        found = _BlockDouble.apply(*ctx.saved_tensors, a, v, b, c, ctx.geometry, ctx.slope, needs_x)
        ddx, ddw, ddscale, ddz = found
        to_x = sum_to(ddx, x) if needs_x else None
        to_norm = (None, None, None, sum_to(ddscale, scale), None)
        return to_x, sum_to(ddw, w), *to_norm, sum_to(ddz, dz), None, None, None


class _BlockDouble(TaskFunction):
    tensors = 13

    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, ...]:
        return cast("tuple[Tensor, ...]", block_operators.OPERATORS.block_double(*arguments))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *_: Any) -> tuple[None, ...]:
        raise RuntimeError(NO_THIRD)
