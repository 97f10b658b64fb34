"""Normalisation layers that neither read nor write running statistics where a task's own are used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from distmeta.errors import ConfigError

Moments = tuple[Tensor, Tensor]
"""(C,) mean and (C,) biased variance of one call of a batch norm."""


class TaskBatchNorm(_BatchNorm):
    """Batch norm by the statistics of the batch it is given, or by recorded ones.

    ``y = (x - mean) / sqrt(variance + eps) * weight + bias``, a channel at a time, x of shape (N, C, ...).
    Ioffe and Szegedy, ICML 2015; Bronskill et al. (TaskNorm, ICML 2020) compare what its statistics can come
    from in few-shot learning.

    :func:`use_task_statistics` turns layers into this class; state names stay what they were.
    """

    path: str
    recorded: list[Moments] | None
    replayed: Iterator[Moments] | None

    def forward(self, inputs: Tensor) -> Tensor:
        """Normalise (N, C, ...).

        Raises:
            ConfigError: there is one value a channel, which has no variance.
        """
        if self.replayed is not None:
            moments = next(self.replayed, None)
            if moments is None:
                raise ConfigError(
                    f"the model calls its batch norm {self.path!r} more often for the query than for the "
                    "support, so there are no support statistics for it; use another norm"
                )
            return self._normalise(inputs, moments)
        if inputs.numel() <= inputs.shape[1]:
            raise ConfigError(
                f"batch norm {self.path!r} needs more than one value per channel, got inputs of shape "
                f"{tuple(inputs.shape)}; use more shots or queries, or another norm (model.norm)"
            )
        if self.recorded is None:
            return F.batch_norm(inputs, None, None, self.weight, self.bias, True, 0.0, self.eps)
        dims = [dim for dim in range(inputs.dim()) if dim != 1]
        variance, mean = torch.var_mean(inputs, dims, correction=0)
        self.recorded.append((mean, variance))
        return self._normalise(inputs, (mean, variance))

    def _normalise(self, inputs: Tensor, moments: Moments) -> Tensor:
        # F.batch_norm has no derivative by given statistics, and these depend on the parameters.
        shape = (1, -1, *(1 for _ in inputs.shape[2:]))
        mean, variance = (moment.view(shape) for moment in moments)
        normalised = (inputs - mean) * torch.rsqrt(variance + self.eps)
        if self.weight is not None:
            normalised = normalised * self.weight.view(shape) + self.bias.view(shape)
        return normalised


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
            layer.recorded = layer.replayed = None
            changed.append(layer)
        elif isinstance(layer, _InstanceNorm) and layer.training:
            _forget(layer)
    return changed


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
