"""One validated configuration: a YAML file plus ``key=value`` overrides, every limit checked here.

The sections ``tasks``, ``model`` and ``algorithm`` have settings of their own for each kind; a kind's settings are the
nested ``Options`` class of its row in the room's table, so a new kind needs no change here.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    NonNegativeInt,
    PositiveInt,
    SerializeAsAny,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from distmeta.errors import ConfigError

Seed = Annotated[int, Field(ge=0, lt=2**63)]
Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Section(BaseModel):
    """A part of the configuration: unknown keys are refused, values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class TaskOptions(Section):
    """Settings that every task family has; families add their own.

    ``ways`` stands only in the families that have classes.
    """

    kind: str
    shots: PositiveInt
    queries: PositiveInt


class ModelOptions(Section):
    """Settings that every model has."""

    kind: str


class AlgorithmOptions(Section):
    """Settings that every algorithm has; its adaptation and its estimator add their own.

    ``adaptation`` and ``estimator`` default to the named row's pair.
    """

    name: str
    adaptation: str
    estimator: str


class StepSchedule(Section):
    """Outer rate multiplied by ``factor`` every ``every`` meta-steps."""

    kind: Literal["step"]
    every: PositiveInt
    factor: Annotated[float, Field(gt=0, le=1)]


Schedule = Annotated[
    Annotated[Literal["constant", "linear", "cosine"], Tag("name")] | Annotated[StepSchedule, Tag("section")],
    # Told apart first, so that a mistake in one is not answered with the rules of the other.
    Discriminator(lambda value: "section" if isinstance(value, Mapping | StepSchedule) else "name"),
]


class OuterOptions(Section):
    """The outer optimizer.

    ``lr_meta`` is the rate of what is meta-learned beside the module's parameters (learned inner rates); it defaults to
    ``lr``. ``schedule`` multiplies both: ``constant``, ``linear`` (1 to 0 over ``run.steps``), ``cosine`` (likewise),
    or ``{kind: step, every: N, factor: F}``. ``clip_value`` bounds each element of the mean meta-gradient, then
    ``clip_norm`` its Euclidean norm. ``momentum`` belongs to the optimizer ``sgd``; ``weight_decay`` is applied to the
    module's parameters alone.
    """

    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    lr: Rate = 1e-3
    lr_meta: Rate | None = None
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    weight_decay: Rate = 0.0
    schedule: Schedule = "constant"
    clip_norm: PositiveFloat | None = None
    clip_value: PositiveFloat | None = None
    on_nonfinite: Literal["stop", "skip"] = "stop"

    @model_validator(mode="after")
    def _check_momentum(self) -> OuterOptions:
        if self.momentum and self.optimizer != "sgd":
            raise ValueError(f"outer.momentum is a setting of optimizer sgd, not of {self.optimizer}")
        return self


class RunOptions(Section):
    """How long, in what pieces, and what is kept.

    ``tasks_per_shard`` is the unit of work that a worker takes; it divides ``meta_batch`` and never depends on the
    number of workers. Left out, it is the largest divisor of ``meta_batch`` that is at most 8 and at most half of it.
    ``threads`` is the number of CPU threads of a worker, in process too. ``keep`` is the number of newest checkpoints
    kept beside the best one. ``*_every`` count meta-steps; 0 means never (the last step is always checkpointed).
    """

    steps: NonNegativeInt = 1000
    meta_batch: PositiveInt = 32
    tasks_per_shard: PositiveInt | None = None
    threads: PositiveInt = 1
    device: Literal["auto", "cpu", "cuda"] = "auto"
    validate_every: NonNegativeInt = 0
    checkpoint_every: NonNegativeInt = 0
    log_every: PositiveInt = 10
    dir: str = "runs"
    keep: PositiveInt = 2

    @model_validator(mode="after")
    def _check_shard(self) -> RunOptions:
        if self.tasks_per_shard is None:
            limit = max(1, min(8, self.meta_batch // 2))
            largest = max(n for n in range(1, limit + 1) if self.meta_batch % n == 0)
            object.__setattr__(self, "tasks_per_shard", largest)
        if self.meta_batch % self.shard:
            divisors = [n for n in range(1, self.meta_batch + 1) if self.meta_batch % n == 0]
            raise ValueError(
                f"run.tasks_per_shard = {self.shard} does not divide run.meta_batch = {self.meta_batch}; "
                f"use one of {', '.join(map(str, divisors))}"
            )
        return self

    @property
    def shard(self) -> int:
        """Tasks in a shard."""
        assert self.tasks_per_shard is not None
        return self.tasks_per_shard


class EvaluationOptions(Section):
    """Meta-validation and meta-test tasks; what is left out is as in training.

    ``tasks`` counts meta-test tasks, ``validation_tasks`` those of each validation. ``seed`` picks both,
    independently of the run's seed.
    """

    tasks: PositiveInt = 600
    validation_tasks: PositiveInt = 200
    ways: PositiveInt | None = None
    shots: PositiveInt | None = None
    queries: PositiveInt | None = None
    inner_steps: NonNegativeInt | None = None
    seed: Seed = 0


class EngineOptions(Section):
    """How meta-gradients are computed; everything here changes rounding or speed, never what is computed.

    ``auto`` is a function of the model, the shapes, the device kind and the length of the run, never of a timing
    (:func:`distmeta.plan.decide`); ``distmeta plan`` measures the alternatives and writes values.

    ``chunk`` is the number of tasks of a shard that are computed together. ``compile``: ``none`` runs the mapped Python
    code, ``graph`` records its operations once and repeats them, ``inductor`` lets torch's compiler fuse them (it needs
    a C++ compiler on a CPU). ``precision``: ``tf32`` is for products on CUDA, ``bf16`` computes layers in bfloat16.
    ``differentiation`` of the exact estimator: ``reverse``, or ``mixed``, whose memory hardly grows with inner steps.
    ``layers``: ``native`` computes convolutions and batch norms of a CPU by C++ kernels, ``products`` by batched matrix
    products, ``general`` as the module does.
    """

    chunk: PositiveInt | Literal["auto"] = "auto"
    compile: Literal["auto", "none", "graph", "inductor"] = "auto"
    precision: Literal["auto", "float32", "tf32", "bf16"] = "auto"
    differentiation: Literal["auto", "reverse", "mixed"] = "auto"
    layers: Literal["auto", "native", "products", "general"] = "auto"

    @model_validator(mode="after")
    def _check_precision(self) -> EngineOptions:
        if self.precision == "bf16" and self.layers == "native":
            raise ValueError("engine.layers = native computes in float32; engine.precision = bf16 needs other layers")
        return self


class ClusterOptions(Section):
    """Where workers run.

    ``workers: 0`` computes in this process, without Ray; ``auto`` is one worker per GPU, or per core where there is
    none. ``gpus_per_worker`` is 1 where the cluster has GPUs, unless it says otherwise. ``address`` names a running Ray
    cluster (``HOST:PORT`` or ``auto``); without one Ray starts on this machine alone. ``allow_mixed`` lets workers of
    different hardware share a run, which gives up bit-identical results.
    """

    workers: NonNegativeInt | Literal["auto"] = 0
    cpus_per_worker: PositiveFloat = 1
    gpus_per_worker: Rate | None = None
    address: str | None = None
    allow_mixed: bool = False

    @model_validator(mode="after")
    def _check_address(self) -> ClusterOptions:
        if self.address is not None and self.workers == 0:
            raise ValueError(
                f"cluster.address = {self.address} has no use with cluster.workers = 0, which computes in this "
                "process; set cluster.workers to auto or a number"
            )
        return self


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


def load_config(source: str | Path | Mapping[str, Any] | None = None, overrides: Iterable[str] = ()) -> Config:
    """Read, override and validate a configuration.

    Args:
        source: a YAML file, or the same as a mapping.
        overrides: ``key=value`` pairs with dotted keys and YAML values; later ones win.

    Raises:
        ConfigError: naming every setting that is wrong, what was expected and what came.

    >>> config = load_config({"tasks": {"kind": "sinusoid"}, "model": {"kind": "mlp"}, "algorithm": {"name": "maml"}},
    ...                      ["run.steps=5", "algorithm.inner_lr=0.02"])
    >>> config.run.steps, config.algorithm.inner_lr
    (5, 0.02)
    """
    values = _read(source)
    for override in overrides:
        _apply(values, override)
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
    raise ConfigError("the configuration is not valid:\n  " + "\n  ".join(dict.fromkeys(problems)))


def dump_config(config: Config) -> str:
    """The resolved configuration as YAML that :func:`load_config` takes back."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


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
        raise ValueError(f"{key}: expected a section with settings of its own, got {value!r}")
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
    raise ValueError(f"{key}: expected one of {', '.join(table)}, got {name!r}{hint}")


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
            lines.append(f"{key}: {message[0].lower()}{message[1:]}, got {problem['input']!r}")
    return lines


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads ``1e-3`` as text; people mean the number."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def parse_yaml(text: str, name: str) -> dict[str, Any]:
    """A YAML mapping, or an error that names the file and the line."""
    try:
        values = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{name} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{name} holds no settings: expected 'key: value' lines, got {type(values).__name__}")
    return values


def _read(source: str | Path | Mapping[str, Any] | None) -> dict[str, Any]:
    if source is None:
        return {}
    if isinstance(source, Mapping):
        return _copy(source)
    try:
        text = Path(source).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not a text file"
        raise ConfigError(f"cannot read the configuration {source}: {reason}") from None
    return parse_yaml(text, str(source))


def _copy(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copy(value) if isinstance(value, Mapping) else value for key, value in values.items()}


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"override {override!r} is not of the form key=value, for example run.steps=1000")
    try:
        value = yaml.load(text, _Loader)
    except yaml.YAMLError:
        raise ConfigError(f"override {override!r}: {text!r} is not a valid YAML value") from None
    *parents, last = key.strip().split(".")
    section = values
    for parent in parents:
        child = section.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ConfigError(f"override {override!r}: {parent} is a single value, it has no setting {last!r}")
        section = child
    section[last] = value
