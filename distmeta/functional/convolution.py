"""Convolutions whose filters differ from task to task."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from distmeta.functional.kernels import Form
from distmeta.functional.kernels.functions import conv2d
from distmeta.functional.kernels.geometry import Geometry

Size = int | Sequence[int]


def task_geometry(
    inputs: Tensor, weight: Tensor, stride: Size, padding: Size | str, dilation: Size, groups: int
) -> Geometry | None:
    """How the filter of a call of ``F.conv2d`` moves; ``None`` where there is no task-batched form of the call.

    That are calls with groups, with padding by name, of one image without a batch dimension, in mixed types or under
    autocast, and those that torch is to refuse.

    >>> task_geometry(torch.ones(2, 1, 5, 5), torch.ones(4, 1, 3, 3), 2, 1, 1, groups=1)
    Geometry(kernel=(3, 3), stride=(2, 2), padding=(1, 1), dilation=(1, 1))
    """
    if groups != 1 or isinstance(padding, str) or inputs.dim() != 4 or weight.dim() != 4:
        return None
    if inputs.shape[1] != weight.shape[1] or 0 in inputs.shape or 0 in weight.shape:
        return None
    if inputs.dtype != weight.dtype or not inputs.is_floating_point():
        return None
    if torch.is_autocast_enabled(inputs.device.type):
        return None
    kernel = (weight.shape[2], weight.shape[3])
    geometry = Geometry(kernel, pair(stride), pair(padding), pair(dilation))
    if min(*geometry.stride, *geometry.dilation) < 1 or min(geometry.padding) < 0:
        return None
    return geometry if min(geometry.output((inputs.shape[2], inputs.shape[3]))) > 0 else None


def task_conv2d(inputs: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, form: Form) -> Tensor:
    """(N, I, H, W) to (N, O, H', W'); fast under ``vmap`` with a filter a task."""
    maps = conv2d(inputs, weight, geometry, form)
    return maps if bias is None else maps + bias[:, None, None]


def filters(module: nn.Module) -> list[Tensor]:
    """The weights of the module's convolutions that have a task-batched form, as far as its structure shows."""
    return [
        layer.weight
        for layer in module.modules()
        if isinstance(layer, nn.Conv2d)
        and "weight" in layer._parameters
        and layer.groups == 1
        and not isinstance(layer.padding, str)
    ]


def filter_layout(weight: Tensor) -> Tensor:
    """The same (O, I, kH, kW) tensor, in memory as (kH, kW, I, O), which the task-batched layers take as it is.

    >>> filter_layout(torch.zeros(4, 3, 2, 2)).stride()
    (1, 4, 24, 12)
    """
    return weight.permute(2, 3, 1, 0).contiguous().permute(3, 2, 0, 1)


def pair(size: Size) -> tuple[int, int]:
    """(vertical, horizontal), as torch reads one number or two."""
    if isinstance(size, int):
        return size, size
    return (int(size[0]), int(size[-1]))
