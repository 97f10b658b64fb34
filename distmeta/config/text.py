"""Values that people write, as YAML text or as mappings: read within bounds, so that no text hangs or fills memory."""

from __future__ import annotations

import json
import math
import numbers
import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml

from distmeta.core.quoting import BAD_TEXT, shown
from distmeta.core.secrets import looks_like_uri
from distmeta.errors import ConfigError

LONGEST_TEXT = 2**20
"""Bytes of a file."""

DEEPEST = 32
"""Values within one another."""

MOST = 100_000
"""Values of a file, those behind aliases counted as often as they stand there."""

INTEGERS = (-(2**63), 2**64 - 1)
"""The smallest and the largest whole number."""


def check_local(path: str | Path, what: str) -> None:
    """Refuse a URI where only files of this machine are read or written; ``pathlib`` takes one of its slashes.

    Raises:
        ConfigError: it looks like a URI.
    """
    if looks_like_uri(str(path)):
        raise ConfigError(f"the {what} {shown(str(path))[1:-1]} is a URI: expected a file of this machine")


def read_text(path: str | Path, what: str) -> str:
    """A text file.

    Args:
        path: the file, in UTF-8.
        what: what people call such a file.

    Raises:
        ConfigError: it cannot be read, is no text, or is longer than any such file.
    """
    check_local(path, what)
    try:
        with Path(path).open("rb") as file:
            data = file.read(LONGEST_TEXT + 1)
        if len(data) <= LONGEST_TEXT:
            return data.decode("utf-8")
        reason = f"it is longer than {LONGEST_TEXT:,} bytes"
    except UnicodeDecodeError:
        reason = "it is not a text file in UTF-8"
    except (OSError, ValueError) as error:  # a name with a null byte is a ValueError
        reason = getattr(error, "strerror", None) or str(error)
    raise ConfigError(f"cannot read the {what} {shown(str(path))[1:-1]}: {reason}")


class _Loader(yaml.SafeLoader):
    """YAML's text, numbers, booleans, lists and mappings, within bounds; dates are text.

    YAML 1.1 reads ``1e-3`` as text, ``010`` as eight and ``1:30`` as ninety; here they are a number and two texts.
    """

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Refuse what is nested too deeply before Python's stack does."""
        self._depth += 1
        if self._depth > DEEPEST:
            raise yaml.MarkedYAMLError(problem=f"nested more than {DEEPEST} deep", problem_mark=self._mark())
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Refuse a key that is given twice, of which PyYAML would silently take the last one."""
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            name, line = (key.tag, str(key.value)), key.start_mark.line + 1
            if name in lines:
                places = f"lines {lines[name]} and {line}" if lines[name] != line else f"line {line}"
                raise yaml.MarkedYAMLError(problem=f"{shown(key.value)} is given twice, in {places}; keep one of them")
            lines[name] = line
        return node

    def get_single_node(self) -> yaml.Node | None:
        """Refuse what aliases blow up, or make a part of itself."""
        node = super().get_single_node()
        if node is not None:
            _measure(node, {})
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """PyYAML's constructors raise whatever ``int``, ``float`` and dictionaries raise."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, TypeError, AttributeError):
            kind = node.tag.rpartition(":")[2]
            raise yaml.constructor.ConstructorError(
                None, None, f"expected a value of the kind {shown(kind)[1:-1]}", node.start_mark
            ) from None

    def _mark(self) -> yaml.Mark:
        return self.peek_event().start_mark  # type: ignore[no-any-return, no-untyped-call]


def _measure(node: yaml.Node, measured: dict[int, tuple[int, int] | None]) -> tuple[int, int]:
    """How many values a node stands for and how deep they lie; an alias names a node that stands before it."""
    if id(node) in measured:
        found = measured[id(node)]
        if found is None:
            raise yaml.MarkedYAMLError(problem="an alias makes a value a part of itself", problem_mark=node.start_mark)
        return found
    measured[id(node)] = None
    size, depth = 1, 1
    parts = node.value if isinstance(node, yaml.SequenceNode) else []
    if isinstance(node, yaml.MappingNode):
        parts = [part for pair in node.value for part in pair]
    for part in parts:
        its_size, its_depth = _measure(part, measured)
        size, depth = size + its_size, max(depth, 1 + its_depth)
    if size > MOST or depth > DEEPEST:
        problem = f"aliases make this more than {MOST:,} values, or more than {DEEPEST} deep"
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
    measured[id(node)] = size, depth
    return size, depth


_TAGS = ("null", "bool", "int", "float", "str", "seq", "map")
_PREFIX = "tag:yaml.org,2002:"
_WHOLE = (_PREFIX + "int", re.compile(r"^[-+]?(0|[1-9][0-9]*|0x[0-9a-fA-F]+)$"))
_NUMBER = (
    _PREFIX + "float",
    re.compile(
        r"^[-+]?(([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"
    ),
)
_KNOWN = {*(_PREFIX + tag for tag in _TAGS), _PREFIX + "merge"}
_Loader.yaml_constructors = {
    tag: construct for tag, construct in yaml.SafeLoader.yaml_constructors.items() if tag is None or tag in _KNOWN
}
_Loader.yaml_implicit_resolvers = {
    first: [
        *(each for each in known if each[0] in _KNOWN - {_WHOLE[0], _NUMBER[0]}),
        *([_WHOLE, _NUMBER] if first in "-+.0123456789" else []),
    ]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def parse_value(text: str) -> Any:
    """The value that YAML text stands for.

    Raises:
        yaml.YAMLError: it is not valid, or beyond the bounds.

    >>> parse_value("[1e-3, 2024-01-31]")
    [0.001, '2024-01-31']
    """
    return yaml.load(text, _Loader)


def parse_yaml(text: str, name: str) -> dict[str, Any]:
    """A YAML mapping, or an error that names the file and the line."""
    try:
        values = parse_value(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{name} is not valid YAML: {_reason(error)}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{name} holds no settings: expected 'key: value' lines, got {type(values).__name__}")
    return values


def _reason(error: yaml.YAMLError) -> str:
    """What is wrong, and where, without the piece of text that PyYAML quotes: it may be a piece of a secret."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return " ".join(str(error).split())
    parts = [
        f"{said} (line {mark.line + 1}, column {mark.column + 1})" if mark else said
        for said, mark in ((error.context, error.context_mark), (error.problem, error.problem_mark))
        if said
    ]
    return ": ".join(parts)


def parse_json(data: bytes | str) -> Any:
    """The value that JSON stands for.

    Raises:
        ValueError: it is not valid, or nested beyond what Python's stack holds.
    """
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def plain(values: Mapping[Any, Any]) -> dict[str, Any]:
    """A copy of a mapping that holds only what YAML and JSON hold, within bounds.

    Raises:
        ConfigError: naming the key whose value is something else.

    >>> plain({"run": {"steps": 5}, "sizes": (1, 2)})
    {'run': {'steps': 5}, 'sizes': (1, 2)}
    """
    copied: dict[str, Any] = _Copier().copy(values, ())
    return copied


class _Copier:
    """Copies nested values and counts them."""

    def __init__(self) -> None:
        self._left = MOST

    def copy(self, value: Any, place: tuple[str, ...]) -> Any:
        """A copy of a value at a dotted key."""
        self._left -= 1
        if len(place) > DEEPEST or self._left < 0:
            raise _refused(place, f"expected at most {MOST:,} values, at most {DEEPEST} deep")
        if isinstance(value, Mapping):
            return {self._key(key, place): self.copy(item, (*place, shown(key)[1:-1])) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            items = [self.copy(item, (*place, str(at))) for at, item in enumerate(value)]
            return items if isinstance(value, list) else tuple(items)
        if isinstance(value, numbers.Real) and not isinstance(value, (int, float)):  # NumPy's
            value = int(value) if isinstance(value, numbers.Integral) else float(value)
        problem = _problem(value)
        if problem:
            raise _refused(place, problem)
        return value

    def _key(self, key: Hashable, place: tuple[str, ...]) -> str:
        if not isinstance(key, str):
            raise _refused(
                (*place, shown(key)), "there is no such setting: names are text; put it in quotes if it is one"
            )
        if BAD_TEXT.search(key):
            raise _refused((*place, shown(key)), "there is no such setting: names hold no null bytes and surrogates")
        return key


def _problem(value: Any) -> str | None:
    if isinstance(value, str):
        found = BAD_TEXT.search(value)
        return f"expected text without null bytes and surrogates, got {shown(value)}" if found else None
    if isinstance(value, int):
        low, high = INTEGERS
        return None if low <= value <= high else f"expected a whole number from {low} to {high}, got one beyond"
    if isinstance(value, float):
        return "expected a number, got nan" if math.isnan(value) else None
    if value is None:
        return None
    return f"expected text, a number, true, false, null, a list or a section, got {type(value).__name__}"


def _refused(place: tuple[str, ...], problem: str) -> ConfigError:
    return ConfigError(f"{shown('.'.join(place))[1:-1]}: {problem}" if place else problem)


def read_mapping(source: str | Path | Mapping[str, Any] | None) -> dict[str, Any]:
    """The content of a YAML file, or a copy of a mapping; nothing is checked yet.

    Raises:
        ConfigError: the file cannot be read, or holds no mapping.
    """
    if source is None:
        return {}
    if isinstance(source, Mapping):
        return plain(source)
    return parse_yaml(read_text(source, "configuration"), str(source))


def parse_override(override: str) -> tuple[str, Any]:
    """The dotted key and the YAML value of a ``key=value`` pair.

    >>> parse_override("outer.lr=1e-3")
    ('outer.lr', 0.001)
    """
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"override {shown(override)} is not of the form key=value, for example run.steps=1000")
    try:
        return key.strip(), parse_value(text)
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None)
        raise ConfigError(
            f"override {shown(override)}: {shown(text)} is not a valid YAML value" + (f": {problem}" if problem else "")
        ) from None


NAMED = ("objective", "inner_objective")
"""Settings that are a name, or a section with this name and settings."""


def put(values: dict[str, Any], key: str, value: Any) -> None:
    """Set the value at a dotted key; sections that are missing are made, and names of objectives become sections.

    >>> values = {"run": {"steps": 5}}
    >>> put(values, "run.keep", 1)
    >>> values
    {'run': {'steps': 5, 'keep': 1}}
    """
    *parents, last = key.split(".")
    section = values
    for parent in parents:
        child = section.setdefault(parent, {})
        if parent in NAMED and isinstance(child, str):
            child = section[parent] = {"name": child}
        if not isinstance(child, dict):
            raise ConfigError(
                f"override {shown(f'{key}={value}')}: {shown(parent)[1:-1]} is a single value, it has no setting "
                f"{shown(last)}"
            )
        section = child
    section[last] = value
