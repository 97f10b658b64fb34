"""What the readers of given files give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

ONE = ""
"""The name of the task of files that name none."""


@dataclass(frozen=True)
class GivenExamples:
    """The examples of one task in one place.

    Attributes:
        rows: where each stands, for people: a file's name, or the number of a row from 1.
        labels: classes or values as they stand there; ``None`` where there are none.
        source: what the reader needs to read them.
    """

    rows: Sequence[str | int]
    labels: Sequence[Any] | None
    source: Any


class Reader(Protocol):
    """Reads the examples of a place, which is one of a learner's inputs.

    Attributes:
        place: path or URI, for messages.
    """

    place: str

    @property
    def tasks(self) -> Mapping[str, GivenExamples]:
        """The examples of each task by its name, in the order of the place."""
        ...

    def inputs(self, examples: GivenExamples) -> Any:
        """What the learner takes of them."""
        ...

    def close(self) -> None:
        """End what was opened."""
        ...
