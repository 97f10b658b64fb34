"""Normalisation layers that neither read nor write running statistics where a task's own are used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from distmeta.errors import ConfigError
from distmeta.kernels import Form
from distmeta.kernels.functions import batch_norm

Moments = tuple[Tensor, Tensor]
"""(C,) mean and (C,) biased variance of one call of a batch norm."""


class TaskBatchNorm(_BatchNorm):
    """Batch norm by the statistics of the batch it is given, or by recorded ones.

    ``y = (x - mean) / sqrt(variance + eps) * weight + bias``, a channel at a time, x of shape (N, C, ...). ``form``
    names a task-batched implementation; with ``None`` torch's own is used.
    Ioffe and Szegedy, ICML 2015; Bronskill et al. (TaskNorm, ICML 2020) compare what its statistics can come
    from in few-shot learning.

    :func:`use_task_statistics` turns layers into this class; state names stay what they were.
    """

    path: str
    form: Form | None
    recorded: list[Moments] | None
    replayed: Iterator[Moments] | None

    def forward(self, inputs: Tensor) -> Tensor:
        """Normalise (N, C, ...).

        Raises:
            ConfigError: there is one value a channel, which has no variance.
        """
        return self.rectified(inputs, 1.0)

    def rectified(self, inputs: Tensor, slope: float) -> Tensor:
        """``f(y)`` with ``f(v) = v if v > 0 else slope * v``; errors as :meth:`forward`."""
        if self.replayed is not None:
            moments = next(self.replayed, None)
            if moments is None:
                raise ConfigError(
                    f"the model calls its batch norm {self.path!r} more often for the query than for the "
                    "support, so there are no support statistics for it; use another norm"
                )
            return _rectify(self._normalise(inputs, moments), slope)
        if inputs.numel() <= inputs.shape[1]:
            raise ConfigError(
                f"batch norm {self.path!r} needs more than one value per channel, got inputs of shape "
                f"{tuple(inputs.shape)}; use more shots or queries, or another norm (model.norm)"
            )
        if self.recorded is None:
            if self.form is not None and self.weight is not None:
                return batch_norm(inputs, self.weight, self.bias, self.eps, slope, self.form)
            outputs = F.batch_norm(inputs, None, None, self.weight, self.bias, True, 0.0, self.eps)
            return _rectify(outputs, slope)
        dims = [dim for dim in range(inputs.dim()) if dim != 1]
        variance, mean = torch.var_mean(inputs, dims, correction=0)
        self.recorded.append((mean, variance))
        return _rectify(self._normalise(inputs, (mean, variance)), slope)

    def _normalise(self, inputs: Tensor, moments: Moments) -> Tensor:
        # F.batch_norm has no derivative by given statistics, and these depend on the parameters.
        shape = (1, -1, *(1 for _ in inputs.shape[2:]))
        mean, variance = (moment.view(shape) for moment in moments)
        normalised = (inputs - mean) * torch.rsqrt(variance + self.eps)
        if self.weight is not None:
            normalised = normalised * self.weight.view(shape) + self.bias.view(shape)
        return normalised


def _rectify(outputs: Tensor, slope: float) -> Tensor:
    if slope == 1.0:
        return outputs
    return F.relu(outputs) if slope == 0.0 else F.leaky_relu(outputs, slope)


class TaskGroupNorm(nn.GroupNorm):
    """A group norm of what task-batched convolutions give: ``vmap`` cannot look at images whose channels lie last."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Normalise (N, C, ...)."""
        if inputs.dim() < 4:
            return super().forward(inputs)
        return super().forward(inputs.flatten(2)).view(inputs.shape)


class TaskMaxPool2d(nn.MaxPool2d):
    """A max pool of what task-batched convolutions give, for the same reason."""

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H', W')."""
        return cast(Tensor, super().forward(inputs.contiguous()))


def use_task_statistics(module: nn.Module) -> list[TaskBatchNorm]:
    """Change, in place, every layer that would update running statistics to one that does not.

    Batch norms that normalise by the batch (in training mode, or without running statistics) become
    :class:`TaskBatchNorm` and are returned; those in evaluation mode keep their running statistics as
    constants. Instance norms in training mode forget theirs, which they would only write.
    """
    changed = []
    for path, layer in module.named_modules():
        if isinstance(layer, _BatchNorm) and (layer.training or layer.running_mean is None):
            _forget(layer)
            # A change of class, as torch's lazy modules do, keeps hooks, sharing and state names.
            layer.__class__ = TaskBatchNorm
            assert isinstance(layer, TaskBatchNorm)
            layer.path = path
            layer.form = None
            layer.recorded = layer.replayed = None
            changed.append(layer)
        elif type(layer) is nn.GroupNorm:
            layer.__class__ = TaskGroupNorm
        elif type(layer) is nn.MaxPool2d:
            layer.__class__ = TaskMaxPool2d
        elif isinstance(layer, _InstanceNorm) and layer.training:
            _forget(layer)
    return changed


class TaskSequential(nn.Sequential):
    """An ``nn.Sequential`` that lets a :class:`TaskBatchNorm` compute the (leaky) ReLU after it as well.

    Its layers are what they were for whoever calls them one by one.
    """

    def forward(self, inputs: Tensor) -> Tensor:
        """The layers, one after the other."""
        layers = list(self)
        while layers:
            layer = layers.pop(0)
            slope = _slope(layers[0]) if layers and not _hooked(layer) else None
            if isinstance(layer, TaskBatchNorm) and slope is not None:
                layers.pop(0)
                inputs = layer.rectified(inputs, slope)
            else:
                inputs = layer(inputs)
        return inputs


def fuse_rectifiers(module: nn.Module) -> None:
    """Change, in place, every plain ``nn.Sequential`` to a :class:`TaskSequential`."""
    for layer in module.modules():
        if type(layer) is nn.Sequential:
            layer.__class__ = TaskSequential


def _slope(layer: nn.Module) -> float | None:
    """The slope below zero of a rectifier without hooks; ``None`` for other layers."""
    if _hooked(layer):
        return None
    if type(layer) is nn.ReLU:
        return 0.0
    return float(layer.negative_slope) if type(layer) is nn.LeakyReLU else None


def _hooked(layer: nn.Module) -> bool:
    return bool(layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks)


@contextmanager
def recording(layers: Sequence[TaskBatchNorm]) -> Iterator[None]:
    """Within the block the layers record the statistics of each of their calls; then they forget them."""
    for layer in layers:
        layer.recorded = []
    try:
        yield
    finally:
        for layer in layers:
            layer.recorded = layer.replayed = None


def replay(layers: Sequence[TaskBatchNorm]) -> None:
    """From now on, until :func:`recording` ends, the layers use what they recorded, call by call."""
    for layer in layers:
        layer.replayed = iter(layer.recorded or ())


def _forget(layer: _BatchNorm | _InstanceNorm) -> None:
    layer.track_running_stats = False
    layer.running_mean = layer.running_var = layer.num_batches_tracked = None
