"""The settings of families over a map-style data set."""

from __future__ import annotations

from distmeta.config.sections import Examples, TaskOptions, Ways


class DatasetOptions(TaskOptions):
    """Settings under ``tasks`` where ``kind`` names what ``from_dataset`` gave: classes a task, examples a class."""

    objective: str = "cross_entropy"

    ways: Ways = 5
    shots: Examples = 1
    queries: Examples = 15
