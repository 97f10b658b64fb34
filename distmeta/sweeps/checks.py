"""What a sweep file may not say: every refusal before anything starts, each naming the setting."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping
from typing import Any

from distmeta.config.problems import listed
from distmeta.config.schema import Config
from distmeta.errors import ConfigError
from distmeta.loading import load_config
from distmeta.objectives import Objective, objective_of
from distmeta.objectives.metrics import described
from distmeta.sweeps.points import DEFAULT_TRIALS, Values, changed, drawn, grid
from distmeta.sweeps.sections import MOST_TRIALS, Asha, Domain, Hyperband, Median, Pbt, SweepOptions

TRIED = 64
"""Random combinations that are checked where the searcher draws its own."""

RATE_KEYS = ("algorithm.inner_lr", "outer.lr", "outer.lr_meta", "outer.clip_norm", "outer.clip_value")
"""What may change in the middle of a run without making its parameters and optimizer those of another one."""

_RUN = ("steps", "dir", "keep", "device", "threads", "validate_every", "checkpoint_every", "log_every")
_FIXED = ("name", "seed", "evaluation", "cluster", *(f"run.{key}" for key in _RUN))


def find_problems(options: SweepOptions, base: dict[str, Any], config: Config) -> list[str]:
    """What is wrong with a sweep's settings, besides its metric.

    Args:
        options: the settings.
        base: the configuration of all trials, as it was written.
        config: the same, resolved.
    """
    return [
        *_check_run(options, config),
        *_check_scheduler(options, config),
        *_check_searcher(options),
        *_check_first(options),
        *_check_space(options, base, config),
    ]


def find_metric(options: SweepOptions, config: Config) -> tuple[str, str]:
    """The metric that trials are compared by, and ``max`` or ``min``."""
    objective = objective_of(config.tasks)
    names = (*objective.metrics, "loss")
    metric = options.metric or objective.metrics[0]
    if metric not in names:
        raise refusal(
            [f"metric: expected one of {', '.join(names)}, which validation of {config.tasks.kind} gives, got {metric}"]
        )
    mode = "max" if _is_better_higher(objective, metric) else "min"
    if options.mode not in (None, mode):
        raise refusal([f"mode: {metric} is better the {'higher' if mode == 'max' else 'lower'}: expected {mode}"])
    return metric, mode


def _is_better_higher(objective: Objective, metric: str) -> bool:
    if metric == objective.metrics[0]:
        return objective.higher_is_better
    known = described(metric)
    return known is not None and known.higher_is_better


def _check_run(options: SweepOptions, config: Config) -> list[str]:
    run = config.run
    if config.seed + options.repeats > 2**63:
        return [f"repeats = {options.repeats}: the last seed would be above 2**63 - 1; set a lower seed in the base"]
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
        if options.concurrency is not None and options.concurrency < (options.trials or DEFAULT_TRIALS):
            problems.append(
                f"concurrency = {options.concurrency}: the trials of a population take turns by themselves where there "
                "is no room for all; leave it out"
            )
        if options.searcher != "random":
            problems.append("searcher: population-based training draws its own values: expected random")
        if (options.trials or DEFAULT_TRIALS) < 2:
            problems.append("trials: a population takes at least 2")
        for key, domain in options.space.items():
            if key == "algorithm.inner_lr" and getattr(config.algorithm, "learned_rates", "none") != "none":
                problems.append(
                    f"space.{key}: learned rates only begin at it, so changing it in mid-run changes nothing; leave it "
                    "out, or search outer.lr_meta"
                )
            if key not in RATE_KEYS or domain.kind not in ("loguniform", "uniform") or domain.when:
                problems.append(
                    f"space.{key}: population-based training changes rates in mid-run: expected loguniform or uniform "
                    f"values, without conditions, of {', '.join(RATE_KEYS)}"
                )
    return problems


def _check_searcher(options: SweepOptions) -> list[str]:
    space, problems = options.space, []
    tried = [domain for domain in space.values() if domain.kind == "grid" or options.searcher == "grid"]
    combinations = math.prod(len(domain.values) for domain in tried)
    if combinations > MOST_TRIALS:  # before they are listed
        return [f"space: its listed values have too many combinations: expected at most {MOST_TRIALS:,}"]
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
    size, drawn = len(grid(space)), (options.trials or DEFAULT_TRIALS) - len(options.first)
    if options.searcher == "optuna" and size > 1:
        problems.append("space: the searcher optuna draws listed values; use choice instead of grid")
    if drawn < 0:
        problems.append(
            f"first: expected no more than trials = {options.trials or DEFAULT_TRIALS}, got {len(options.first)}"
        )
    elif drawn % size:
        first = f" and {len(options.first)} for first" if options.first else ""
        problems.append(
            f"trials = {options.trials or DEFAULT_TRIALS}: the keys with grid have {size} combinations, which should "
            f"be tried equally often; use a multiple of {size}{first}"
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
    without: set[str] = set()  # keys whose conditions say nothing
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
        empty = [other for other, wanted in domain.when.items() if wanted == []]
        problems += [f"space.{key}.when: expected at least one value of {other}, got an empty list" for other in empty]
        if unknown or empty or not without.isdisjoint(domain.when):
            without.add(key)
        earlier.append(key)
        if fixed := _fixed(key):
            problems.append(f"space.{key}: {fixed} is the same for all trials; set it in the base or under settings")
        elif key not in without:
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
    return next((each for each in _FIXED if f"{key}.".startswith(f"{each}.") or each.startswith(f"{key}.")), None)


def point_problems(
    options: SweepOptions, base: dict[str, Any], config: Config, points: tuple[Values, ...] | None
) -> list[str]:
    """All trials' configurations, or some of those that a searcher may come to."""
    chance = random.Random(options.seed)
    tried = points or (*options.first, *(drawn(options.space, chance, {}) for _ in range(TRIED)))
    return _first_problem("space", tried, None, base, config)


def _first_problem(
    where: str, candidates: Iterable[Values], key: str | None, base: dict[str, Any], config: Config
) -> list[str]:
    """The first configuration that is refused, with the reason."""
    for values in candidates:
        said = f"{values[key]!r}" if key else ", ".join(f"{name} = {value}" for name, value in values.items())
        try:
            found = load_config(changed(base, values))
        except ConfigError as error:
            reasons = str(error).splitlines()
            return [f"{where}: {said} is refused: {line.strip()}" for line in (reasons[1:] or reasons)]
        steps = {"inner_steps": config.evaluation.inner_steps}
        if found.evaluation.model_copy(update=steps) != config.evaluation:
            return [
                f"{where}: {said} changes the tasks of validation, and trials would not be compared on the same ones; "
                "set evaluation.ways, evaluation.shots and evaluation.queries in the base or under settings"
            ]
    return []


def refuse(problems: list[str]) -> None:
    """Raise what is wrong, if anything is."""
    if problems:
        raise refusal(problems)


def refusal(problems: Iterable[str]) -> ConfigError:
    """The error that tells all of it, each thing once."""
    return ConfigError("the sweep is not valid:" + listed(problems))
