"""Problems with settings, as messages tell them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from distmeta.core.quoting import shown

_LISTED = 20
"""Problems of a configuration that its error message tells."""


def choose(table: Mapping[str, Any], name: object, key: str) -> Any:
    """The entry of a registry, or a ``ValueError`` that lists what there is."""
    if isinstance(name, str) and name in table:
        return table[name]
    if name is None:
        raise ValueError(f"{key}: this setting is required, one of {', '.join(table)}")
    close = difflib.get_close_matches(str(name), table, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise ValueError(f"{key}: expected one of {', '.join(table)}, got {shown(name)}{hint}")


def suggest(name: object, known: Iterable[str]) -> str:
    """A hint at the nearest known name, or at all of them where none is near."""
    known = list(known)
    close = difflib.get_close_matches(str(name), known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(known)}"


def describe(error: ValidationError, section: str = "", model: type[BaseModel] | None = None) -> list[str]:
    """One line a problem: the setting's full name, what was expected, what came."""
    lines = []
    for problem in error.errors():
        keys, known = _keys([str(part) for part in problem["loc"]], model, problem["type"] in _OF_NAMES)
        key = ".".join(filter(None, [section, *keys]))
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            hint = suggest(keys[-1], known) if known else ""
            lines.append(f"{key}: there is no such setting{hint}")
        elif problem["type"] == "missing":
            lines.append(f"{key}: this setting is required")
        elif problem["type"] == "value_error":
            lines.append(message if not key or message.startswith(key) else f"{key}: {message}")
        else:
            lines.append(f"{key}: {message[0].lower()}{message[1:]}, got {shown(problem['input'])}")
    return lines


_OF_NAMES = ("missing", "extra_forbidden")
"""Problems with a key itself, which stands last in their place."""


def _keys(place: list[str], model: type[BaseModel] | None, of_name: bool) -> tuple[list[str], list[str]]:
    """The keys that lead to a problem, and what may stand beside the last one, where only one class says so.

    Members of unions and of lists add parts of their own to the place; people know only the keys.
    """
    keys: list[str] = []
    known: list[str] = []
    inside = [model] if model is not None else []
    for at, part in enumerate(place):
        if at and not any(part in each.model_fields for each in inside) and not (of_name and at == len(place) - 1):
            continue
        keys.append(part)
        known = list(inside[0].model_fields) if len(inside) == 1 else []
        fields = [each.model_fields[part] for each in inside if part in each.model_fields]
        inside = [section for field in fields for section in _sections(field.annotation)]
    return keys, known


def _sections(annotation: Any) -> list[type[BaseModel]]:
    """The classes of sections among the types that a field may have."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for each in get_args(annotation) for section in _sections(each)]


def listed(problems: Iterable[str]) -> str:
    """Problems in lines of their own, each once, as many as people read."""
    lines = list(dict.fromkeys(problems))
    more = [f"and {len(lines) - _LISTED:,} more"] if len(lines) > _LISTED else []
    return "".join(f"\n  {line}" for line in [*lines[:_LISTED], *more])
