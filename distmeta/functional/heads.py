"""The layer of a network that makes its outputs, found by running it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from distmeta.core.records import Inputs
from distmeta.errors import ConfigError
from distmeta.functional.copying import copy_module
from distmeta.functional.hints import hint
from distmeta.functional.inputs import call, map_inputs, tensors_in
from distmeta.functional.inspection import hookable

GraphNode = Any
"""A node of torch's autograd graph."""


def output_layer(module: nn.Module, example: Inputs) -> str | None:
    """Path of the submodule that makes the outputs, wherever it is registered.

    The autograd graph of one forward pass is followed back from the outputs, through what has no trainable parameters
    (a softmax, a reshape, a mean over positions), to the first result of a layer. The submodule ``head`` is taken as a
    whole where it makes the outputs.

    Args:
        module: not changed; a copy runs, on the device of ``example``.
        example: inputs of N examples.

    Returns:
        ``None`` where several layers, or parameters outside of layers, make the outputs together; ``""`` where the
        module itself is one layer.

    Raises:
        ConfigError: the module cannot run with gradients.

    >>> output_layer(nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1), nn.Flatten(0)), torch.ones(4, 2))
    '2'
    """
    module = copy_module(module)
    results: dict[GraphNode, str] = {}

    def remember(path: str) -> Any:
        def hook(layer: nn.Module, given: Any, outputs: Any) -> None:
            if isinstance(outputs, Tensor) and outputs.grad_fn is not None:
                results.setdefault(outputs.grad_fn, path)  # the innermost one ends first

        return hook

    for path, layer in module.named_modules():
        if hookable(layer) and (path == "head" or _is_layer(layer)):
            layer.register_forward_hook(remember(path))
    first = tensors_in(example)[0]
    devices = [first.device] if first.is_cuda else []
    try:
        with torch.random.fork_rng(devices), torch.enable_grad():
            outputs = call(module, map_inputs(example, torch.clone))
    except Exception as error:
        raise ConfigError(
            f"the model cannot run with gradients: {type(error).__name__}: {error}; {hint(error) or 'correct it'}"
        ) from error
    found = _first_on_the_way(outputs.grad_fn, results) if isinstance(outputs, Tensor) else None
    if found is not None and found.startswith("head."):
        return "head"
    return found


def _is_layer(module: nn.Module) -> bool:
    """Whether a submodule has a matrix of parameters, frozen or not, and is no container of submodules with parameters.

    Norms and learned scales are no layers that could make outputs out of features.
    """
    parts = [part for name, part in module.named_children() if name != "parametrizations"]
    has_matrix = any(parameter.dim() > 1 for parameter in module.parameters())
    return has_matrix and not any(True for part in parts for _ in part.parameters())


def _first_on_the_way(node: GraphNode | None, results: dict[GraphNode, str]) -> str | None:
    """The first remembered result on the way back from a node, as long as there is one way only."""
    while node is not None:
        if node in results:
            return results[node]
        before = [other for other, _ in node.next_functions if other is not None]
        node = before[0] if len(set(before)) == 1 else None
    return None
