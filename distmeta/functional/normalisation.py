"""Batch norms that neither read nor write running statistics where they use those of their batch."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules import module as torch_module
from torch.overrides import handle_torch_function, has_torch_function_unary

from distmeta.errors import ConfigError
from distmeta.functional.kernels import Form
from distmeta.functional.kernels.functions import batch_norm, batch_norm_and_moments

Moments = tuple[Tensor, Tensor]
"""(C,) mean and (C,) biased variance of one call of a batch norm."""

_EXACT = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class SupportStatistics:
    """What the batch norms of one forward pass normalised by, for another pass that is to use the same.

    Calls are told apart by the batch norm's own tensors, and those of one batch norm by their order.
    """

    def __init__(self) -> None:
        self._recorded: dict[Hashable, list[Moments]] = {}
        self._replayed: dict[Hashable, Iterator[Moments]] | None = None

    def replay(self) -> None:
        """From now on statistics are given back, not recorded."""
        self._replayed = {norm: iter(moments) for norm, moments in self._recorded.items()}

    @property
    def replaying(self) -> bool:
        """Whether statistics are given back."""
        return self._replayed is not None

    def record(self, norm: Hashable, moments: Moments) -> None:
        """Keep the statistics of a call."""
        self._recorded.setdefault(norm, []).append(moments)

    def next(self, norm: Hashable, path: str) -> Moments:
        """The statistics of the support's call that answers to this one.

        Raises:
            ConfigError: the query needs more calls than there were for the support.
        """
        assert self._replayed is not None
        moments = next(self._replayed.get(norm, iter(())), None)
        if moments is None:
            raise ConfigError(
                f"the model calls its batch norm {path} more often for the query than for the support, so there are "
                "no support statistics for it; use another norm"
            )
        return moments


def normalise(
    inputs: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    *,
    path: str,
    norm: Hashable = None,
    slope: float = 1.0,
    form: Form | None = None,
    statistics: SupportStatistics | None = None,
) -> Tensor:
    """A batch norm by the statistics of the batch it is given, or by recorded ones, with the rectifier after it.

    ``f((x - mean) / sqrt(variance + eps) * weight + bias)`` with ``f(v) = v if v > 0 else slope * v``, a channel at a
    time, x of shape (N, C, ...).
    Ioffe and Szegedy, ICML 2015; Bronskill et al. (TaskNorm, ICML 2020) compare what its statistics can come from in
    few-shot learning.

    Args:
        inputs: (N, C, ...).
        weight: (C,), ``None`` for ones.
        bias: (C,), ``None`` for zeros.
        eps: added to the variance.
        path: how messages call the batch norm.
        norm: which batch norm this is, for ``statistics``.
        slope: 0 for a ReLU, 1 for no rectifier.
        form: a task-batched implementation; ``None`` for torch's own.
        statistics: records the statistics, or gives those to use.

    Raises:
        ConfigError: there is one value a channel, which has no variance.
    """
    if statistics is not None and statistics.replaying:
        return _rectify(_by_moments(inputs, statistics.next(norm, path), weight, bias, eps), slope)
    if inputs.numel() <= inputs.shape[1]:
        raise ConfigError(
            f"batch norm {path} needs more than one value per channel, got inputs of shape {tuple(inputs.shape)}; use "
            "more shots or queries, or another norm (model.norm)"
        )
    if form is not None and weight is not None and suits(inputs, weight, eps):
        shift = torch.zeros_like(weight) if bias is None else bias
        if statistics is None:
            return batch_norm(inputs, weight, shift, eps, slope, form)
        if inputs.dtype in (torch.float32, torch.float64) and not torch.is_grad_enabled():
            outputs, mean, rate = batch_norm_and_moments(inputs, weight, shift, eps, slope, form)
            statistics.record(norm, (mean, rate**-2 - eps))
            return outputs
    if statistics is None:
        return _rectify(F.batch_norm(inputs, None, None, weight, bias, True, 0.0, eps), slope)
    dims = [dim for dim in range(inputs.dim()) if dim != 1]
    variance, mean = torch.var_mean(inputs, dims, correction=0)
    statistics.record(norm, (mean, variance))
    return _rectify(_by_moments(inputs, (mean, variance), weight, bias, eps), slope)


def suits(inputs: Tensor, weight: Tensor, eps: float) -> bool:
    """Whether the task-batched form computes what torch would."""
    return inputs.dtype == weight.dtype and eps > 0 and not torch.is_autocast_enabled(inputs.device.type)


def _by_moments(inputs: Tensor, moments: Moments, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    # F.batch_norm has no derivative by given statistics, and these depend on the parameters.
    shape = (1, -1, *(1 for _ in inputs.shape[2:]))
    mean, variance = (moment.view(shape) for moment in moments)
    normalised = (inputs - mean) * torch.rsqrt(variance + eps)
    if weight is not None:
        normalised = normalised * weight.view(shape)
    return normalised if bias is None else normalised + bias.view(shape)


def _rectify(outputs: Tensor, slope: float) -> Tensor:
    if slope == 1.0:
        return outputs
    return F.relu(outputs) if slope == 0.0 else F.leaky_relu(outputs, slope)


def group_norm(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """``F.group_norm``, also under ``vmap`` of images whose channels lie last in memory."""
    if input.dim() < 4:
        return F.group_norm(input, num_groups, weight, bias, eps)
    return F.group_norm(input.flatten(2), num_groups, weight, bias, eps).view(input.shape)


@dataclass(frozen=True)
class Stage:
    """A batch norm with its neighbours in an ``nn.Sequential``.

    Attributes:
        convolution: before it; ``None`` for another layer.
        norm: the batch norm.
        rectifier: after it; ``None`` for another layer.
        slope: of the rectifier below zero; 1 without one.
    """

    convolution: nn.Conv2d | None
    norm: nn.Module
    rectifier: nn.Module | None = None
    slope: float = 1.0

    def __call__(self, inputs: Tensor) -> Tensor:
        """Layer by layer."""
        outputs: Tensor = inputs
        for layer in (self.convolution, self.norm, self.rectifier):
            outputs = outputs if layer is None else layer(outputs)
        return outputs


def staged(stage: Stage, inputs: Tensor) -> Tensor:
    """``stage(inputs)``, a function of its own so that a mode can compute it in one."""
    if has_torch_function_unary(inputs):
        return handle_torch_function(staged, (inputs,), stage, inputs)  # type: ignore[no-any-return]
    return stage(inputs)


class StagedForward:
    """The ``forward`` of a plain ``nn.Sequential``, with batch norms and their neighbours in one call.

    Layers with hooks, subclasses and layers whose ``forward`` somebody has set are called one by one as ever.
    """

    def __init__(self, layers: nn.Sequential) -> None:
        self._layers = layers

    def __call__(self, input: Any) -> Any:
        """The layers, one after the other."""
        layers = list(self._layers)
        while layers:
            stage = _stage(layers) if isinstance(input, Tensor) else None
            if stage is None:
                input = layers.pop(0)(input)
            else:
                del layers[: (stage.convolution is not None) + 1 + (stage.rectifier is not None)]
                input = staged(stage, input)
        return input


def stage_layers(module: nn.Module) -> None:
    """Give every plain ``nn.Sequential`` in the module a :class:`StagedForward`; no class is changed."""
    for layer in module.modules():
        if type(layer) is nn.Sequential and "forward" not in vars(layer):
            vars(layer)["forward"] = StagedForward(layer)


def _stage(layers: Sequence[nn.Module]) -> Stage | None:
    """What the next layers are; ``None`` where there is nothing to gain."""
    first = layers[0]
    convolution = first if type(first) is nn.Conv2d and untouched(first) and first.padding_mode == "zeros" else None
    rest = layers[0 if convolution is None else 1 :]
    if not rest or type(rest[0]) not in _EXACT or not untouched(rest[0]):
        return None
    norm, *after = rest
    slope = _slope(after[0]) if after else None
    if slope is not None:
        return Stage(convolution, norm, after[0], slope)
    return None if convolution is None else Stage(convolution, norm)


def _slope(layer: nn.Module) -> float | None:
    """The slope below zero of a rectifier without hooks; ``None`` for other layers."""
    if not untouched(layer):
        return None
    if type(layer) is nn.ReLU:
        return 0.0
    return float(layer.negative_slope) if type(layer) is nn.LeakyReLU else None


def untouched(layer: nn.Module) -> bool:
    """Whether a call of the layer is a call of its class's ``forward`` and nothing else."""
    own: tuple[Mapping[int, Callable[..., Any]], ...] = (
        layer._forward_hooks,
        layer._forward_pre_hooks,
        layer._backward_hooks,
        layer._backward_pre_hooks,
        torch_module._global_forward_hooks,
        torch_module._global_forward_pre_hooks,
        torch_module._global_backward_hooks,
        torch_module._global_backward_pre_hooks,
    )
    return "forward" not in vars(layer) and not any(own)
