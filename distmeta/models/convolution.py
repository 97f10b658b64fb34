"""Convolutions whose filters differ from task to task."""

from __future__ import annotations

from torch import Tensor, nn

from distmeta.kernels import Form
from distmeta.kernels.functions import conv2d
from distmeta.kernels.geometry import Geometry


class TaskConv2d(nn.Conv2d):
    """An ``nn.Conv2d`` that is fast under ``vmap`` with a filter a task, where ``form`` names an implementation.

    With ``form = None`` it is the layer that it was. :func:`use_task_filters` turns layers into this class.
    """

    form: Form | None

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, I, H, W) to (N, O, H', W')."""
        if self.form is None or inputs.dim() != 4:
            return super().forward(inputs)
        maps = conv2d(inputs, self.weight, self._geometry(), self.form)
        return maps if self.bias is None else maps + self.bias[:, None, None]

    def _geometry(self) -> Geometry:
        assert not isinstance(self.padding, str)
        pairs = (self.kernel_size, self.stride, self.padding, self.dilation)
        return Geometry(*((int(pair[0]), int(pair[1])) for pair in pairs))


def use_task_filters(module: nn.Module) -> list[TaskConv2d]:
    """Change, in place, every plain convolution to one that takes a filter a task; the changed layers.

    Grouped convolutions and those with another padding than zeros of a given width stay as they are.
    """
    changed = []
    for layer in module.modules():
        plain = isinstance(layer, nn.Conv2d) and type(layer).forward is nn.Conv2d.forward
        if plain and layer.groups == 1 and layer.padding_mode == "zeros" and not isinstance(layer.padding, str):
            layer.__class__ = TaskConv2d
            assert isinstance(layer, TaskConv2d)
            layer.form = None
            changed.append(layer)
    return changed


def filter_layout(weight: Tensor) -> Tensor:
    """The same (O, I, kH, kW) tensor, in memory as (kH, kW, I, O), which the task-batched layers take as it is.

    >>> import torch
    >>> filter_layout(torch.zeros(4, 3, 2, 2)).stride()
    (1, 4, 24, 12)
    """
    return weight.permute(2, 3, 1, 0).contiguous().permute(3, 2, 0, 1)
