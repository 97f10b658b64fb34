"""A sweep: one validated file, the configurations that its space holds, and every refusal before anything starts."""

from __future__ import annotations

import copy
import itertools
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from distmeta.config import Config, choose, describe, load_config, parse_override, put, read_mapping, suggest
from distmeta.errors import ConfigError
from distmeta.objectives import OBJECTIVES
from distmeta.rundir import differences
from distmeta.sections import Section
from distmeta.sweep_sections import SCHEDULERS, Asha, Domain, Hyperband, Median, Pbt, Resources, SweepOptions
from distmeta.tasks import TASKS

Values = dict[str, Any]
"""What distinguishes a trial: values by dotted keys of the configuration."""

TRIALS = 16
"""Trials of a sweep that does not say how many."""

TRIED = 64
"""Random combinations that are checked where the searcher draws its own."""

RATES = ("algorithm.inner_lr", "outer.lr", "outer.lr_meta", "outer.clip_norm", "outer.clip_value")
"""What may change in the middle of a run without making its parameters and optimizer those of another one."""

_FIXED = ("name", "seed", "evaluation", "cluster", "run.steps", "run.dir", "run.keep", "run.device", "run.threads")
_EVERY = ("run.validate_every", "run.checkpoint_every", "run.log_every")
_MAY_CHANGE = ("resources.", "base.cluster.")


@dataclass(frozen=True)
class Sweep:
    """A checked sweep.

    Attributes:
        options: the file's settings.
        base: the configuration that all trials start from, as it was written, with ``settings``.
        config: the same, resolved.
        metric: the meta-validation metric that trials are compared by.
        mode: ``max`` or ``min``.
        points: the trials' values; ``None`` where the searcher finds them as it goes.
    """

    options: SweepOptions
    base: dict[str, Any]
    config: Config
    metric: str
    mode: str
    points: tuple[Values, ...] | None

    @property
    def trials(self) -> int:
        """How many trials there are."""
        return len(self.points) if self.points is not None else self.options.trials or TRIALS

    @property
    def seeds(self) -> list[int]:
        """Seeds of a trial's runs."""
        return [self.config.seed + number for number in range(self.options.repeats)]

    @property
    def population(self) -> Pbt | None:
        """The settings of population-based training, if that is what this is."""
        return self.options.scheduler if isinstance(self.options.scheduler, Pbt) else None

    def better(self, one: float, other: float) -> bool:
        """Whether one score beats another one."""
        return one > other if self.mode == "max" else one < other

    def trial_config(self, values: Values, seed: int) -> Config:
        """The configuration of one run of a trial, with the workers that the trial has for itself."""
        resources, runs, run = self.options.resources, self.options.repeats, self.config.run
        every = run.checkpoint_every or run.validate_every
        changes = {
            "seed": seed,
            # Any validation may be the moment at which another trial of a population goes on.
            "run.checkpoint_every": run.validate_every if self.population else min(every, run.validate_every),
            # The runs of a trial take turns, so they share its workers' room.
            "cluster.workers": resources.workers,
            "cluster.cpus_per_worker": resources.cpus / runs,
            "cluster.gpus_per_worker": resources.gpus / runs,
            "cluster.address": None,
        }
        if self.population:
            changes["run.keep"] = run.steps + 1
        return load_config(_changed(self.base, {**values, **changes}))

    def best_config(self, values: Values) -> Config:
        """What ``distmeta train`` takes to do a trial's (first) run again, to the same bits."""
        return load_config(_changed(self.base, {**values, "name": f"{self.options.name}_best"}))


def load_sweep(source: str | Path | Mapping[str, Any], overrides: Iterable[str] = ()) -> Sweep:
    """Read, override and check a sweep; nothing is started.

    Args:
        source: a YAML file, or the same as a mapping.
        overrides: ``key=value`` pairs. Keys of a sweep file (``trials``, ``scheduler.grace``, ...) change the sweep,
            all others the base configuration of all trials.

    Raises:
        ConfigError: naming every setting that is wrong, what was expected and what came.

    >>> base = {"tasks": {"kind": "sinusoid"}, "model": {"kind": "mlp"}, "algorithm": {"name": "maml"}}
    >>> space = {"outer.lr": {"loguniform": [1e-4, 1e-2]}}
    >>> sweep = load_sweep({"base": base, "space": space}, ["trials=2", "run.validate_every=50"])
    >>> len(sweep.points), sweep.metric, sweep.mode
    (2, 'mse', 'min')
    """
    values = read_mapping(source)
    settings: Values = {}
    for override in overrides:
        key, value = parse_override(override)
        section, _, rest = key.partition(".")
        if rest and section in ("space", "settings") and isinstance(values.get(section, {}), Mapping):
            values[section] = {**values.get(section, {}), rest: value}  # their keys have dots
        elif section in SweepOptions.model_fields:
            put(values, key, value)
        else:
            settings[key] = value
    options = _options(values)
    options = options.model_copy(update={"settings": {**options.settings, **settings}})
    folder = Path() if isinstance(source, Mapping) else Path(source).parent
    base = _base(options, folder)
    config = load_config(base)
    if (root := getattr(config.tasks, "root", None)) is not None:
        put(base, "tasks.root", root)  # the same place wherever a trial is
    problems = [
        *_check_run(options, config),
        *_check_scheduler(options, config),
        *_check_searcher(options),
        *_check_first(options),
    ]
    metric, mode = _metric(options, config)
    problems += _check_space(options, base, config)
    _refuse(problems)
    points = None if options.searcher == "optuna" else _points(options)
    _refuse(_check_points(options, base, config, points))
    return Sweep(options, base, config, metric, mode, points)


def dump_sweep(sweep: Sweep) -> str:
    """The sweep as YAML that holds its base, so that :func:`load_sweep` takes it anywhere."""
    values = sweep.options.model_dump(mode="json", exclude_defaults=True)
    space = sweep.options.space.items()
    values["space"] = {key: domain.model_dump(mode="json", exclude_defaults=True) for key, domain in space}
    values["scheduler"] = sweep.options.scheduler.model_dump(mode="json")
    values.pop("settings", None)
    return yaml.safe_dump({**values, "base": sweep.base}, sort_keys=False)


def check_resume(old: str, new: str) -> None:
    """Refuse to resume a sweep with settings that would make it another one.

    ``resources`` and the base's ``cluster`` may change.

    Raises:
        ConfigError: naming the settings that differ.
    """
    changes = differences(yaml.safe_load(old), yaml.safe_load(new))
    lines = [change for key, change in changes.items() if not key.startswith(_MAY_CHANGE)]
    if lines:
        raise ConfigError(
            "a resumed sweep must keep its settings, but these differ:\n  "
            + "\n  ".join(lines)
            + "\nstart a new sweep in another --run-dir, or leave these as they were"
        )


# Checks -----------------------------------------------------------------------------------------------------------


def _options(values: dict[str, Any]) -> SweepOptions:
    """The file's settings, each section checked by its own class."""
    problems = [
        f"{key}: there is no such setting{suggest(key, SweepOptions.model_fields)}"
        for key in values
        if key not in SweepOptions.model_fields
    ]
    resolved = {key: value for key, value in values.items() if key in SweepOptions.model_fields}
    space = resolved.get("space")
    if isinstance(space, Mapping):
        resolved["space"] = {key: _part(Domain, domain, f"space.{key}", problems) for key, domain in space.items()}
    if "resources" in resolved:
        resolved["resources"] = _part(Resources, resolved["resources"], "resources", problems)
    if "scheduler" in resolved:
        said = resolved["scheduler"]
        section = said if isinstance(said, Mapping) else {"kind": said}
        try:
            model = choose(SCHEDULERS, section.get("kind"), "scheduler.kind")
            resolved["scheduler"] = _part(model, section, "scheduler", problems)
        except ValueError as error:
            problems.append(str(error))
    if not problems:
        try:
            return SweepOptions.model_validate(resolved)
        except ValidationError as error:
            problems = describe(error)
    raise _refusal(problems)


def _part(model: type[Section], value: Any, key: str, problems: list[str]) -> Section | None:
    """A section, checked by its own class; what is wrong with it is added to the problems."""
    if not isinstance(value, Mapping):
        problems.append(f"{key}: expected settings of its own, {', '.join(model.model_fields)}; got {value!r}")
        return None
    try:
        return model.model_validate(value)
    except ValidationError as error:
        problems += describe(error, key, model)
        return None


def _base(options: SweepOptions, folder: Path) -> dict[str, Any]:
    if isinstance(options.base, str):
        return _changed(read_mapping(folder / Path(options.base).expanduser()), options.settings)
    return _changed(options.base, options.settings)


def _metric(options: SweepOptions, config: Config) -> tuple[str, str]:
    objective = OBJECTIVES[TASKS[config.tasks.kind].objective]
    names = (objective.metric, "loss")
    metric = options.metric or objective.metric
    if metric not in names:
        raise _refusal(
            [f"metric: expected one of {', '.join(names)}, which validation of {config.tasks.kind} gives, got {metric}"]
        )
    mode = "max" if metric == objective.metric and objective.higher_is_better else "min"
    if options.mode not in (None, mode):
        raise _refusal([f"mode: {metric} is better the {'higher' if mode == 'max' else 'lower'}: expected {mode}"])
    return metric, mode


def _check_run(options: SweepOptions, config: Config) -> list[str]:
    run = config.run
    if 0 < run.validate_every <= run.steps:
        return []
    return [
        f"run.validate_every = {run.validate_every}, run.steps = {run.steps}: trials are compared at validations; set "
        "run.validate_every to a number of steps up to run.steps, in the base or under settings"
    ]


def _check_scheduler(options: SweepOptions, config: Config) -> list[str]:
    scheduler, steps = options.scheduler, config.run.steps
    grace = scheduler.grace if isinstance(scheduler, (Asha, Median)) else None
    problems = []
    if grace is not None and grace >= steps:
        problems.append(f"scheduler.grace = {grace}: expected less than run.steps = {steps}")
    if isinstance(scheduler, Hyperband) and steps < 2 * config.run.validate_every:
        problems.append("scheduler.kind = hyperband: expected at least two validations, see run.validate_every")
    if isinstance(scheduler, Pbt):
        every = config.run.validate_every or steps
        if -(-scheduler.interval // every) * every >= steps:
            problems.append(
                f"scheduler.interval = {scheduler.interval}: expected a validation (run.validate_every = {every}) "
                f"after it and before the end, run.steps = {steps}"
            )
        if options.concurrency is not None and options.concurrency < (options.trials or TRIALS):
            problems.append(
                f"concurrency = {options.concurrency}: the trials of a population take turns by themselves where there "
                "is no room for all; leave it out"
            )
        if options.searcher != "random":
            problems.append("searcher: population-based training draws its own values: expected random")
        if (options.trials or TRIALS) < 2:
            problems.append("trials: a population takes at least 2")
        for key, domain in options.space.items():
            if key == "algorithm.inner_lr" and getattr(config.algorithm, "learned_rates", "none") != "none":
                problems.append(
                    f"space.{key}: learned rates only begin at it, so changing it in mid-run changes nothing; leave it "
                    "out, or search outer.lr_meta"
                )
            if key not in RATES or domain.kind not in ("loguniform", "uniform") or domain.when:
                problems.append(
                    f"space.{key}: population-based training changes rates in mid-run: expected loguniform or uniform "
                    f"values, without conditions, of {', '.join(RATES)}"
                )
    return problems


def _check_searcher(options: SweepOptions) -> list[str]:
    space, problems = options.space, []
    if options.searcher == "grid":
        problems += [
            f"space.{key}: the searcher grid takes listed values, choice or grid; got {domain.kind}"
            for key, domain in space.items()
            if not domain.listed
        ]
        if options.trials is not None:
            problems.append("trials: the searcher grid tries every combination; leave it out")
        if options.first:
            problems.append("first: the searcher grid tries every combination; list these values in the space")
        return problems
    size, drawn = len(_grid(space)), (options.trials or TRIALS) - len(options.first)
    if options.searcher == "optuna" and size > 1:
        problems.append("space: the searcher optuna draws listed values; use choice instead of grid")
    if drawn < 0:
        problems.append(f"first: expected no more than trials = {options.trials or TRIALS}, got {len(options.first)}")
    elif drawn % size:
        problems.append(
            f"trials = {options.trials or TRIALS}: the keys with grid have {size} combinations, which should be tried "
            f"equally often; use a multiple of {size}{f' and {len(options.first)} for first' if options.first else ''}"
        )
    return problems


def _check_first(options: SweepOptions) -> list[str]:
    """Each of the first trials has a value of the space for exactly those keys that are set."""
    problems: list[str] = []
    for number, values in enumerate(options.first):
        where = f"first, number {number + 1}"
        problems += [f"{where}: {key} is no key of the space" for key in values if key not in options.space]
        for key, domain in options.space.items():
            if domain.active(values) != (key in values):
                problems.append(f"{where}: {key} is {'not set here' if key in values else 'missing'}")
            elif key in values and not domain.holds(values[key]):
                said = f"{domain.kind} {list(domain.values)}"
                problems.append(f"{where}: {key} = {values[key]!r}: expected a value of the space, {said}")
    return problems


def _check_space(options: SweepOptions, base: dict[str, Any], config: Config) -> list[str]:
    """Each key by itself: it exists, may be searched, and takes its bounds or listed values."""
    problems: list[str] = []
    earlier: list[str] = []
    for key, domain in options.space.items():
        unknown = [other for other in domain.when if other not in earlier]
        problems += [f"space.{key}.when: {other} is no earlier key of the space" for other in unknown]
        problems += [
            f"space.{key}.when: {value!r} is no value of {other}"
            for other, wanted in domain.when.items()
            if other in earlier
            for value in (wanted if isinstance(wanted, list) else [wanted])
            if not options.space[other].holds(value)
        ]
        earlier.append(key)
        if fixed := _fixed(key):
            problems.append(f"space.{key}: {fixed} is the same for all trials; set it in the base or under settings")
        elif not unknown:
            given = _conditions(options.space, domain)
            problems += _first_problem(
                f"space.{key}", [{**given, key: value} for value in domain.values], key, base, config
            )
    return problems


def _conditions(space: Mapping[str, Domain], domain: Domain) -> Values:
    """Values under which a key is set: of the keys that it depends on, and that these depend on."""
    found: Values = {}
    for key, wanted in domain.when.items():
        found = {**found, **_conditions(space, space[key]), key: wanted[0] if isinstance(wanted, list) else wanted}
    return found


def _fixed(key: str) -> str | None:
    """The part of a key that may not differ between trials."""
    return next(
        (each for each in (*_FIXED, *_EVERY) if f"{key}.".startswith(f"{each}.") or each.startswith(f"{key}.")), None
    )


def _check_points(
    options: SweepOptions, base: dict[str, Any], config: Config, points: tuple[Values, ...] | None
) -> list[str]:
    """All trials' configurations, or some of those that a searcher may come to."""
    chance = random.Random(options.seed)
    tried = points or (*options.first, *(_drawn(options.space, chance, {}) for _ in range(TRIED)))
    return _first_problem("space", tried, None, base, config)


def _first_problem(
    where: str, candidates: Iterable[Values], key: str | None, base: dict[str, Any], config: Config
) -> list[str]:
    """The first configuration that is refused, with the reason."""
    for values in candidates:
        said = f"{values[key]!r}" if key else ", ".join(f"{name} = {value}" for name, value in values.items())
        try:
            found = load_config(_changed(base, values))
        except ConfigError as error:
            reasons = str(error).splitlines()
            return [f"{where}: {said} is refused: {line.strip()}" for line in (reasons[1:] or reasons)]
        changed = {"inner_steps": config.evaluation.inner_steps}
        if found.evaluation.model_copy(update=changed) != config.evaluation:
            return [
                f"{where}: {said} changes the tasks of validation, and trials would not be compared on the same ones; "
                "set evaluation.ways, evaluation.shots and evaluation.queries in the base or under settings"
            ]
    return []


def _refuse(problems: list[str]) -> None:
    if problems:
        raise _refusal(problems)


def _refusal(problems: Iterable[str]) -> ConfigError:
    return ConfigError("the sweep is not valid:\n  " + "\n  ".join(dict.fromkeys(problems)))


# Values -----------------------------------------------------------------------------------------------------------


def _points(options: SweepOptions) -> tuple[Values, ...]:
    """The values of all trials."""
    if options.searcher == "grid":
        combinations = itertools.product(*(domain.values for domain in options.space.values()))
        found: list[Values] = []
        for combination in combinations:
            values: Values = {}
            for (key, domain), value in zip(options.space.items(), combination, strict=True):
                if domain.active(values):
                    values[key] = value
            if values not in found:  # combinations of keys that are not set are the same trial
                found.append(values)
        return tuple(found)
    chance, grid = random.Random(options.seed), _grid(options.space)
    count = (options.trials or TRIALS) - len(options.first)
    return (*options.first, *(_drawn(options.space, chance, grid[number % len(grid)]) for number in range(count)))


def _drawn(space: Mapping[str, Domain], chance: random.Random, given: Values) -> Values:
    values: Values = {}
    for key, domain in space.items():
        value = given[key] if key in given else domain.draw(chance)  # drawn for keys that are not set too: as many
        if domain.active(values):
            values[key] = value
    return values


def _grid(space: Mapping[str, Domain]) -> list[Values]:
    """The combinations of the keys with ``grid``."""
    keys = [key for key, domain in space.items() if domain.kind == "grid"]
    return [dict(zip(keys, each, strict=True)) for each in itertools.product(*(space[key].values for key in keys))]


def perturb(values: Values, options: SweepOptions, chance: random.Random) -> Values:
    """Other rates near these, or drawn anew, within the space: the step that population-based training explores by."""
    assert isinstance(options.scheduler, Pbt)
    new = dict(values)
    for key, domain in options.space.items():
        if chance.random() < options.scheduler.resample:
            new[key] = domain.draw(chance)
        else:
            new[key] = domain.clip(values[key] * (0.8 if chance.random() < 0.5 else 1.25))
    return new


def _changed(base: Mapping[str, Any], values: Values) -> dict[str, Any]:
    """A copy with values at dotted keys."""
    changed = read_mapping(base)
    for key, value in values.items():
        put(changed, key, copy.deepcopy(value))  # a section may be changed by the keys within it
    return changed
