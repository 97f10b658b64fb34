"""What was written in an older format, brought to the present one: one small function for each version.

A mapping says with the key ``schema`` in which version of its format it is written; without it, in version 1. A change
to a format that breaks what is there (a key gets another name, a value another meaning) adds a function to its table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from distmeta.config.problems import listed
from distmeta.config.text import plain
from distmeta.core.quoting import shown
from distmeta.errors import ConfigError
from distmeta.version import __version__

SCHEMA = "schema"

NO_SETTING = f"{SCHEMA}: a file says in which version it is written, and nothing else changes that; leave it out"
"""What is wrong with an override of it."""

Migration = Callable[[Mapping[str, Any]], dict[str, Any]]
"""Brings values of one version to the next; those that it takes stay as they are."""


class NewerSchema(Exception):
    """Values are of a version that this distmeta does not know."""


def newest(migrations: Mapping[int, Migration]) -> int:
    """The version that is written.

    >>> newest({1: dict, 2: dict})
    3
    """
    return len(migrations) + 1


def migrated(values: Mapping[str, Any], migrations: Mapping[int, Migration]) -> dict[str, Any]:
    """Values of any version in the newest one, which they name.

    Raises:
        NewerSchema: telling both versions.
        ValueError: the version is none, or the values cannot be brought to the next one.

    >>> migrated({"lr": 1}, {1: lambda values: renamed(values, "lr", "outer.lr")})
    {'schema': 2, 'outer': {'lr': 1}}
    """
    last, version = newest(migrations), values.get(SCHEMA, 1)
    if type(version) is not int or version < 1:
        raise ValueError(f"{SCHEMA}: expected the number of a version, from 1 to {last}, got {shown(version)}")
    if version > last:
        raise NewerSchema(f"{SCHEMA} {shown(version)}, and this version of distmeta, {__version__}, reads up to {last}")
    content = {key: value for key, value in values.items() if key != SCHEMA}
    for each in range(version, last):
        content = migrations[each](content)
    return {SCHEMA: last, **content}


def current(values: Mapping[Any, Any], migrations: Mapping[int, Migration], what: str) -> dict[str, Any]:
    """The same for what people write, which is copied.

    Args:
        values: what was written; nothing is checked yet.
        migrations: the table of its format.
        what: its file, or what people call it.

    Raises:
        ConfigError: it is of a newer version, or it cannot be brought to the newest version.
    """
    try:
        return migrated(plain(values), migrations)
    except NewerSchema as error:
        raise ConfigError(f"{what} is of a newer format ({error}); install a newer version") from None
    except ValueError as error:
        raise ConfigError(f"{what} is not valid:" + listed([str(error)])) from None


def renamed(values: Mapping[str, Any], old: str, new: str) -> dict[str, Any]:
    """Values in which a dotted key has another name; where it is missing they are as they were.

    Raises:
        ValueError: both names are given, or the new one's place is not a section.

    >>> renamed({"run": {"batch": 4, "steps": 5}}, "run.batch", "run.meta_batch")
    {'run': {'steps': 5, 'meta_batch': 4}}
    """
    *parents, name = old.split(".")
    place: Any = values
    for parent in parents:
        place = place.get(parent) if isinstance(place, Mapping) else None
    if not isinstance(place, Mapping) or name not in place:
        return dict(values)
    changed = dict(values)
    value = _section(changed, parents).pop(name)
    *parents, name = new.split(".")
    section = _section(changed, parents)
    if name in section:
        raise ValueError(f"{old}: this setting is called {new} now, and both are given; keep {new}")
    section[name] = value
    return changed


def named_outer_step(values: Mapping[str, Any]) -> dict[str, Any]:
    """Version 2: outer steps have names; before, there was the gradient step alone.

    Files that people write have no version either. A method that came later has an outer step of its own, which is what
    they then get.

    >>> maml, promp = {"algorithm": {"name": "maml"}}, {"algorithm": {"name": "promp"}}
    >>> [named_outer_step({"outer": {"lr": 0.1}, **each})["outer"] for each in (maml, promp)]
    [{'name': 'gradient', 'lr': 0.1}, {'lr': 0.1}]
    """
    outer, algorithm = values.get("outer", {}), values.get("algorithm")
    then = ("maml", "fomaml", "reptile", "anil", "meta_sgd", "protonet")
    if not (isinstance(outer, Mapping) and isinstance(algorithm, Mapping) and algorithm.get("name") in then):
        return dict(values)
    return {**values, "outer": {"name": "gradient", **outer}}


def named_objective(values: Mapping[str, Any]) -> dict[str, Any]:
    """Version 3: objectives are a setting; before, each of the three families had its own.

    >>> named_objective({"tasks": {"kind": "sinusoid"}})
    {'tasks': {'kind': 'sinusoid', 'objective': 'squared_error'}}
    """
    tasks = values.get("tasks", {})
    kind = tasks.get("kind") if isinstance(tasks, Mapping) else None
    known = {"sinusoid": "squared_error", "glyphs": "cross_entropy", "omniglot": "cross_entropy"}
    if not isinstance(kind, str) or kind not in known or "objective" in tasks:
        return dict(values)
    return {**values, "tasks": {**tasks, "objective": known[kind]}}


CONFIG_MIGRATIONS: dict[int, Migration] = {1: named_outer_step, 2: named_objective}
"""Of configurations, by the version that each takes."""


def _section(values: dict[str, Any], parents: list[str]) -> dict[str, Any]:
    """A section, copied on the way to it, so that changes leave the original alone; made where it is missing."""
    for parent in parents:
        found = values.get(parent, {})
        if not isinstance(found, Mapping):
            raise ValueError(f"{parent}: expected a section with settings of its own, got {shown(found)}")
        values[parent] = dict(found)
        values = values[parent]
    return values
