"""Building the network that a configuration names."""

from __future__ import annotations

import random

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from distmeta.config.sections import ModelOptions
from distmeta.core.quoting import shown
from distmeta.core.records import InputSpec, TensorSpec, shapes_of, zeros_of
from distmeta.errors import ConfigError
from distmeta.functional.checks import check_types, materialise
from distmeta.functional.watching import kept_generators
from distmeta.models import MODELS
from distmeta.models.options import UserOptions
from distmeta.models.user import build_user_model


def build(options: ModelOptions, inputs: InputSpec, outputs: int | None, seed: int = 0) -> nn.Module:
    """A new network on the CPU, the same in every process; global random states stay as they were.

    Args:
        options: validated settings, of the class that :func:`model_options` gives.
        inputs: what one example is; lazy modules of a user's network take their sizes from it.
        outputs: numbers that the network gives for one example; ``None`` for an embedding.
        seed: fixes the initial parameters.

    Raises:
        ConfigError: settings and inputs do not go together, or the user's factory does not do its part.

    >>> from distmeta.core.records import TensorSpec
    >>> from distmeta.models.options import MLPOptions
    >>> network = build(MLPOptions(hidden=[3]), TensorSpec((1,)), 1, seed=7)
    >>> [name for name, _ in network.named_parameters()]
    ['body.0.weight', 'body.0.bias', 'head.weight', 'head.bias']
    """
    with kept_generators(), torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would seed the accelerators as well.
        torch.default_generator.manual_seed(seed)
        random.seed(seed)  # factories draw from these as well
        np.random.seed(seed % 2**32)
        if isinstance(options, UserOptions):
            module = build_user_model(options, shapes_of(inputs), outputs)
        else:
            module = _build(options, inputs, outputs)
        if any(is_lazy(parameter) for parameter in module.parameters()):
            materialise(module, options, zeros_of(inputs, 2))
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise ConfigError(f"model.kind = {options.kind}: the network has no trainable parameters; it needs some")
    check_types(module, options)
    return module


def _build(options: ModelOptions, inputs: InputSpec, outputs: int | None) -> nn.Module:
    """A network of the table; torch has errors of several kinds for layers that are larger than memory."""
    model = MODELS[options.kind]
    if not (model.named_inputs or isinstance(inputs, TensorSpec)):
        raise ConfigError(
            f"model.kind = {options.kind} takes one input, and the tasks have {', '.join(inputs)}; for texts use "
            "model.kind = bag or transformer, else a network of your own (model.kind=module:PACKAGE.FACTORY), which "
            "gets them by name"
        )
    try:
        return model(options, inputs if model.named_inputs else shapes_of(inputs), outputs)
    except (RuntimeError, MemoryError, TypeError, OverflowError) as error:
        sizes = ", ".join(f"{name} = {shown(value)}" for name, value in options if name != "kind")
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"model.kind = {options.kind}: a network with {sizes} cannot be made here ({shown(reason)[1:-1]}); use "
            "fewer units"
        ) from error
