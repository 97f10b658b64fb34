"""Networks of the user's own: ``model.kind: module:package.factory``."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from distmeta.config.importing import find_own
from distmeta.config.modules import importable, keep_importable, noting
from distmeta.errors import ConfigError, DistmetaError
from distmeta.models.options import UserOptions

WANTED = "a function that returns an nn.Module, or a class of one"
"""What ``model.kind`` names."""


def build_user_model(options: UserOptions, input_shape: Any, outputs: int | None) -> nn.Module:
    """Import the factory and call it.

    The factory, a function or an ``nn.Module`` class, gets the settings beside ``kind`` as keyword arguments, and
    ``input_shape`` (shapes by name where there are several inputs) and ``outputs`` where it has parameters of these
    names that the settings do not give.

    Raises:
        ConfigError: the factory cannot be imported, cannot be called with these settings, fails, or gives no
            ``nn.Module``.
    """
    with importable(os.getcwd()), noting(options.kind):
        factory = find_own(options.kind, "model.kind", WANTED)
        keep_importable(options.kind)
        arguments = _arguments(factory, options, {"input_shape": input_shape, "outputs": outputs})
        try:
            module = factory(**arguments)
        except DistmetaError:
            raise
        except (Exception, SystemExit) as error:
            raise ConfigError(
                f"model.kind = {options.kind!r}: the factory raised {type(error).__name__}: {error}; called "
                f"with {_listing(arguments)}, it should return an nn.Module; correct it or the settings "
                "under model"
            ) from error
    if not isinstance(module, nn.Module):
        raise ConfigError(
            f"model.kind = {options.kind!r}: the factory should return an nn.Module, but returned "
            f"{type(module).__name__}; return the network itself"
        )
    return module


def _arguments(factory: Callable[..., Any], options: UserOptions, offered: Mapping[str, Any]) -> dict[str, Any]:
    """The settings plus what the factory's signature asks for."""
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):  # Some built-in callables do not tell theirs.
        return options.arguments
    wanted = {name: value for name, value in offered.items() if name in signature.parameters}
    arguments = {**wanted, **options.arguments}
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise ConfigError(
            f"model.kind = {options.kind!r}: the factory cannot be called with {_listing(arguments)}: "
            f"{error}; its signature is {signature}, and the settings under model are its keyword arguments"
        ) from None
    return arguments


def _listing(arguments: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in arguments.items()) or "no arguments"
