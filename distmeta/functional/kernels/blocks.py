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
from distmeta.functional.kernels.functions import NO_THIRD, LastDerivative, TaskFunction, sum_to
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
    """z and y = x * w, of which z is a function. Gradients of y meet at it, so that each product is computed once."""

    tensors = 4

    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return cast("tuple[Tensor, Tensor, Tensor, Tensor]", block_operators.OPERATORS.block(*arguments))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        x, w, scale, shift, ctx.geometry, _, ctx.slope = inputs
        _, y, mean, rate = output
        ctx.mark_non_differentiable(mean, rate)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, w, y, mean, rate, scale, shift)

    @staticmethod
    def backward(ctx: Any, dz: Tensor | None, more: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        x, w, y, _, _, scale, shift = ctx.saved_tensors
        needs_x = ctx.needs_input_grad[0]
        dz = torch.zeros_like(y) if dz is None else dz
        more = _nothing(x) if more is None else more
        given = (*ctx.saved_tensors, dz, more, ctx.geometry, ctx.slope, needs_x)
        _, dx, dw, dscale, dshift = _BlockBackward.apply(*given)
        to_x = sum_to(dx, x) if needs_x else None
        return to_x, sum_to(dw, w), sum_to(dscale, scale), sum_to(dshift, shift), None, None, None


class _BlockBackward(TaskFunction):
    """Those of ``_Block`` as functions of x, w, y, scale and dz; mean and rate count as functions of y."""

    tensors = 9

    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, ...]:
        return cast("tuple[Tensor, ...]", block_operators.OPERATORS.block_backward(*arguments))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        *tensors, more, ctx.geometry, ctx.slope, _ = inputs
        dy = output[0]
        ctx.once = not more.numel()
        ctx.mark_non_differentiable(dy)
        ctx.save_for_backward(*tensors, dy)

    @staticmethod
    def backward(ctx: Any, _: Any, a: Tensor, v: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor | None, ...]:
        if not ctx.once:  # a cotangent of y comes from a second derivative
            raise RuntimeError(NO_THIRD)
        x, w, y, _, _, scale, _, dz, _ = ctx.saved_tensors
        needs_x = ctx.needs_input_grad[0]
        found = _BlockDouble.apply(*ctx.saved_tensors, a, v, b, c, ctx.geometry, ctx.slope, needs_x)
        ddx, ddw, ddy, ddscale, ddz = found
        to_x = sum_to(ddx, x) if needs_x else None
        to_w = sum_to(ddw, w) if a.numel() else None
        to_norm = (sum_to(ddy, y), None, None, sum_to(ddscale, scale), None)
        return to_x, to_w, *to_norm, sum_to(ddz, dz), None, None, None, None


class _BlockDouble(LastDerivative):
    tensors = 13

    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, ...]:
        return cast("tuple[Tensor, ...]", block_operators.OPERATORS.block_double(*arguments))


def _nothing(like: Tensor) -> Tensor:
    """For a tensor that there is not."""
    return like.new_empty((1, 0))
