"""What a module's structure tells: tied names, places of tensors, dropout layers."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from distmeta.errors import ConfigError

_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


def aliases(module: nn.Module) -> dict[str, str]:
    """Each further name of a parameter -> its first name."""
    first: dict[int, str] = {}
    others = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if first.setdefault(id(parameter), name) != name:
            others[name] = first[id(parameter)]
    return others


def slots(module: nn.Module) -> dict[str, str]:
    """Every place that holds a parameter or a buffer, under one name -> first name of the tensor that it holds.

    A place is an attribute of one submodule, under whatever names that is known.

    >>> tied = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    >>> tied[1].weight = tied[0].weight
    >>> tied.append(tied[0])[-1] is tied[0]
    True
    >>> slots(tied)
    {'0.weight': '0.weight', '0.bias': '0.bias', '1.weight': '0.weight', '1.bias': '1.bias'}
    """
    first: dict[int, str] = {}
    places = {}
    for path, layer in module.named_modules():
        for attribute, tensor in (*layer._parameters.items(), *layer._buffers.items()):
            if tensor is not None:
                name = f"{path}.{attribute}" if path else attribute
                places[name] = first.setdefault(id(tensor), name)
    return places


def counters(module: nn.Module) -> list[str]:
    """Names of the buffers in which norms count their calls in training mode."""
    return [
        f"{path}.num_batches_tracked" if path else "num_batches_tracked"
        for path, layer in module.named_modules()
        if isinstance(layer, _NormBase) and layer._buffers.get("num_batches_tracked") is not None
    ]


def state_names(module: nn.Module, trainable: Collection[str]) -> dict[str, str]:
    """Each name of the module's state dict that holds a trainable parameter -> that parameter's own name.

    They may differ, since hooks and wrappers rename what they save; a parameter is known by its memory.

    Raises:
        ConfigError: a trainable parameter is not in the state dict, so that it would be lost.
    """
    own = dict(nn.Module.named_parameters(module, remove_duplicate=False))
    first = aliases(module)
    places = {_memory(own[name]): name for name in trainable if own[name].numel()}
    names = {}
    for key, value in module.state_dict().items():
        name = first.get(key, key)
        if isinstance(value, Tensor):
            if name not in trainable or _memory(own[name]) != _memory(value):
                name = places.get(_memory(value), name)
            if name in trainable:
                names[key] = name
    if lost := [name for name in trainable if name not in names.values()]:
        raise ConfigError(
            f"the model's trainable parameter {lost[0]!r} is not in its state_dict, so what it learns would be lost; "
            "let state_dict give it, or freeze it (requires_grad_(False))"
        )
    return names


def _memory(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype


def views(module: nn.Module) -> Iterator[tuple[str, str, str, str]]:
    """Tensors, of attributes and buffers, that lie in the memory of a parameter without being it.

    Each as name, path of its submodule, attribute there, and name of the parameter.
    """
    parameters = {p.untyped_storage().data_ptr(): name for name, p in module.named_parameters() if p.numel()}
    for path, layer in module.named_modules():
        for attribute, value in (*vars(layer).items(), *layer._buffers.items()):
            if isinstance(value, Tensor) and not isinstance(value, nn.Parameter) and value.is_floating_point():
                parameter = parameters.get(value.untyped_storage().data_ptr()) if value.numel() else None
                if parameter is not None:
                    yield f"{path}.{attribute}" if path else attribute, path, attribute, parameter


def overlapping(module: nn.Module) -> tuple[str, str] | None:
    """Names of two parameters that begin at the same place in memory without being one; ``None`` without such."""
    begins: dict[int, str] = {}
    for name, parameter in module.named_parameters():
        if parameter.numel():
            first = begins.setdefault(parameter.data_ptr(), name)
            if first != name:
                return first, name
    return None


def hookable(layer: nn.Module) -> bool:
    """Whether a layer can be given hooks: those of TorchScript cannot."""
    return not isinstance(layer, torch.jit.ScriptModule)


def drops(layer: nn.Module) -> bool:
    """Whether this layer, as its training flag stands, has something to drop."""
    if isinstance(layer, nn.MultiheadAttention):
        return layer.training and layer.dropout > 0
    return isinstance(layer, _DROPOUTS) and layer.training and layer.p > 0


def normalises_by_batch(layer: nn.Module) -> bool:
    """Whether this is a batch norm that, as its training flag stands, uses the statistics of its batch."""
    return isinstance(layer, _BatchNorm) and (layer.training or layer.running_mean is None)
