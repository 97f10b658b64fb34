"""Names that are imported when they are first used, so that a command that needs no torch does not wait for it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def find(place: str) -> Any:
    """What stands at ``module:name``; the module is imported.

    >>> find("math:pi")
    3.141592653589793
    """
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


def lazily(package: str, places: Mapping[str, str]) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package whose names lie in its modules.

    Args:
        package: its name.
        places: the ``module:name`` of each name; the module's name goes on from the package's.
    """

    def attribute(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = find(f"{package}.{places[name]}")
        vars(sys.modules[package])[name] = value
        return value

    return attribute
