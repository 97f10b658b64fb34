"""One forward pass of a user's module with given parameters, in the grad mode that it needs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from distmeta.core.records import Inputs
from distmeta.functional.inputs import arguments, map_inputs
from distmeta.functional.recomputation import without_checkpoints


def forward(
    module: nn.Module, state: dict[str, Any], inputs: Inputs, *, tied: bool, differentiates: bool | None = None
) -> tuple[Any, bool]:
    """The module's outputs, and whether it differentiates by itself in its forward pass.

    A module that takes derivatives in ``forward`` (a force field, a physics-informed network) and leaves grad mode as
    it is cannot run under ``torch.no_grad``, where evaluation runs: it gets grad mode, and its outputs are detached.
    One that differentiates by its own parameters gets such as can be differentiated by, as they are in training.

    Args:
        module: not changed, but for buffers that it writes itself.
        state: parameters and buffers to run it with; those that it replaces are replaced here as well.
        inputs: one tensor (N, ...), or several by name.
        tied: a value given for one name of a tied parameter counts for all its names.
        differentiates: what the first call has given; ``None`` in the first call.
    """
    trained = {
        name for name, value in nn.Module.named_parameters(module, remove_duplicate=False) if value.requires_grad
    }
    with without_checkpoints():
        if torch.is_grad_enabled():
            own = map_inputs(inputs, _unasked) if differentiates else inputs
            return functional_call(module, state, *arguments(own), tie_weights=tied), bool(differentiates)
        if not differentiates:
            try:
                return _detached(functional_call(module, state, *arguments(inputs), tie_weights=tied)), False
            except Exception as error:  # whatever a user's module raises
                if differentiates is False:
                    raise
                reason = error
        try:
            with torch.enable_grad():
                given = {name: _differentiable(value) if name in trained else value for name, value in state.items()}
                own = map_inputs(inputs, Tensor.detach)
                outputs = functional_call(module, given, *arguments(own), tie_weights=tied)
        except Exception:
            if differentiates:
                raise
            raise reason from None  # grad mode was not what it needed
        return _detached(outputs), True


def _unasked(value: Tensor) -> Tensor:
    # A module may ask its inputs for gradients, and they are not its own.
    return value if value.requires_grad else value.detach()


def _differentiable(value: Any) -> Any:
    # Within a transform no tensor can be asked for gradients; there plain running has to do.
    if not isinstance(value, Tensor) or torch._C._functorch.maybe_current_level() is not None:
        return value
    return value.detach().requires_grad_()


def _detached(outputs: Any) -> Any:
    return outputs.detach() if isinstance(outputs, Tensor) and outputs.requires_grad else outputs
