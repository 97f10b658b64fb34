"""Configurations, read, overridden and validated: the one place that knows the schema and the tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from distmeta import trust
from distmeta.algorithms import algorithm_options, outer_defaults, task_defaults
from distmeta.compatibility import check
from distmeta.config.migrations import CONFIG_MIGRATIONS, NO_SETTING, SCHEMA, current
from distmeta.config.modules import kinds
from distmeta.config.problems import describe, listed, suggest
from distmeta.config.schema import Config
from distmeta.config.sections import ClusterOptions, EngineOptions, EvaluationOptions, RunOptions, Section
from distmeta.config.text import parse_override, plain, put, read_mapping
from distmeta.core.hosts import hosts_in
from distmeta.core.quoting import shown
from distmeta.errors import ConfigError
from distmeta.models import model_options
from distmeta.objectives import objective_options
from distmeta.origins import home_of, origin_of
from distmeta.outer import outer_options
from distmeta.tasks import task_options

OBJECTIVE_KEYS = {"tasks": "objective", "algorithm": "inner_objective"}
"""The settings that name an objective, by section."""


def load_config(
    source: str | Path | Mapping[str, Any] | None = None, overrides: Iterable[str] = (), *, trust_code: bool = False
) -> Config:
    """Read, override and validate a configuration.

    Args:
        source: a YAML file, or the same as a mapping; one that was written for an older version is migrated.
        overrides: ``key=value`` pairs with dotted keys and YAML values; later ones win.
        trust_code: let a file that lies in a run directory, a checkpoint or a sweep name code (``module:``) that is to
            be run; a file of yours elsewhere may anyway.

    Raises:
        ConfigError: naming every setting that is wrong, what was expected and what came.
        TrustError: the file came with a run, and names code that nobody has allowed.

    >>> config = load_config({"tasks": {"kind": "sinusoid"}, "model": {"kind": "mlp"}, "algorithm": {"name": "maml"}},
    ...                      ["run.steps=5", "algorithm.inner_lr=0.02"])
    >>> config.run.steps, config.algorithm.inner_lr
    (5, 0.02)
    """
    what = shown(str(source))[1:-1] if isinstance(source, str | Path) else "the configuration"
    values = current(read_mapping(source), CONFIG_MIGRATIONS, what)
    del values[SCHEMA]
    overrides = list(overrides)
    for override in overrides:
        put(values, *parse_override(override))
    values = plain(values)  # with the overrides' values, which were read one by one
    if isinstance(source, str | Path):
        check_origin(source, values, named_kinds(overrides), named_keys(overrides), trust_code)
    problems: list[str] = []
    resolved: dict[str, Any] = {}
    values = {"outer": {}, **values}
    if isinstance(values.get("algorithm"), Mapping) and isinstance(values["outer"], Mapping):
        values["outer"] = outer_defaults(values["algorithm"].get("name"), values["outer"])
    for key, value in values.items():
        if key not in Config.model_fields:
            problems.append(_unknown(key))
            continue
        try:
            section = _section(key, value)
            if section and key == "tasks" and isinstance(values.get("algorithm"), Mapping):
                value = task_defaults(values["algorithm"].get("name"), section, value)
            if section and key in OBJECTIVE_KEYS:
                value, wrong = _with_objective(value, key, section)
                problems += wrong
            resolved[key] = section.model_validate(value) if section else value
        except ValidationError as error:
            problems += describe(error, key, section)
        except ValueError as error:
            problems.append(str(error))
    if not problems:
        try:
            config = Config.model_validate(resolved)
            check(config)
            return config
        except ValidationError as error:
            problems = describe(error)
        except ValueError as error:
            problems = [str(error)]
    raise ConfigError("the configuration is not valid:" + listed(problems))


def check_origin(
    source: str | Path, values: Mapping[str, Any], named: Iterable[str], own: Iterable[str], trust_code: bool
) -> None:
    """Refuse code and hosts that a settings file names which came with a run; its own code, unchanged, is imported.

    Args:
        source: the file.
        values: its settings, overridden.
        named: kinds that the caller's own settings name.
        own: dotted keys of the caller's own settings.
        trust_code: whether the caller trusts the file.

    Raises:
        TrustError: naming the code or the host, and how to allow it.
    """
    code, hosts = kinds(values), hosts_in(values, own)
    if trust_code or not (code or hosts):
        return
    if hosts and (home := home_of(source)) is not None:
        trust.check_hosts(values, own, str(home))
    if code and (origin := origin_of(source)) is not None:
        with trust.check(values, named, origin, trust_code).guard():
            pass


def named_keys(overrides: Iterable[str]) -> list[str]:
    """The dotted keys of ``key=value`` pairs.

    >>> named_keys(["tasks.root=data", "seed=1"])
    ['tasks.root', 'seed']
    """
    return [parse_override(override)[0] for override in overrides]


def named_kinds(overrides: Iterable[str]) -> list[str]:
    """``module:`` kinds that ``key=value`` pairs name.

    >>> named_kinds(["model.kind=module:my_model.make", "seed=1"])
    ['module:my_model.make']
    """
    return [kind for override in overrides for kind in kinds(parse_override(override)[1]).values()]


def _unknown(key: str) -> str:
    if key == SCHEMA:
        return NO_SETTING
    return f"{key}: there is no such setting{suggest(key, Config.model_fields)}"


def _with_objective(
    values: Mapping[str, Any], section: str, kind: type[Section]
) -> tuple[Mapping[str, Any], list[str]]:
    """A section whose objective's settings, where it has any, are checked; and what is wrong with them.

    Settings without a name are of the objective that the section has by default.
    """
    name = OBJECTIVE_KEYS[section]
    given, key = values.get(name), f"{section}.{name}"
    if not isinstance(given, Mapping):
        return values, []
    usual = kind.model_fields[name].default if name in kind.model_fields else None
    if "name" not in given and isinstance(usual, str):
        given = {"name": usual, **given}
    try:
        options = objective_options(given, key)
    except ValueError as error:
        return _without(values, name), [str(error)]
    try:
        return {**values, name: options.model_validate(given)}, []
    except ValidationError as error:
        return _without(values, name), describe(error, key, options)


def _without(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != name}


def _section(key: str, value: Any) -> type[Section] | None:
    """The class that validates a section; where settings depend on a kind, the registry knows it."""
    plain: dict[str, type[Section]] = {
        "run": RunOptions,
        "evaluation": EvaluationOptions,
        "cluster": ClusterOptions,
        "engine": EngineOptions,
    }
    registries: dict[str, Callable[[Mapping[str, Any]], type[Section]]] = {
        "tasks": task_options,
        "model": model_options,
        "algorithm": algorithm_options,
        "outer": outer_options,
    }
    if key not in plain and key not in registries:
        return None
    if not isinstance(value, Mapping):
        raise ValueError(f"{key}: expected a section with settings of its own, got {shown(value)}")
    if key in registries:
        return registries[key](value)
    return plain[key]
