"""What became of a trial."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from distmeta.sweeps.points import Values
from distmeta.sweeps.trial import Moment


@dataclass(frozen=True)
class Point:
    """A validation of a trial.

    Attributes:
        metrics: means over its runs.
        runs: the metric that trials are compared by, of each run.
        place: where its checkpoints are.
    """

    metrics: Mapping[str, float]
    runs: tuple[float, ...]
    place: Moment


@dataclass(frozen=True)
class TrialResult:
    """What became of a trial.

    Attributes:
        name: of its folder.
        values: the values of the space's keys, those that it ended with.
        status: ``finished`` all steps, ``stopped`` by the scheduler, ``diverged``, or ``failed``.
        points: its validations by step, with those of the trials that it went on from.
        score: its best one; NaN where there is none.
        step: of the score.
        steps: meta-steps done.
        problem: why it diverged or failed.
        rates: the values from each step on; one entry but in population-based training.
    """

    name: str
    values: Values
    status: str
    points: Mapping[int, Point]
    score: float
    step: int
    steps: int
    problem: str
    rates: list[tuple[int, Values]]

    @property
    def runs(self) -> tuple[float, ...]:
        """The scores of its runs at ``step``, whose mean is ``score``; none where there is no score."""
        return self.points[self.step].runs if self.step in self.points else ()
