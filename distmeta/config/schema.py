"""One validated configuration: a YAML file plus ``key=value`` overrides, every limit checked here.

The sections ``tasks``, ``model`` and ``algorithm`` have settings of their own for each kind; a kind's settings are the
nested ``Options`` class of its row in the room's table, so a new kind needs no change here.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import (
    BaseModel,
    Field,
    SerializeAsAny,
    ValidationError,
    field_validator,
    model_validator,
)

from distmeta.config.sections import (
    AlgorithmOptions,
    ClusterOptions,
    EngineOptions,
    EvaluationOptions,
    ModelOptions,
    OuterOptions,
    PositiveFloat,
    RunOptions,
    Section,
    Seed,
    StepSchedule,
    TaskOptions,
    WorkerRange,
)
from distmeta.config.text import parse_value, parse_yaml, plain, read_text, shown
from distmeta.core.secrets import masked
from distmeta.errors import ConfigError

__all__ = [
    "AlgorithmOptions",
    "ClusterOptions",
    "Config",
    "EngineOptions",
    "EvaluationOptions",
    "ModelOptions",
    "OuterOptions",
    "PositiveFloat",
    "RunOptions",
    "Section",
    "Seed",
    "StepSchedule",
    "TaskOptions",
    "WorkerRange",
    "check_origin",
    "choose",
    "describe",
    "dump_config",
    "listed",
    "load_config",
    "named_keys",
    "named_kinds",
    "parse_override",
    "parse_yaml",
    "put",
    "read_mapping",
    "suggest",
    "written_values",
]


_LISTED = 20
"""Problems of a configuration that its error message tells."""


class Config(Section):
    """The whole configuration of a run; :func:`load_config` makes one."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = "run"
    seed: Seed = 0
    tasks: SerializeAsAny[TaskOptions]
    model: SerializeAsAny[ModelOptions]
    algorithm: SerializeAsAny[AlgorithmOptions]
    outer: OuterOptions = OuterOptions()
    run: RunOptions = RunOptions()
    evaluation: EvaluationOptions = EvaluationOptions()
    cluster: ClusterOptions = ClusterOptions()
    engine: EngineOptions = EngineOptions()

    @field_validator("outer")
    @classmethod
    def _outer_rate(cls, value: OuterOptions) -> OuterOptions:
        return value if value.lr_meta is not None else value.model_copy(update={"lr_meta": value.lr})

    @model_validator(mode="after")
    def _resolve_evaluation(self) -> Config:
        ways = getattr(self.tasks, "ways", None)
        evaluation = self.evaluation
        if ways is None and evaluation.ways is not None:
            raise ValueError(f"evaluation.ways has no meaning for tasks.kind = {self.tasks.kind}; leave it out")
        steps = getattr(self.algorithm, "inner_steps", None)
        if steps is None and evaluation.inner_steps is not None:
            raise ValueError(
                f"evaluation.inner_steps has no meaning for algorithm.name = {self.algorithm.name}, which takes no "
                "inner steps; leave it out"
            )
        resolved = evaluation.model_copy(
            update={
                "ways": evaluation.ways or ways,
                "shots": evaluation.shots or self.tasks.shots,
                "queries": evaluation.queries or self.tasks.queries,
                "inner_steps": evaluation.inner_steps if evaluation.inner_steps is not None else steps,
            }
        )
        object.__setattr__(self, "evaluation", resolved)
        return self

    @model_validator(mode="after")
    def _check_chunk(self) -> Config:
        if self.engine.chunk != "auto" and self.engine.chunk > self.run.shard:
            raise ValueError(
                f"engine.chunk = {self.engine.chunk} is more than a shard, run.tasks_per_shard = {self.run.shard}; "
                "chunks are parts of a shard"
            )
        if self.engine.precision == "tf32" and self.run.device == "cpu":
            raise ValueError("engine.precision = tf32 is a mode of CUDA devices, and run.device = cpu; use float32")
        return self

    @model_validator(mode="after")
    def _check_pairs(self) -> Config:
        from distmeta.algorithms import check

        check(self)
        return self


def load_config(
    source: str | Path | Mapping[str, Any] | None = None, overrides: Iterable[str] = (), *, trust_code: bool = False
) -> Config:
    """Read, override and validate a configuration.

    Args:
        source: a YAML file, or the same as a mapping.
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
    values = read_mapping(source)
    overrides = list(overrides)
    for override in overrides:
        put(values, *parse_override(override))
    values = plain(values)  # with the overrides' values, which were read one by one
    if isinstance(source, str | Path):
        check_origin(source, values, named_kinds(overrides), named_keys(overrides), trust_code)
    problems: list[str] = []
    resolved: dict[str, Any] = {}
    for key, value in values.items():
        if key not in Config.model_fields:
            problems.append(f"{key}: there is no such setting{suggest(key, Config.model_fields)}")
            continue
        try:
            section = _section(key, value)
            resolved[key] = section.model_validate(value) if section else value
        except ValidationError as error:
            problems += describe(error, key, section)
        except ValueError as error:
            problems.append(str(error))
    if not problems:
        try:
            return Config.model_validate(resolved)
        except ValidationError as error:
            problems = describe(error)
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
    from distmeta.config.modules import kinds
    from distmeta.core.hosts import hosts_in

    code, hosts = kinds(values), hosts_in(values, own)
    if trust_code or not (code or hosts):
        return
    from distmeta.runs import trust

    if hosts and (home := trust.home_of(source)) is not None:
        trust.check_hosts(values, own, str(home))
    if code and (origin := trust.origin_of(source)) is not None:
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
    from distmeta.config.modules import kinds

    return [kind for override in overrides for kind in kinds(parse_override(override)[1]).values()]


def dump_config(config: Config) -> str:
    """The resolved configuration as YAML that :func:`load_config` takes back; secrets of URIs are masked."""
    return yaml.safe_dump(written_values(config), sort_keys=False)


def written_values(config: Config) -> dict[str, Any]:
    """The resolved configuration as JSON values, as they may be written down: secrets of URIs are masked."""
    return masked(config.model_dump(mode="json"))


def _section(key: str, value: Any) -> type[Section] | None:
    """The class that validates a section; where settings depend on a kind, the room's table knows it."""
    from distmeta.algorithms import algorithm_options
    from distmeta.models import model_options
    from distmeta.tasks import task_options

    plain: dict[str, type[Section]] = {
        "outer": OuterOptions,
        "run": RunOptions,
        "evaluation": EvaluationOptions,
        "cluster": ClusterOptions,
        "engine": EngineOptions,
    }
    rooms: dict[str, Callable[[Mapping[str, Any]], type[Section]]] = {
        "tasks": task_options,
        "model": model_options,
        "algorithm": algorithm_options,
    }
    if key not in plain and key not in rooms:
        return None
    if not isinstance(value, Mapping):
        raise ValueError(f"{key}: expected a section with settings of its own, got {shown(value)}")
    if key in rooms:
        return rooms[key](value)
    return plain[key]


def choose(table: Mapping[str, Any], name: object, key: str) -> Any:
    """The row of a room's table, or a ``ValueError`` that lists the rows."""
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


def put(values: dict[str, Any], key: str, value: Any) -> None:
    """Set the value at a dotted key; sections that are missing are made.

    >>> values = {"run": {"steps": 5}}
    >>> put(values, "run.keep", 1)
    >>> values
    {'run': {'steps': 5, 'keep': 1}}
    """
    *parents, last = key.split(".")
    section = values
    for parent in parents:
        child = section.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ConfigError(
                f"override {shown(f'{key}={value}')}: {shown(parent)[1:-1]} is a single value, it has no setting "
                f"{shown(last)}"
            )
        section = child
    section[last] = value
