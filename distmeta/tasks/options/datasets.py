"""The settings of families over a map-style data set."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from distmeta.config.sections import Examples, TaskOptions


class DatasetOptions(TaskOptions):
    """Settings under ``tasks`` where ``kind`` names what ``from_dataset`` gave: classes a task, examples a class."""

    objective: str = "cross_entropy"

    ways: Annotated[int, Field(ge=2)] = 5
    shots: Examples = 1
    queries: Examples = 15
