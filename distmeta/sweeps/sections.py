"""The sections of a sweep file: each class checks its own settings, :mod:`distmeta.sweeps.sweep` what spans several."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, SerializeAsAny, model_validator

from distmeta.config.sections import PositiveFloat, Section, Seed

MOST_TRIALS = 10_000
"""Each has a configuration that is checked before anything starts."""

KINDS = ("loguniform", "uniform", "randint", "choice", "grid")


class Domain(Section):
    """The values that one key may take: exactly one of the five kinds.

    ``loguniform``, ``uniform``: ``[low, high]``. ``randint``: ``[low, high]``, both included. ``choice``: a list, drawn
    from. ``grid``: a list, of which every value is tried equally often. ``when`` makes a key conditional: it is set
    only where earlier keys of the space have these values (one, or a list of several).
    """

    loguniform: tuple[float, float] | None = None
    uniform: tuple[float, float] | None = None
    randint: tuple[int, int] | None = None
    choice: tuple[Any, ...] | None = None
    grid: tuple[Any, ...] | None = None
    when: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> Domain:
        given = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            got = " and ".join(given) or "none of them"
            raise ValueError(f"expected exactly one of {', '.join(KINDS)}, got {got}")
        values = self.values
        if not values:
            raise ValueError(f"{self.kind}: expected at least one value, got an empty list")
        if self.kind in ("choice", "grid"):
            return self
        low, high = values
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(f"{self.kind}: expected [low, high] with low < high, got [{low}, {high}]")
        if not math.isfinite(high - low):
            raise ValueError(f"{self.kind}: expected bounds less far apart, got [{low}, {high}]")
        if self.kind == "loguniform" and low <= 0:
            raise ValueError(f"loguniform: expected bounds above 0, got [{low}, {high}]")
        return self

    @property
    def kind(self) -> str:
        """Which of the five it is."""
        return next(kind for kind in KINDS if getattr(self, kind) is not None)

    @property
    def values(self) -> tuple[Any, ...]:
        """The bounds, or the listed values."""
        found: tuple[Any, ...] = getattr(self, self.kind)
        return found

    @property
    def listed(self) -> bool:
        """Whether the values are listed one by one."""
        return self.kind in ("choice", "grid")

    def draw(self, chance: random.Random) -> Any:
        """A value; rates are rounded to four digits, which people can read and type."""
        if self.listed:
            return self.values[int(chance.random() * len(self.values))]
        low, high = self.values
        if self.kind == "randint":
            return low + int(chance.random() * (high - low + 1))
        if self.kind == "uniform":
            return self.clip(low + chance.random() * (high - low))
        return self.clip(math.exp(math.log(low) + chance.random() * (math.log(high) - math.log(low))))

    def clip(self, value: float) -> float:
        """A value of a continuous domain, within its bounds and with four digits."""
        low, high = self.values
        return float(min(max(float(f"{value:.4g}"), low), high))

    def holds(self, value: Any) -> bool:
        """Whether a value is one of its own."""
        if self.listed:
            return value in self.values
        low, high = self.values
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return number and low <= value <= high and (self.kind != "randint" or isinstance(value, int))

    def active(self, values: Mapping[str, Any]) -> bool:
        """Whether a key with this domain is set beside these values of other keys."""
        return all(
            key in values and (values[key] in wanted if isinstance(wanted, list) else values[key] == wanted)
            for key, wanted in self.when.items()
        )


Reduction = Annotated[float, Field(ge=1.1, allow_inf_nan=False)]
"""Below 1.1 there would be rounds without end between a first and a last step."""


class SchedulerOptions(Section):
    """When trials end before ``run.steps``, or change their rates."""

    kind: str


class NoScheduler(SchedulerOptions):
    """Every trial runs to its end."""


class Asha(SchedulerOptions):
    """Asynchronous successive halving: at ``grace``, ``grace * reduction``, ... steps the best of ``reduction`` go on.

    ``grace`` is by default a ninth of ``run.steps``, and at least one validation.
    """

    grace: PositiveInt | None = None
    reduction: Reduction = 3


class Hyperband(SchedulerOptions):
    """HyperBand, asynchronous: trials are spread over brackets of ``asha``.

    These have ``grace`` 1, ``reduction``, ``reduction**2``, ... times ``run.validate_every``.
    """

    reduction: Reduction = 3


class Median(SchedulerOptions):
    """Ends a trial, after ``grace`` steps, whose best score is worse than the median of the others' means so far.

    ``grace`` is by default a ninth of ``run.steps``, and at least one validation.
    """

    grace: PositiveInt | None = None


class Pbt(SchedulerOptions):
    """Population-based training: every ``interval`` steps the worst ``quantile`` of the trials go on from the best.

    They take over the parameters, the optimizer's state and learned rates, and multiply each rate of the space by 0.8
    or 1.25, or, with probability ``resample``, draw it anew.
    """

    interval: PositiveInt
    quantile: Annotated[float, Field(gt=0, le=0.5)] = 0.25
    resample: Annotated[float, Field(ge=0, le=1)] = 0.25


SCHEDULERS: dict[str, type[SchedulerOptions]] = {
    "none": NoScheduler,
    "asha": Asha,
    "hyperband": Hyperband,
    "median": Median,
    "pbt": Pbt,
}


class Resources(Section):
    """What a trial has for itself: ``workers`` of ``cpus`` and ``gpus`` each; fractions of them are shared.

    A worker owns one device, so ``gpus`` is at most 1.

    With ``workers: 0`` the trial computes in its own process, on the sweep's host, with these ``cpus`` and ``gpus``.
    """

    workers: NonNegativeInt = 0
    cpus: PositiveFloat = 1
    gpus: Annotated[float, Field(ge=0, le=1)] = 0


class SweepOptions(Section):
    """A sweep file.

    Attributes:
        name: the sweep's name.
        base: the configuration that all trials start from: a file, relative to the sweep's, or its content.
        settings: changes to the base, by dotted keys, for all trials.
        space: the keys that trials differ in.
        metric: a meta-validation metric; the family's own (``accuracy``, ``mse``) by default, or ``loss``.
        mode: ``max`` or ``min``, as the metric has it.
        trials: how many; by default 16, and with the searcher ``grid`` as many as the grid has points.
        first: values of the first of these trials, such as published ones, to which the others then compare.
        repeats: runs of a trial, with the seeds ``seed``, ``seed + 1``, ... of the base; the score is their mean.
        seed: of the search.
        scheduler: see :data:`SCHEDULERS`.
        searcher: ``random``, ``grid`` (every combination of listed values) or ``optuna`` (TPE).
        resources: of each trial.
        concurrency: trials at the same time; by default as many as there is room for.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = "sweep"
    base: str | dict[str, Any]
    settings: dict[str, Any] = Field(default_factory=dict)
    space: Annotated[dict[str, Domain], Field(min_length=1)]
    metric: str | None = None
    mode: Literal["max", "min"] | None = None
    trials: Annotated[int, Field(gt=0, le=MOST_TRIALS)] | None = None
    first: tuple[dict[str, Any], ...] = ()
    repeats: Annotated[int, Field(gt=0, le=1000)] = 1
    seed: Seed = 0
    scheduler: SerializeAsAny[SchedulerOptions] = NoScheduler(kind="none")
    searcher: Literal["random", "grid", "optuna"] = "random"
    resources: Resources = Resources()
    concurrency: PositiveInt | None = None
