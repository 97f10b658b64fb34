"""Problems with settings, as messages tell them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

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
        # Members of unions add the tried type's name to the location; people know only the keys.
        keys = [str(part) for at, part in enumerate(problem["loc"]) if at == 0 or str(part).isidentifier()]
        nested = keys[-1:] if len(keys) > 1 and problem["type"] in ("missing", "extra_forbidden") else []
        key = ".".join(filter(None, [section, *keys[:1], *nested]))
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            hint = suggest(keys[0], model.model_fields) if model is not None and len(keys) == 1 else ""
            lines.append(f"{key}: there is no such setting{hint}")
        elif problem["type"] == "missing":
            lines.append(f"{key}: this setting is required")
        elif problem["type"] == "value_error":
            lines.append(message if not key or message.startswith(key) else f"{key}: {message}")
        else:
            lines.append(f"{key}: {message[0].lower()}{message[1:]}, got {shown(problem['input'])}")
    return lines


def listed(problems: Iterable[str]) -> str:
    """Problems in lines of their own, each once, as many as people read."""
    lines = list(dict.fromkeys(problems))
    more = [f"and {len(lines) - _LISTED:,} more"] if len(lines) > _LISTED else []
    return "".join(f"\n  {line}" for line in [*lines[:_LISTED], *more])
