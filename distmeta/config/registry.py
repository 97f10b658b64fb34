"""Registries: what a setting may name, by name; or the user's own, as ``module:package.Class``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, Protocol, TypeVar

from distmeta.config.importing import own_entry
from distmeta.config.modules import PREFIX
from distmeta.config.sections import Section
from distmeta.core.lazy import find
from distmeta.errors import ConfigError

Entry = TypeVar("Entry")
Options = TypeVar("Options", bound=Section)
EntryOut = TypeVar("EntryOut", covariant=True)
OptionsOut = TypeVar("OptionsOut", bound=Section, covariant=True)


class FromFunction(Protocol[EntryOut, OptionsOut]):
    """How a registry makes an entry of a plain function, which the user has named as ``module:package.function``."""

    def options(self, kind: str, function: Callable[..., Any]) -> type[OptionsOut]:
        """The entry's settings. Raises ``ConfigError`` where the function is not of the kind that is wanted."""
        ...

    def entry(self, kind: str, function: Callable[..., Any]) -> type[EntryOut]:
        """The entry; raises as :meth:`options` does."""
        ...


class Registry(Mapping[str, type[Entry]], Generic[Entry, Options]):
    """Classes by name, each imported when it is looked up; its settings are there without.

    A name that begins with ``module:`` is looked up as a class of the user's own, whose settings are its ``Options``;
    in some registries it may be a function as well. Iteration goes over the other names.

    Args:
        key: the setting that names an entry.
        wanted: what an entry is, for people.
        entries: the class of each one's settings, ``None`` where it has none, and the ``module:class`` of itself.
        base: what the settings of the user's own are to be a subclass of; ``None`` where there are none.
        functions: the ``module:name`` of a :class:`FromFunction`; none where only classes will do.

    Attributes:
        options: the settings, by name.

    >>> from distmeta.tasks import TASKS
    >>> "sinusoid" in TASKS, TASKS["sinusoid"].__name__, TASKS.options["sinusoid"].__name__
    (True, 'Sinusoid', 'SinusoidOptions')
    """

    def __init__(
        self,
        key: str,
        wanted: str,
        entries: Mapping[str, tuple[type[Options] | None, str]],
        base: type[Options] | None = None,
        functions: str | None = None,
    ) -> None:
        self._key = key
        self._wanted = wanted
        self._functions = functions
        self._places = {name: place for name, (_, place) in entries.items()}
        known = {name: options for name, (options, _) in entries.items() if options is not None}
        self.options: Mapping[str, type[Options]] = _OwnOptions(self, known, base)

    def __getitem__(self, name: str) -> type[Entry]:
        if name.startswith(PREFIX):
            own = self._own(name)
            return own if isinstance(own, type) else self._from_function().entry(name, own)
        found: type[Entry] = find(self._places[name])
        return found

    def __contains__(self, name: object) -> bool:
        return name in self._places or (isinstance(name, str) and name.startswith(PREFIX))

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def settings_of(self, name: str, base: type[Options]) -> type[Options]:
        """The settings of an entry of the user's own."""
        own = self._own(name)
        if not isinstance(own, type):
            return self._from_function().options(name, own)
        options = getattr(own, "Options", None)
        if not (isinstance(options, type) and issubclass(options, base)):
            raise ConfigError(
                f"{self._key} = {name!r}: the class has no settings; give it Options, a subclass of "
                f"{base.__module__}.{base.__name__}"
            )
        return options

    def _own(self, name: str) -> Any:
        """The class or function of the user's that a name stands for."""
        return own_entry(name, self._key, self._wanted, functions=self._functions is not None)

    def _from_function(self) -> FromFunction[Entry, Options]:
        assert self._functions is not None, "nothing but a class is found otherwise"
        found: FromFunction[Entry, Options] = find(self._functions)
        return found


class _OwnOptions(Mapping[str, type[Options]]):
    """The settings of a registry's entries."""

    def __init__(
        self, registry: Registry[Entry, Options], known: Mapping[str, type[Options]], base: type[Options] | None
    ) -> None:
        self._registry = registry
        self._known = known
        self._base = base

    def __getitem__(self, name: str) -> type[Options]:
        if name.startswith(PREFIX) and self._base is not None:
            return self._registry.settings_of(name, self._base)
        return self._known[name]

    def __contains__(self, name: object) -> bool:
        own = isinstance(name, str) and name.startswith(PREFIX) and self._base is not None
        return own or name in self._known

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)
