"""Networks of the user's own: ``model.kind: module:package.factory``."""

from __future__ import annotations

import importlib
import inspect
import operator
import os
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from torch import nn

from distmeta.config.modules import folder_of, importable, is_own, keep_importable, lexical, noting, split
from distmeta.errors import ConfigError, DistmetaError
from distmeta.models.options import UserOptions


def build_user_model(options: UserOptions, input_shape: tuple[int, ...], outputs: int | None) -> nn.Module:
    """Import the factory and call it.

    The factory, a function or an ``nn.Module`` class, gets the settings beside ``kind`` as keyword arguments,
    and ``input_shape`` and ``outputs`` where it has parameters of these names that the settings do not give.

    Raises:
        ConfigError: the factory cannot be imported, cannot be called with these settings, fails, or gives no
            ``nn.Module``.
    """
    with importable(os.getcwd()), noting(options.kind):
        factory = find_factory(options.kind)
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


def sources(kind: str) -> dict[str, bytes]:
    """The user's module and what it has imported from beside it: sources, by path below their folder.

    Nothing where the module is installed, as it then is wherever distmeta is.
    """
    with importable(os.getcwd()):
        find_factory(kind)
    folder = folder_of(split(kind)[0])
    if folder is None:
        return {}
    loaded = {lexical(file) for module in list(sys.modules.values()) if (file := _source(module))}
    beside = [path for path in loaded if is_own(path, folder)]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(beside)}


def _source(module: ModuleType) -> str | None:
    file = getattr(module, "__file__", None)
    return file if isinstance(file, str) and file.endswith(".py") and os.path.exists(file) else None


def find_factory(kind: str) -> Callable[..., Any]:
    """Import the module and take the factory out of it; raises what :func:`build_user_model` does."""
    module_name, factory_name = split(kind)
    try:
        module = importlib.import_module(module_name)
    except DistmetaError:
        raise
    except (Exception, SystemExit) as error:  # a script may end itself
        raise ConfigError(
            f"model.kind = {kind!r}: cannot import {module_name}: {type(error).__name__}: {error}; it should "
            "be a file or package in the current directory, or installed"
        ) from error
    try:
        factory = operator.attrgetter(factory_name)(module)
    except AttributeError:
        public = ", ".join(name for name, value in vars(module).items() if _defined_in(module_name, name, value))
        raise ConfigError(
            f"model.kind = {kind!r}: {module_name} has no {factory_name}; it should be a function that "
            f"returns an nn.Module, or a class of one; there is {public or 'nothing of the kind'}"
        ) from None
    if not callable(factory):
        raise ConfigError(
            f"model.kind = {kind!r}: {factory_name} should be a function that returns an nn.Module, or a "
            f"class of one, but is {type(factory).__name__}; name a factory"
        )
    return factory  # type: ignore[no-any-return]


def _defined_in(module_name: str, name: str, value: object) -> bool:
    return callable(value) and not name.startswith("_") and getattr(value, "__module__", None) == module_name


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
