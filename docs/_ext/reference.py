"""Markdown tables of settings, read off the classes that validate them: types, defaults, docstrings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel

from distmeta.adaptations import ADAPTATIONS
from distmeta.algorithms import ALGORITHMS, algorithm_options
from distmeta.config.schema import Config
from distmeta.config.sections import AlgorithmOptions, OuterOptions, SizeRange, WaysRange, WorkerRange
from distmeta.estimators import ESTIMATORS
from distmeta.models import MODELS
from distmeta.models.options import UserOptions
from distmeta.objectives import OBJECTIVES
from distmeta.outer import OUTER
from distmeta.outer.options import StepSchedule
from distmeta.sweeps.sections import SCHEDULERS, Domain, Resources, SweepOptions
from distmeta.tasks import TASKS
from distmeta.tasks.options.augmentation import AugmentationOptions

Model = type[BaseModel]

ITSELF = ("name", "seed", "callbacks")
"""Settings of a run that stand in no section."""

_BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
_NAMES = {"integer": "integer", "number": "number", "string": "text", "boolean": "`true` or `false`", "null": "`null`"}


def generated(what: str) -> str:
    """The Markdown that a ``{generated}`` block asks for.

    Args:
        what: ``configuration``, ``sweep``, ``algorithms`` or ``algorithm NAME``.
    """
    kind, _, name = what.partition(" ")
    if kind == "algorithm":
        return algorithm(name)
    return {"configuration": configuration, "sweep": sweep, "algorithms": algorithms}[kind]()


def configuration() -> str:
    """Every section of a configuration, every kind of it and every option."""
    plain = {name: info.annotation for name, info in Config.model_fields.items()}
    parts = ["## The run itself", table(Config, only=list(ITSELF))]
    families: dict[str, tuple[str, Mapping[str, Model]]] = {
        "tasks": ("kind", TASKS.options),
        "model": ("kind", {**MODELS.options, "module:PACKAGE.FACTORY": UserOptions}),
        "outer": ("name", OUTER.options),
    }
    nested: dict[str, list[tuple[str, Model]]] = {
        "cluster": [("workers", WorkerRange)],
    }
    for name, annotation in plain.items():
        if name in ITSELF:
            continue
        parts.append(f"## {name}")
        if name == "algorithm":
            parts += _algorithm_section()
        elif name in families:
            key, kinds = families[name]
            parts.append(f"`{name}.{key}` is one of {', '.join(f'`{each}`' for each in kinds)}.")
            if name == "outer":
                parts.append(text(OuterOptions))
            for kind, model in kinds.items():
                parts += [f"### {name}.{key}: {kind}", text(model), table(model, f"{name}.", kind=kind)]
            if name == "tasks":
                parts += ["### tasks.augment", text(AugmentationOptions), table(AugmentationOptions, "tasks.augment.")]
                parts += [*_sizes(), *_objectives()]
            if name == "outer":
                parts += ["### outer.schedule as a section", text(StepSchedule), table(StepSchedule, "outer.schedule.")]
        else:
            assert isinstance(annotation, type)
            parts += [text(annotation), table(annotation, f"{name}.")]
            for key, model in nested.get(name, []):
                parts += [f"### {name}.{key} as a section", text(model), table(model, f"{name}.{key}.")]
    return _joined(parts)


def _sizes() -> Iterable[str]:
    for name, model in (("ways", WaysRange), ("shots", SizeRange)):
        yield f"### tasks.{name} as a section"
        yield text(model)
        yield table(model, f"tasks.{name}.")


def _objectives() -> Iterable[str]:
    yield "### tasks.objective as a section"
    yield f"`tasks.objective.name` is one of {', '.join(f'`{each}`' for each in OBJECTIVES)}."
    for name, model in OBJECTIVES.options.items():
        if set(model.model_fields) > {"name"}:
            yield text(model)
            yield table(model, "tasks.objective.", kind=name)


def sweep() -> str:
    """Every option of a sweep file."""
    parts = [text(SweepOptions), table(SweepOptions)]
    parts += ["### A key of the space", text(Domain), table(Domain, "space.KEY.")]
    for kind, model in SCHEDULERS.items():
        parts += [f"### scheduler.kind: {kind}", text(model), table(model, "scheduler.", kind=kind)]
    parts += ["### resources", text(Resources), table(Resources, "resources.")]
    return _joined(parts)


def algorithms() -> str:
    """The table of named algorithms."""
    rows = []
    for name, entry in ALGORITHMS.items():
        differing = ", ".join(f"`{key}: {_value(value)}`" for key, value in entry.defaults.items())
        rows.append([f"[`{name}`]({name}.md)", f"`{entry.adaptation}`", f"`{entry.estimator}`", differing, entry.paper])
    return _table(["`algorithm.name`", "adaptation", "estimator", "defaults of its own", "paper"], rows)


def algorithm(name: str) -> str:
    """The options of one named algorithm, with its own defaults."""
    entry = ALGORITHMS[name]
    model = algorithm_options({"name": name})
    options = (ADAPTATIONS.options[entry.adaptation], ESTIMATORS.options[entry.estimator])
    texts = [text(each) for each in options if each.model_fields]
    return _joined([*texts, table(model, "algorithm.", kind=name, differing=entry.defaults)])


def _algorithm_section() -> Iterable[str]:
    yield f"`algorithm.name` is one of {', '.join(f'`{name}`' for name in ALGORITHMS)}."
    yield text(AlgorithmOptions)
    yield table(AlgorithmOptions, "algorithm.", defaults={"adaptation": "of the name", "estimator": "of the name"})
    for key, kinds in (("adaptation", ADAPTATIONS.options), ("estimator", ESTIMATORS.options)):
        for kind, model in kinds.items():
            yield f"### algorithm.{key}: {kind}"
            yield text(model)
            yield table(model, "algorithm.")
    yield "### Defaults of the named algorithms"
    rows = [
        [f"`{name}`", f"`algorithm.{key}`", f"`{_value(value)}`"]
        for name, entry in ALGORITHMS.items()
        for key, value in {"adaptation": entry.adaptation, "estimator": entry.estimator, **entry.defaults}.items()
    ]
    yield _table(["name", "option", "default"], rows)


def table(
    model: Model,
    prefix: str = "",
    *,
    kind: str = "",
    only: Iterable[str] | None = None,
    defaults: Mapping[str, str] | None = None,
    differing: Mapping[str, Any] | None = None,
) -> str:
    """The options of a section: name, type, default, and what the docstring says of single ones.

    Args:
        model: the section's class.
        prefix: of the options' names.
        kind: the value of the option ``kind``, where the section has one.
        only: the options to show; all of them otherwise.
        defaults: words in the place of defaults that no class states.
        differing: options whose defaults are marked as the named algorithm's own.
    """
    schema = model.model_json_schema()
    about = _attributes(model)
    rows = []
    for name, info in model.model_fields.items():
        if only is not None and name not in only:
            continue
        own = schema["properties"][name]
        if defaults and name in defaults:
            default = defaults[name]
        elif info.is_required():
            default = "required"
        else:
            default = f"`{_value(info.get_default(call_default_factory=True))}`"
        if differing and name in differing:
            default += " (the method's own)"
        described = info.description or about.get(name, "")
        kinds = f"`{kind}`" if kind and name in ("kind", "name") else _type(own, schema.get("$defs", {}))
        rows.append([f"`{prefix}{name}`", kinds, default, described])
    if not rows:
        return ""
    headers = ["option", "type", "default", "meaning"]
    if not any(row[3] for row in rows):
        headers, rows = headers[:3], [row[:3] for row in rows]
    return _table(headers, rows)


def text(model: Model) -> str:
    """A class's docstring as Markdown, without its list of attributes."""
    own = inspect.cleandoc(model.__doc__ or "").partition("\n\nAttributes:")[0].partition("\n\n>>>")[0]
    return markdown(own)


def markdown(docstring: str) -> str:
    """A docstring's reStructuredText as Markdown.

    >>> markdown("``a`` of :class:`~package.B`")
    '`a` of `B`'
    """
    without = re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"`\1`", docstring)
    return without.replace("``", "`")


def _attributes(model: Model) -> dict[str, str]:
    """What a docstring's list of attributes says of each."""
    listed = inspect.cleandoc(model.__doc__ or "").partition("Attributes:\n")[2]
    found = re.findall(r"^    (\w+): (.*(?:\n     +.*)*)", listed, re.MULTILINE)
    return {name: markdown(" ".join(words.split())) for name, words in found}


def _type(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """A JSON schema in words."""
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return " or ".join(dict.fromkeys(_type(each, definitions) for each in schema[union]))
    if "allOf" in schema:
        return _type(schema["allOf"][0], definitions)
    if "$ref" in schema:
        return _section(definitions[schema["$ref"].rpartition("/")[2]])
    if "enum" in schema or "const" in schema:
        return " or ".join(f"`{_value(each)}`" for each in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return _array(schema, definitions)
    if schema.get("type") == "object":
        return "mapping"
    if "type" not in schema:
        return "any value"
    words = _NAMES[schema["type"]]
    bounds = [f"{sign} {_bound(schema[key])}" for key, sign in _BOUNDS.items() if key in schema]
    return f"{words} {', '.join(bounds)}" if bounds else words


def _bound(value: float) -> str:
    """A limit; large powers of two as such."""
    if isinstance(value, int) and value >= 2**20 and value & (value - 1) == 0:
        return f"2^{value.bit_length() - 1}"
    return f"{value:,}"


def _section(schema: Mapping[str, Any]) -> str:
    return f"section {{{', '.join(schema.get('properties', {}))}}}"


def _array(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    if "prefixItems" in schema:
        return f"[{', '.join(_type(each, definitions) for each in schema['prefixItems'])}]"
    length = schema.get("minItems")
    each = _type(schema.get("items", {}), definitions)
    return f"list of {length}, each {each}" if length and length == schema.get("maxItems") else f"list of {each}"


def _value(value: Any) -> str:
    """A value as YAML writes it in one line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, BaseModel):
        return _value(value.model_dump(exclude_defaults=True))
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {_value(each)}' for key, each in value.items())}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_value, value))}]"
    return str(value)


def _table(headers: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(headers), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _joined(parts: Iterable[str]) -> str:
    return "\n\n".join(part for part in parts if part)
