"""First examples through a network: do they fit, and do the outputs fit the tasks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from distmeta.config.sections import ModelOptions
from distmeta.core.records import Inputs
from distmeta.errors import ConfigError
from distmeta.functional.conversion import one_tensor
from distmeta.functional.copying import copy_module
from distmeta.functional.dropout import KeyedDropout
from distmeta.functional.hints import hint
from distmeta.functional.inputs import call, map_inputs
from distmeta.functional.watching import kept_generators
from distmeta.models.base import Model


def check_outputs(module: nn.Module, options: ModelOptions, examples: Inputs, outputs: int | None) -> None:
    """Run two examples through a copy of the network and look at the shape of what comes.

    Args:
        module: what :func:`build` gave.
        options: as in :func:`build`.
        examples: two of them.
        outputs: numbers expected for one example; ``None`` for an embedding of any size.

    Raises:
        ConfigError: the network cannot take such inputs, or its result is not (2, outputs), for an embedding
            not (2, features).
    """
    copied = copy_module(module)
    with kept_generators(), torch.random.fork_rng(devices=[]), _explained(options, examples), KeyedDropout(None):
        # With derivatives, which some networks take in forward.
        shape = tuple(one_tensor(call(copied, map_inputs(examples, torch.clone))).shape)
    if outputs is None and (len(shape) != 2 or shape[0] != 2):
        raise ConfigError(
            f"model.kind = {options.kind}: the model gives outputs of shape {shape} for 2 examples, but the "
            "algorithm needs an embedding of shape (2, features); flatten each example's features"
        )
    dimensions = module.output_dimensions if isinstance(module, Model) else ()
    if outputs is not None and shape != (2, *dimensions, outputs):
        raise ConfigError(
            f"model.kind = {options.kind}: the model gives outputs of shape {shape} for 2 examples, but "
            f"tasks have {outputs} ways (or target values), so it should be (2, {outputs}); give the last "
            f"layer {outputs} outputs, or let the factory take a parameter named outputs"
        )


@contextmanager
def _explained(options: ModelOptions, examples: Inputs) -> Iterator[None]:
    """Turns whatever a network raises at its first examples into a ``ConfigError``."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(
            f"model.kind = {options.kind}: the model cannot take examples of {_shapes(examples)}: "
            f"{type(error).__name__}: {error}; {hint(error) or 'change the model or the tasks so that they fit'}"
        ) from error


def _shapes(examples: Inputs) -> str:
    """The shapes of one example's inputs, for people."""
    if isinstance(examples, Tensor):
        return f"shape {tuple(examples.shape[1:])}"
    return "shapes " + ", ".join(f"{name} {tuple(value.shape[1:])}" for name, value in examples.items())


def check_types(module: nn.Module, options: ModelOptions) -> None:
    """Refuse trainable parameters of another type than the float32 that meta-parameters have.

    Raises:
        ConfigError: naming the first of them.
    """
    other = {
        name: parameter.dtype
        for name, parameter in module.named_parameters()
        if parameter.requires_grad and parameter.dtype != torch.float32
    }
    if not other:
        return
    name, dtype = next(iter(other.items()))
    more = f" and {len(other) - 1} more" if len(other) > 1 else ""
    kept = (
        "keep real and imaginary parts as two real parameters"
        if dtype.is_complex
        else "make the network in float32 (.float()); engine.precision=bf16 computes in bfloat16"
    )
    raise ConfigError(
        f"model.kind = {options.kind}: trainable parameters are float32, but {name} is {dtype}{more}; {kept}"
    )


def check_parameters(module: nn.Module) -> None:
    """Refuse what a module does to its parameters that others in their place would not have done to them.

    Raises:
        ConfigError: naming the first such parameter.
    """
    parallel = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    wrapper = next((layer for layer in module.modules() if isinstance(layer, parallel)), None)
    if wrapper is not None:
        raise ConfigError(
            f"the model is, or holds, an nn.{type(wrapper).__name__}, which spreads a batch over devices itself; use "
            "the network in it (.module), since tasks are spread over workers here"
        )
    own = dict(nn.Module.named_parameters(module))
    hooked = next((name for name, value in own.items() if _hooks(value)), None)
    if hooked is not None:
        raise ConfigError(
            f"the model's parameter {hooked!r} has a hook on its gradient (register_hook), which adaptation and its "
            "derivatives cannot follow; change the gradient in forward (multiply by a mask, "
            "scale * w + (1 - scale) * w.detach())"
        )
    if hidden := own.keys() - dict(module.named_parameters()).keys():
        raise ConfigError(
            f"the model's own named_parameters leaves out {min(hidden)!r}; freeze what is not to be trained "
            "(requires_grad_(False)), and leave named_parameters as nn.Module has it"
        )


def _hooks(parameter: Tensor) -> bool:
    return bool(parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None))


def materialise(module: nn.Module, options: ModelOptions, examples: Inputs) -> None:
    """Let lazy layers take their sizes; in evaluation mode, so that no running statistics see the zeros."""
    modes = {layer: layer.training for layer in module.modules()}
    module.eval()
    with torch.no_grad(), _explained(options, examples):
        call(module, examples)
    for layer, training in modes.items():
        layer.training = training
