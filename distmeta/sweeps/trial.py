"""One trial of a sweep: the runs of its seeds side by side, from validation to validation. Knows nothing of Ray.

A trial's folder is the truth about it: whatever restarts it finds there what was measured, and goes on from its runs'
checkpoints. In population-based training a trial that goes on from another one gets a new part, a subfolder with an
``origin.json``; its runs begin with the other one's checkpoints.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import Field, NonNegativeInt

from distmeta.config.schema import dump_config, written_values
from distmeta.core.records import StepRecord
from distmeta.core.secrets import mask
from distmeta.errors import NonFiniteError, StorageError
from distmeta.runs import checkpoint
from distmeta.runs.directory import RunDirectory, to_json
from distmeta.runs.identity import check_same
from distmeta.runs.metrics import read_lines
from distmeta.runs.train import train
from distmeta.storage.files import Storage
from distmeta.storage.json_files import JsonValues, read_json
from distmeta.storage.manifests import CHECKPOINTS, newest_fitted, newest_identity
from distmeta.sweeps.points import Values
from distmeta.sweeps.sweep import Sweep
from distmeta.tasks import with_fitted

TRIAL = "trial.json"
ORIGIN = "origin.json"
DIVERGED = "diverged.json"
FAILURE = "failure.txt"
"""The traceback of the last exception that ended a trial."""

TAKEOVER_SECONDS = 120.0
"""Seconds to wait for the process that had a trial's run before, which may be about to end, or be dead elsewhere."""

_VALIDATION = "validation/"

WORST_SCORE = 1e30
"""Score, for Tune, of what is not finite."""

Validations = dict[int, dict[str, float]]
"""Validation metrics by step."""


@dataclass(frozen=True)
class Moment:
    """A moment of a trial.

    Attributes:
        trial: its name.
        part: which of its parts.
        step: meta-steps done.
    """

    trial: str
    part: int
    step: int


@dataclass(frozen=True)
class TrialPart:
    """A stretch of a trial with one set of values.

    Attributes:
        values: the values of the space's keys.
        origin: the moment of another trial that it went on from; ``None`` where it starts at step 0.
        home: its folder.
    """

    values: Values
    origin: Moment | None
    home: Storage

    def run(self, seed: int) -> RunDirectory:
        """The directory of one of its runs."""
        return RunDirectory(self.home.child(f"seed-{seed}"))


class _Trial(JsonValues):
    values: dict[str, Any]


class _Origin(_Trial):
    trial: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]
    part: NonNegativeInt
    step: NonNegativeInt


class _Diverged(JsonValues):
    message: str


_ADVICE = "restore it, or delete the trial's folder"


def read_parts(trial: Storage) -> list[TrialPart]:
    """All parts of a trial, the latest last; a part that was only begun when its trial died does not count."""
    if not trial.exists(TRIAL):
        return []
    parts = [TrialPart(read_json(trial, TRIAL, _Trial, _ADVICE)["values"], None, trial)]
    while trial.exists(_part(len(parts))) and trial.child(_part(len(parts))).exists(ORIGIN):
        home = trial.child(_part(len(parts)))
        origin = read_json(home, ORIGIN, _Origin, _ADVICE)
        parts.append(TrialPart(origin["values"], Moment(origin["trial"], origin["part"], origin["step"]), home))
    return parts


def read_validations(run: RunDirectory) -> Validations:
    """What a run's validations measured, by step; what was not finite is NaN."""
    found: Validations = {}
    for _, record in read_lines(run.storage):
        metrics = {name: value for name, value in record.items() if name.startswith(_VALIDATION)}
        if metrics and all(value is None or isinstance(value, (int, float)) for value in metrics.values()):
            found[record["step"]] = {
                name.removeprefix(_VALIDATION): math.nan if value is None else float(value)
                for name, value in metrics.items()
            }
    return found


def diverged(part: TrialPart) -> str | None:
    """How a part has diverged, if it has: in the words of the run."""
    if not part.home.exists(DIVERGED):
        return None
    return str(read_json(part.home, DIVERGED, _Diverged, _ADVICE)["message"])


def finite(score: float, mode: str) -> float:
    """A score as Tune takes it: what is not finite is the worst of all.

    >>> finite(0.5, "max"), finite(math.nan, "max"), finite(math.inf, "min")
    (0.5, -1e+30, 1e+30)
    """
    return score if math.isfinite(score) else -WORST_SCORE if mode == "max" else WORST_SCORE


def mean(measured: list[dict[str, float]]) -> dict[str, float]:
    """The mean over runs of each metric.

    >>> mean([{"mse": 1.0}, {"mse": 2.0}])
    {'mse': 1.5}
    """
    return {name: math.fsum(each[name] for each in measured) / len(measured) for name in measured[0]}


def check_trials(sweep: Sweep, trials: Storage) -> None:
    """Refuse to go on with trials whose data, code or frozen weights have changed, before one of them fails by it.

    Raises:
        ChangedError: naming what has changed.
    """
    seen: set[str] = set()
    for part in (part for name in trials.list() for part in read_parts(trials.child(name))[-1:]):
        config = sweep.trial_config(part.values, sweep.seeds[0])
        before = newest_identity(part.run(sweep.seeds[0]).storage)
        same = to_json([before, config.model_dump(mode="json", include={"seed", "tasks", "model"})])
        if before and same not in seen:
            seen.add(same)
            config = with_fitted(config, newest_fitted(part.run(sweep.seeds[0]).storage))
            check_same(config, before, f"trial {part.home.location}")


class TrialRun:
    """Drives the runs of one trial.

    Args:
        sweep: the sweep.
        trials: the folder of all its trials.
        name: this trial's.
        values: its values of the space's keys.
        accept_changes: see :func:`~distmeta.runs.train.train`.

    Attributes:
        step: meta-steps that were told, by :meth:`next`.
    """

    def __init__(
        self, sweep: Sweep, trials: Storage, name: str, values: Values, *, accept_changes: bool = False
    ) -> None:
        self._sweep, self._trials, self._name, self._accept = sweep, trials, name, accept_changes
        self._home = trials.child(name)
        if not self._home.exists(TRIAL):
            self._home.write_bytes(TRIAL, to_json({"values": values}).encode())
        self.step = 0
        self._runs: dict[int, Generator[StepRecord, None, dict[str, Any]]] = {}
        self._open(read_parts(self._home), 0)

    def next(self) -> tuple[int, dict[str, float] | None]:
        """Go on to the next validation.

        Returns:
            Its step, and the mean over the runs of what it measured; ``None`` where a run has diverged by then.
        """
        run = self._sweep.config.run
        self.step = min(self.step - self.step % run.validate_every + run.validate_every, run.steps)
        if diverged(self._part) is not None:
            return self.step, None
        try:
            return self.step, mean([self._reach(seed, self.step) for seed in self._sweep.seeds])
        except NonFiniteError as error:
            self._part.home.write_bytes(DIVERGED, to_json({"step": self.step, "message": str(error)}).encode())
            return self.step, None
        except Exception:
            self._home.write_bytes(FAILURE, mask(traceback.format_exc()).encode())
            raise

    @property
    def place(self) -> Moment:
        """Where it is, for :meth:`go_on`."""
        return Moment(self._name, self._number, self.step)

    def go_on(self, place: Moment, values: Values) -> None:
        """Continue from a moment of this trial, or, in a population, of another one or with other values.

        Args:
            place: the moment; there are checkpoints of it.
            values: what to continue with.
        """
        self.close()
        parts = read_parts(self._home)
        if place.trial == self._name:
            # Where a kill came between, the folder knows of a part of which Tune does not: it counts.
            here = place.part < len(parts) - 1 or parts[-1].values == values or not self._sweep.population
        else:
            here = (parts[-1].origin, parts[-1].values) == (place, values)
        if not here:
            parts.append(self._branch(place, values, len(parts)))
        self._open(parts, place.step)

    def close(self) -> None:
        """End the runs, which checkpoint and give back their workers."""
        runs, self._runs = self._runs, {}
        for run in runs.values():
            run.close()

    def _open(self, parts: list[TrialPart], step: int) -> None:
        self._part, self._number = parts[-1], len(parts) - 1
        self.step = max(step, self._part.origin.step if self._part.origin else 0)
        self._known = {seed: read_validations(self._part.run(seed)) for seed in self._sweep.seeds}

    def _reach(self, seed: int, step: int) -> dict[str, float]:
        """What a run's validation at this step measured, which may have been before the trial was restarted."""
        known = self._known[seed]
        while step not in known:
            if seed not in self._runs:
                config = self._sweep.trial_config(self._part.values, seed)
                home, settle = self._part.run(seed).storage, self._sweep.population is not None
                self._runs[seed] = train(
                    config,
                    home.uri,
                    resume=True,
                    settle=settle,
                    accept_changes=self._accept,
                    patience=TAKEOVER_SECONDS,
                )
            record = next(self._runs[seed], None)
            if record is None:
                raise StorageError(
                    f"{self._part.run(seed).location} has no record of its validation at step {step}: its "
                    "metrics.jsonl was changed; restore it, or delete the trial's folder"
                )
            if record.validation is not None:
                known[record.step] = dict(record.validation)
            if record.step == self._sweep.config.run.steps:
                self._runs.pop(seed).close()  # it is checkpointed; only the sweep's best is meta-tested
        return known[step]

    def _branch(self, place: Moment, values: Values, number: int) -> TrialPart:
        """A new part whose runs begin with the checkpoints of another trial, under these values."""
        donor = read_parts(self._trials.child(place.trial))[place.part]
        home = self._home.child(_part(number))
        self._home.delete(_part(number))  # what is there was left by one that died here
        part = TrialPart(values, place, home)
        for seed in self._sweep.seeds:
            config = self._sweep.trial_config(values, seed)
            source = donor.run(seed).storage.child(CHECKPOINTS, f"step-{place.step:08d}")
            # Which validation was the best stands in the donor's folder, with its checkpoint.
            snapshot = replace(checkpoint.load(source), config=written_values(config), best=None)
            run = part.run(seed)
            run.write_config(dump_config(config))
            checkpoint.save(run.storage, snapshot)
        origin: Mapping[str, Any] = {**place.__dict__, "values": values}
        home.write_bytes(ORIGIN, to_json(origin).encode())
        return part


def _part(number: int) -> str:
    return f"part-{number:03d}"
