"""What is told of a sweep while it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class TrialStatus:
    """A trial as it is now.

    Attributes:
        name: the trial's.
        values: of the space's keys.
        status: in Tune's words.
        step: meta-steps done.
        score: the best so far; ``None`` before there is one.
    """

    name: str
    values: Mapping[str, Any]
    status: str
    step: int
    score: float | None


class View(Protocol):
    """Is shown all trials, often."""

    def show(self, rows: Sequence[TrialStatus]) -> None:
        """All trials that there are by now."""
        ...
