"""The user's own code, imported: what a ``module:package.name`` names, and what has to go with it."""

from __future__ import annotations

import importlib
import operator
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from distmeta.config.modules import (
    PREFIX,
    folder_of,
    importable,
    is_installed,
    is_own,
    keep_importable,
    lexical,
    noting,
    split,
)
from distmeta.errors import ConfigError, DistmetaError

_PACKAGE = Path(__file__).absolute().parents[1]
_LONGEST = 400  # characters of an exception


def own_entry(kind: str, key: str, wanted: str, *, functions: bool) -> Any:
    """A class of the user's, imported as his networks are; it may import more from its folder later.

    Args:
        kind: ``module:package.name``.
        key: the setting that names it.
        wanted: what it should be, for people.
        functions: whether whatever else can be called will do as well.

    Raises:
        ConfigError: as :func:`find_own`, or it is no class.
    """
    with importable(os.getcwd()), noting(kind):
        found = find_own(kind, key, wanted)
        keep_importable(kind)
    if not functions and not isinstance(found, type):
        raise ConfigError(f"{key} = {kind!r}: expected {wanted}, but it is a {type(found).__name__}; name the class")
    return found


def sources(kind: str, key: str) -> dict[str, bytes]:
    """The user's module and what it has imported from beside it: sources, by path below their folder.

    Nothing where the module is installed, as it then is wherever distmeta is.
    """
    with importable(os.getcwd()):
        find_own(kind, key, "what the setting names")
    folder = folder_of(split(kind)[0])
    if folder is None:
        return {}
    loaded = {lexical(file) for module in list(sys.modules.values()) if (file := _source(module))}
    beside = [path for path in loaded if is_own(path, folder)]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(beside)}


def _source(module: ModuleType) -> str | None:
    file = getattr(module, "__file__", None)
    return file if isinstance(file, str) and file.endswith(".py") and os.path.exists(file) else None


def find_own(kind: str, key: str, wanted: str) -> Callable[..., Any]:
    """Import a kind's module and take what it names out of it.

    Args:
        kind: ``module:package.name``.
        key: the setting that names it.
        wanted: what it should be, for people.

    Raises:
        ConfigError: it cannot be imported, is missing, or cannot be called.
    """
    module_name, factory_name = split(kind)
    if not all([*module_name.split("."), *factory_name.split(".")]):
        name = kind.removeprefix(PREFIX).strip(".:") or "my_module"
        raise ConfigError(
            f"{key} = {kind!r} does not name both a module and what to take of it; expected {PREFIX}MODULE.NAME, for "
            f"example {PREFIX}{name}.my_name, where my_name is {wanted}"
        )
    try:
        module = importlib.import_module(module_name)
    except DistmetaError:
        raise
    except (Exception, SystemExit) as error:  # a script may end itself
        raise ConfigError(
            f"{key} = {kind!r}: cannot import {module_name}: {type(error).__name__}: {error}; it should "
            "be a file or package in the current directory, or installed"
        ) from error
    try:
        factory = operator.attrgetter(factory_name)(module)
    except AttributeError:
        public = ", ".join(name for name, value in vars(module).items() if _defined_in(module_name, name, value))
        raise ConfigError(
            f"{key} = {kind!r}: {module_name} has no {factory_name}; it should be {wanted}; "
            f"there is {public or 'nothing of the kind'}"
        ) from None
    if not callable(factory):
        found = f"{type(factory).__name__}, which cannot be called"
        raise ConfigError(f"{key} = {kind!r}: {factory_name} should be {wanted}, but is {found}")
    return factory  # type: ignore[no-any-return]


def _defined_in(module_name: str, name: str, value: object) -> bool:
    return callable(value) and not name.startswith("_") and getattr(value, "__module__", None) == module_name


def raised(error: BaseException) -> str:
    """An exception in one line, with the line of the user's code that it comes from.

    >>> try:
    ...     {}["missing"]
    ... except KeyError as error:
    ...     print(raised(error))
    KeyError: 'missing' (<doctest distmeta.config.importing.raised[0]>, line 2: {}["missing"])
    """
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if not Path(frame.filename).is_relative_to(_PACKAGE)]
    own = [frame for frame in theirs if not is_installed(Path(frame.filename))]
    text = " ".join(str(error).split())
    said = f"{type(error).__name__}: {text if len(text) <= _LONGEST else text[:_LONGEST] + ' ...'}"
    last = (own or theirs or list(frames))[-1:]
    return "".join(
        [said.removesuffix(": "), *(f" ({each.filename}, line {each.lineno}: {each.line})" for each in last)]
    )
