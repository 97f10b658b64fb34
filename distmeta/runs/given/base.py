"""What the readers of given files give."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

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
        naming: what names the tasks of several, for messages: the column ``task``, for example.
    """

    place: str
    naming: str

    @property
    def tasks(self) -> Mapping[str, GivenExamples]:
        """The examples of each task by its name, in the order of the place."""
        ...

    def inputs(self, examples: GivenExamples) -> Any:
        """What the learner takes of them."""
        ...

    def takes(self, path: Path) -> bool:
        """Whether a file is one of those that are read."""
        ...

    def close(self) -> None:
        """End what was opened."""
        ...


def task_name(value: Any) -> str:
    """A task's name as people write it: 7, where a file's type made 7.0 of it.

    >>> task_name(7.0), task_name("007")
    ('7', '007')
    """
    plain = value.item() if isinstance(value, np.generic) else value
    return str(int(plain)) if isinstance(plain, float) and plain.is_integer() else str(plain)


def same_file(place: str, path: Path) -> bool:
    """Whether a place is this file, by whatever name."""
    try:
        return os.path.samefile(place, path)
    except (OSError, ValueError):  # one of them is not there, or is a URI
        return False
