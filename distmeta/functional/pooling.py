"""Max-pools of images whose channels lie last in memory, as the task-batched layers leave them."""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor

from distmeta.functional.convolution import Size, pair
from distmeta.functional.kernels import Form
from distmeta.functional.kernels.functions import max_pool2d
from distmeta.functional.kernels.geometry import Geometry

MOST_TAPS = 256
"""Elements of a window that a byte can number."""


class Windows(NamedTuple):
    """How a pool moves over its input, and the height and width of what it gives."""

    geometry: Geometry
    output: tuple[int, int]


def task_windows(
    inputs: Tensor, kernel: Size, stride: Size | None, padding: Size, dilation: Size, ceil: bool, form: Form
) -> Windows | None:
    """How the windows of a call of ``F.max_pool2d`` move; ``None`` where there is no task-batched form of the call.

    That are calls with windows of more than 256 elements or all on padding, of one image without a batch dimension, of
    whole numbers (or, by the kernels, of less than float32), and those that torch is to refuse.

    >>> task_windows(torch.ones(2, 1, 5, 5), 2, None, 0, 1, True, "products").output
    (3, 3)
    """
    if inputs.dim() != 4 or 0 in inputs.shape or not inputs.is_floating_point():
        return None
    if form == "native" and inputs.dtype not in (torch.float32, torch.float64):
        return None
    moves = kernel if stride is None or stride == [] else stride  # an empty list is torch's own default
    settings = (kernel, moves, padding, dilation)
    if not all(isinstance(value, int) or 1 <= len(value) <= 2 for value in settings):
        return None
    geometry = Geometry(pair(kernel), pair(moves), pair(padding), pair(dilation))
    return _windows(geometry, (inputs.shape[2], inputs.shape[3]), bool(ceil))


@functools.lru_cache(maxsize=256)
def _windows(geometry: Geometry, size: tuple[int, int], ceil: bool) -> Windows | None:
    kernel, stride, padding, dilation = geometry
    if min(*kernel, *stride, *dilation) < 1 or min(padding) < 0 or geometry.taps > MOST_TAPS:
        return None
    if any(2 * edge > length for edge, length in zip(padding, kernel, strict=True)):
        return None
    output = geometry.output(size, ceil)
    if min(output) < 1 or not all(geometry.inside(axis, size[axis], output[axis]).any(1).all() for axis in (0, 1)):
        return None
    return Windows(geometry, output)


def task_max_pool2d(inputs: Tensor, windows: Windows, form: Form) -> Tensor:
    """A max-pool for one task, whose result has its channels last in memory."""
    return max_pool2d(inputs, windows.geometry, windows.output, form)
