"""Settings of sinusoid regression."""

from __future__ import annotations

from distmeta.config.sections import Examples, TaskOptions


class SinusoidOptions(TaskOptions):
    """Settings under ``tasks`` for ``kind: sinusoid``: support and query points a task."""

    objective: str = "squared_error"

    shots: Examples = 10
    queries: Examples = 10
