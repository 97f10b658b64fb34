"""A sweep: one validated file, and the configurations that it stands for."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from distmeta.config.migrations import CONFIG_MIGRATIONS, NO_SETTING, SCHEMA, Migration, current, newest
from distmeta.config.modules import kinds
from distmeta.config.problems import choose, describe, suggest
from distmeta.config.schema import Config
from distmeta.config.sections import Section
from distmeta.config.text import parse_override, parse_yaml, put, read_mapping
from distmeta.core.quoting import shown
from distmeta.core.secrets import masked
from distmeta.errors import ConfigError
from distmeta.loading import check_origin, load_config, named_keys, named_kinds
from distmeta.runs.directory import differences
from distmeta.sweeps.checks import find_metric, find_problems, point_problems, refusal, refuse
from distmeta.sweeps.points import DEFAULT_TRIALS, Values, changed, points
from distmeta.sweeps.sections import SCHEDULERS, Domain, Pbt, Resources, SweepOptions

SWEEP = "sweep.yaml"
"""The sweep in its own folder."""

SWEEP_MIGRATIONS: dict[int, Migration] = {}
"""Of sweep files, by the version that each takes; their bases have versions of their own."""

_MAY_CHANGE = ("resources.", "base.cluster.", "base.tasks.root")  # data is compared by its hash


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
        return len(self.points) if self.points is not None else self.options.trials or DEFAULT_TRIALS

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
        return load_config(changed(self.base, {**values, **changes}))

    def best_config(self, values: Values) -> Config:
        """What ``distmeta train`` takes to do a trial's (first) run again, to the same bits."""
        return load_config(changed(self.base, {**values, "name": f"{self.options.name}_best"}))


def load_sweep(
    source: str | Path | Mapping[str, Any], overrides: Iterable[str] = (), *, trust_code: bool = False
) -> Sweep:
    """Read, override and check a sweep; nothing is started.

    Args:
        source: a YAML file, or the same as a mapping; one that was written for an older version is migrated.
        overrides: ``key=value`` pairs. Keys of a sweep file (``trials``, ``scheduler.grace``, ...) change the sweep,
            all others the base configuration of all trials.
        trust_code: let a file that lies in a run directory, a checkpoint or a sweep name code (``module:``) that is to
            be run; a file of yours elsewhere may anyway.

    Raises:
        ConfigError: naming every setting that is wrong, what was expected and what came.
        TrustError: the file, or its base, came with a run, and names code that nobody has allowed.

    >>> base = {"tasks": {"kind": "sinusoid"}, "model": {"kind": "mlp"}, "algorithm": {"name": "maml"}}
    >>> space = {"outer.lr": {"loguniform": [1e-4, 1e-2]}}
    >>> sweep = load_sweep({"base": base, "space": space}, ["trials=2", "run.validate_every=50"])
    >>> len(sweep.points), sweep.metric, sweep.mode
    (2, 'mse', 'min')
    """
    values = _current(read_mapping(source), "the sweep" if isinstance(source, Mapping) else shown(str(source))[1:-1])
    del values[SCHEMA]
    overrides = list(overrides)
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
    refuse([NO_SETTING for keys in (options.settings, options.space) if SCHEMA in keys])
    folder, named = Path(), [*kinds(values).values(), *named_kinds(overrides)]
    if not isinstance(source, Mapping):
        folder = Path(source).parent
        check_origin(source, values, named_kinds(overrides), named_keys(overrides), trust_code)
    base = _base(options, folder, named, trust_code)
    config = load_config(base)
    if (root := getattr(config.tasks, "root", None)) is not None:
        put(base, "tasks.root", root)  # the same place wherever a trial is
    metric, mode = find_metric(options, config)
    refuse([*_secrets_in(options), *find_problems(options, base, config)])
    found = None if options.searcher == "optuna" else points(options)
    refuse(point_problems(options, base, config, found))
    return Sweep(options, base, config, metric, mode, found)


def _secrets_in(options: SweepOptions) -> list[str]:
    """A trial's values stand in many files, its name on the screen."""
    return [
        f"space.{key}: a URI with a secret in it cannot be a value of trials; leave the secret out, and set it in the "
        "environment"
        for key, domain in options.space.items()
        if masked(values := domain.model_dump(mode="json")) != values
    ]


def dump_sweep(sweep: Sweep) -> str:
    """The sweep as YAML that holds its base, so that :func:`load_sweep` takes it anywhere; secrets are masked."""
    values = sweep.options.model_dump(mode="json", exclude_defaults=True)
    space = sweep.options.space.items()
    values["space"] = {key: domain.model_dump(mode="json", exclude_defaults=True) for key, domain in space}
    values["scheduler"] = sweep.options.scheduler.model_dump(mode="json")
    values.pop("settings", None)
    written = {SCHEMA: newest(SWEEP_MIGRATIONS), **values, "base": sweep.base}
    return yaml.safe_dump(masked(written), sort_keys=False)


def check_same_sweep(old: str, new: str) -> None:
    """Refuse to resume a sweep with settings that would make it another one.

    ``resources`` and the base's ``cluster`` may change.

    Raises:
        ConfigError: naming the settings that differ.
    """
    kept, asked = (_current(parse_yaml(text, SWEEP), SWEEP) for text in (old, new))
    changes = differences(kept, asked)
    lines = [change for key, change in changes.items() if not key.startswith(_MAY_CHANGE)]
    if lines:
        raise ConfigError(
            "a resumed sweep must keep its settings, but these differ:\n  "
            + "\n  ".join(lines)
            + "\nstart a new sweep in another --run-dir, or leave these as they were"
        )


def _current(values: Mapping[Any, Any], what: str) -> dict[str, Any]:
    """A sweep file of any version in the newest one, with its base where it holds that."""
    values = current(values, SWEEP_MIGRATIONS, what)
    if isinstance(base := values.get("base"), Mapping):
        values["base"] = current(base, CONFIG_MIGRATIONS, "base")
    return values


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
    raise refusal(problems)


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


def _base(options: SweepOptions, folder: Path, named: Iterable[str], trust_code: bool) -> dict[str, Any]:
    if not isinstance(options.base, str):
        return changed(current(options.base, CONFIG_MIGRATIONS, "base"), options.settings)
    file = folder / os.path.expanduser(options.base)
    base = changed(current(read_mapping(file), CONFIG_MIGRATIONS, shown(str(file))[1:-1]), options.settings)
    check_origin(file, base, named, options.settings, trust_code)
    return base
