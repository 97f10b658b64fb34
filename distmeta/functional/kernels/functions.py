"""The task-batched layers as differentiable functions that every transform of ``torch.func`` passes through.

A convolution is linear in its input and in its filter, and its gradients are again such products: three functions are
closed under differentiation to any order. Batch norm with its ReLU is differentiated twice by formulas of its own. A
max-pool is linear once it is known where the largest values are, and its gradient is the transpose of it.
Without a task dimension tensors count as one task; ``torch.vmap`` turns its own dimension into the task dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import Function

from distmeta.functional.kernels import Form, native, products
from distmeta.functional.kernels.geometry import Geometry

NO_THIRD = "the task-batched batch norm has no third derivative; use engine.layers=general"


def conv2d(x: Tensor, w: Tensor, geometry: Geometry, form: Form) -> Tensor:
    """The convolution of ``F.conv2d`` without a bias, for one task.

    Args:
        x: (N, I, H, W); fastest where its channels lie last in memory, as those of the result do.
        w: (O, I, kH, kW); fastest where it lies in memory as (kH, kW, I, O).
        geometry: how the filter moves.
        form: which implementation computes it.

    Returns:
        (N, O, H', W').
    """
    # Here, not in every product that takes them: a convolution's derivatives take the same images again and again.
    maps = x.permute(0, 2, 3, 1).contiguous().unsqueeze(0)
    filters = w.permute(2, 3, 1, 0).unsqueeze(0)
    y: Tensor = _Conv.apply(maps, filters, geometry.encode(), form)
    return y.squeeze(0).permute(0, 3, 1, 2)


def batch_norm(x: Tensor, scale: Tensor, shift: Tensor, eps: float, slope: float, form: Form) -> Tensor:
    """``f((x - mean) / sqrt(variance + eps) * scale + shift)`` with ``f(y) = y if y > 0 else slope * y``, for one task.

    Mean and biased variance are those of each channel of x. Twice differentiable.

    Args:
        x: (N, C, ...); fastest where its channels lie last in memory, as those of the result do.
        scale: (C,).
        shift: (C,).
        eps: added to the variance.
        slope: 0 for a ReLU, 1 for none.
        form: which implementation computes it.
    """
    if x.dtype == torch.bfloat16:  # statistics of too few bits
        return batch_norm(x.float(), scale.float(), shift.float(), eps, slope, form).to(x.dtype)
    return batch_norm_and_moments(x, scale, shift, eps, slope, form)[0]


def batch_norm_and_moments(
    x: Tensor, scale: Tensor, shift: Tensor, eps: float, slope: float, form: Form
) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`batch_norm`, and mean and ``1 / sqrt(variance + eps)`` of each channel (C,), which have no derivatives."""
    last = x.movedim(1, -1)
    rows = last.flatten(0, -2).unsqueeze(0)
    z, mean, rate = _Norm.apply(rows, scale.unsqueeze(0), shift.unsqueeze(0), eps, slope, form)
    return cast(Tensor, z).squeeze(0).view(last.shape).movedim(-1, 1), mean.squeeze(0), rate.squeeze(0)


def max_pool2d(x: Tensor, geometry: Geometry, size: tuple[int, int], form: Form) -> Tensor:
    """The max-pool of ``F.max_pool2d``, for one task: the same choice among equal values, and NaN where there is one.

    Args:
        x: (N, C, H, W); fastest where its channels lie last in memory, as those of the result do.
        geometry: how windows move; of at most 256 taps, at least one of each on the input.
        size: height and width of the result.
        form: which implementation computes it.

    Returns:
        (N, C, H', W').
    """
    maps = x.permute(0, 2, 3, 1).unsqueeze(0)
    y, _ = _MaxPool.apply(maps, geometry.encode(), list(size), form)
    return cast(Tensor, y).squeeze(0).permute(0, 3, 1, 2)


def _operations(form: Form) -> Any:
    if form == "products":
        return products
    return native.OPERATORS


def _merge(info: Any, dims: Sequence[int | None], tensors: Sequence[Tensor]) -> list[Tensor]:
    """Mapped tensors (T, 1, ...) as (T, ...); unmapped ones stay (1, ...).

    A task dimension of more than one inside the mapped one is merged with it, and then all have it.
    """
    inner = max(t.shape[0 if d is None or d > 0 else 1] for t, d in zip(tensors, dims, strict=True))
    merged = []
    for tensor, dim in zip(tensors, dims, strict=True):
        if dim is None and inner == 1:
            merged.append(tensor)
            continue
        whole = tensor.expand(info.batch_size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
        merged.append(whole.expand(-1, inner, *whole.shape[2:]).flatten(0, 1))
    return merged


class TaskFunction(Function):
    """What the functions share: a map over tasks, in which tensors come first and settings last.

    Attributes:
        tensors: how many arguments are tensors.
    """

    tensors: int

    @classmethod
    def vmap(cls, info: Any, dims: Sequence[int | None], *arguments: Any) -> tuple[Any, Any]:
        """All tasks in one call."""
        merged = _merge(info, dims[: cls.tensors], arguments[: cls.tensors])
        results = cls.apply(*merged, *arguments[cls.tensors :])
        split = torch.utils._pytree.tree_map(lambda r: r.unflatten(0, (info.batch_size, -1)), results)
        return split, torch.utils._pytree.tree_map(lambda _: 0, results)


def sum_to(gradient: Tensor, like: Tensor | int) -> Tensor:
    """Summed over tasks where they share the tensor; of which the number of tasks is enough."""
    tasks = like if isinstance(like, int) else len(like)
    return gradient.sum(0, keepdim=True) if tasks == 1 and len(gradient) > 1 else gradient


class _Conv(TaskFunction):
    tensors = 2

    @staticmethod
    def forward(x: Tensor, w: Tensor, geometry: list[int], form: Form) -> Tensor:
        return cast(Tensor, _operations(form).conv(x, w, geometry))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        x, w, ctx.geometry, ctx.form = inputs
        ctx.save_for_backward(x, w)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, w = ctx.saved_tensors
        needs_x, needs_w, *_ = ctx.needs_input_grad
        size = list(x.shape[2:4])
        dx = sum_to(_ConvInput.apply(dy, w, ctx.geometry, size, ctx.form), x) if needs_x else None
        dw = sum_to(_ConvWeight.apply(x, dy, ctx.geometry, ctx.form), w) if needs_w else None
        return dx, dw, None, None


class _ConvInput(TaskFunction):
    tensors = 2

    @staticmethod
    def forward(dy: Tensor, w: Tensor, geometry: list[int], size: list[int], form: Form) -> Tensor:
        return cast(Tensor, _operations(form).conv_input(dy, w, geometry, size))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        dy, w, ctx.geometry, _, ctx.form = inputs
        ctx.save_for_backward(dy, w)

    @staticmethod
    def backward(ctx: Any, a: Tensor) -> tuple[Tensor | None, ...]:
        dy, w = ctx.saved_tensors
        needs_y, needs_w, *_ = ctx.needs_input_grad
        ddy = sum_to(_Conv.apply(a, w, ctx.geometry, ctx.form), dy) if needs_y else None
        dw = sum_to(_ConvWeight.apply(a, dy, ctx.geometry, ctx.form), w) if needs_w else None
        return ddy, dw, None, None, None


class _ConvWeight(TaskFunction):
    tensors = 2

    @staticmethod
    def forward(x: Tensor, dy: Tensor, geometry: list[int], form: Form) -> Tensor:
        return cast(Tensor, _operations(form).conv_weight(x, dy, geometry))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        x, dy, ctx.geometry, ctx.form = inputs
        ctx.save_for_backward(x, dy)

    @staticmethod
    def backward(ctx: Any, b: Tensor) -> tuple[Tensor | None, ...]:
        x, dy = ctx.saved_tensors
        needs_x, needs_y, *_ = ctx.needs_input_grad
        size = list(x.shape[2:4])
        dx = sum_to(_ConvInput.apply(dy, b, ctx.geometry, size, ctx.form), x) if needs_x else None
        ddy = sum_to(_Conv.apply(x, b, ctx.geometry, ctx.form), dy) if needs_y else None
        return dx, ddy, None, None


class _Norm(TaskFunction):
    tensors = 3

    @staticmethod
    def forward(
        x: Tensor, scale: Tensor, shift: Tensor, eps: float, slope: float, form: Form
    ) -> tuple[Tensor, Tensor, Tensor]:
        return cast("tuple[Tensor, Tensor, Tensor]", _operations(form).norm(x, scale, shift, eps, slope))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        x, scale, shift, _, ctx.slope, ctx.form = inputs
        _, mean, rate = output
        ctx.mark_non_differentiable(mean, rate)
        ctx.save_for_backward(x, mean, rate, scale, shift)

    @staticmethod
    def backward(ctx: Any, dz: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        x, _, _, scale, shift = ctx.saved_tensors
        dx, dscale, dshift = _NormBackward.apply(*ctx.saved_tensors, dz, ctx.slope, ctx.form)
        return sum_to(dx, x), sum_to(dscale, scale), sum_to(dshift, shift), None, None, None


class _NormBackward(TaskFunction):
    """The gradients of ``_Norm`` as functions of x, scale and dz; mean and rate count as functions of x."""

    tensors = 6

    @staticmethod
    def forward(
        x: Tensor,
        mean: Tensor,
        rate: Tensor,
        scale: Tensor,
        shift: Tensor,
        dz: Tensor,
        slope: float,
        form: Form,
    ) -> tuple[Tensor, Tensor, Tensor]:
        operations = _operations(form)
        return cast("tuple[Tensor, Tensor, Tensor]", operations.norm_backward(x, mean, rate, scale, shift, dz, slope))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        *tensors, ctx.slope, ctx.form = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor | None, ...]:
        x, _, _, scale, _, dz = ctx.saved_tensors
        ddx, ddscale, ddz = _NormDouble.apply(*ctx.saved_tensors, a, b, c, ctx.slope, ctx.form)
        return sum_to(ddx, x), None, None, sum_to(ddscale, scale), None, sum_to(ddz, dz), None, None


class LastDerivative(TaskFunction):
    """A second derivative, which has none itself."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Nothing is needed again."""

    @staticmethod
    def backward(ctx: Any, *_: Any) -> tuple[None, ...]:
        """Refuse it, saying what to do."""
        raise RuntimeError(NO_THIRD)


class _NormDouble(LastDerivative):
    tensors = 9

    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
        *rest, form = arguments
        return cast("tuple[Tensor, Tensor, Tensor]", _operations(form).norm_double(*rest))


class _MaxPool(TaskFunction):
    tensors = 1

    @staticmethod
    def forward(x: Tensor, geometry: list[int], size: list[int], form: Form) -> tuple[Tensor, Tensor]:
        return cast("tuple[Tensor, Tensor]", _operations(form).max_pool(x, geometry, size))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        x, ctx.geometry, _, ctx.form = inputs
        ctx.size = list(x.shape[2:4])
        _, index = output
        ctx.mark_non_differentiable(index)
        ctx.save_for_backward(index)

    @staticmethod
    def backward(ctx: Any, dy: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        (index,) = ctx.saved_tensors
        dx = _PoolScatter.apply(dy, index, ctx.geometry, ctx.size, ctx.form)
        return sum_to(dx, index), None, None, None


class _PoolScatter(TaskFunction):
    tensors = 2

    @staticmethod
    def forward(dy: Tensor, index: Tensor, geometry: list[int], size: list[int], form: Form) -> Tensor:
        return cast(Tensor, _operations(form).pool_scatter(dy, index, geometry, size))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        dy, index, ctx.geometry, _, ctx.form = inputs
        ctx.tasks = len(dy)
        ctx.save_for_backward(index)

    @staticmethod
    def backward(ctx: Any, a: Tensor) -> tuple[Tensor | None, ...]:
        (index,) = ctx.saved_tensors
        ddy = _PoolGather.apply(a, index, ctx.geometry, ctx.form)
        return sum_to(ddy, ctx.tasks), None, None, None, None


class _PoolGather(TaskFunction):
    tensors = 2

    @staticmethod
    def forward(x: Tensor, index: Tensor, geometry: list[int], form: Form) -> Tensor:
        return cast(Tensor, _operations(form).pool_gather(x, index, geometry))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        x, index, ctx.geometry, ctx.form = inputs
        ctx.tasks, ctx.size = len(x), list(x.shape[2:4])
        ctx.save_for_backward(index)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        (index,) = ctx.saved_tensors
        dx = _PoolScatter.apply(dy, index, ctx.geometry, ctx.size, ctx.form)
        return sum_to(dx, ctx.tasks), None, None, None
