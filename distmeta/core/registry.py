"""Names that are imported when they are first used, so that a command that needs no torch does not wait for it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import Any, Generic, TypeVar

Entry = TypeVar("Entry")
Options = TypeVar("Options")


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


class Registry(Mapping[str, type[Entry]], Generic[Entry, Options]):
    """Classes by name, each imported when it is looked up; its settings are there without.

    Args:
        entries: the class of each one's settings, and the ``module:class`` of itself.

    Attributes:
        options: the settings, by name.
    """

    def __init__(self, entries: Mapping[str, tuple[type[Options], str]]) -> None:
        self.options = {name: options for name, (options, _) in entries.items()}
        self._places = {name: place for name, (_, place) in entries.items()}

    def __getitem__(self, name: str) -> type[Entry]:
        found: type[Entry] = find(self._places[name])
        return found

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)
