"""Settings of sinusoid regression."""

from __future__ import annotations

from distmeta.config.sections import DrawnShots, Examples
from distmeta.tasks.options.episodes import EpisodeOptions


class SinusoidOptions(EpisodeOptions):
    """Settings under ``tasks`` for ``kind: sinusoid``: support and query points a task.

    ``shots`` is a number, or a section ``{min, max}`` to draw it from for every meta-step; ``examples`` keeps shots and
    queries together constant.
    """

    objective: str = "squared_error"

    shots: DrawnShots = 10
    queries: Examples = 10
