"""What a module gets: one tensor, or tensors by name as keyword arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from distmeta.core.records import Inputs


def map_inputs(inputs: Inputs, change: Callable[[Tensor], Tensor]) -> Inputs:
    """The same inputs with every tensor changed."""
    if isinstance(inputs, Tensor):
        return change(inputs)
    return {name: change(value) for name, value in inputs.items()}


def tensors_in(inputs: Inputs) -> list[Tensor]:
    """All tensors of the inputs, of which there is one at least."""
    return [inputs] if isinstance(inputs, Tensor) else list(inputs.values())


def named(inputs: Inputs) -> dict[str, Tensor]:
    """The tensors under names that no parameter has: a single one is ``""``, others begin with a space."""
    if isinstance(inputs, Tensor):
        return {"": inputs}
    return {f" {name}": value for name, value in inputs.items()}


def arguments(inputs: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments of a call."""
    return ((inputs,), {}) if isinstance(inputs, Tensor) else ((), dict(inputs))


def call(module: nn.Module, inputs: Inputs) -> Any:
    """What the module gives for these inputs."""
    given, by_name = arguments(inputs)
    return module(*given, **by_name)
