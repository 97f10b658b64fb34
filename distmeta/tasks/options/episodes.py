"""Settings of families whose tasks have shots and queries."""

from __future__ import annotations

from pydantic import model_validator

from distmeta.config.sections import DrawnShots, Examples, TaskOptions, limits


class EpisodeOptions(TaskOptions):
    """Settings of tasks with shots and queries, of which the shots may differ from meta-step to meta-step.

    ``shots`` is a number, or a section ``{min, max}`` to draw it from for every meta-step. ``examples`` keeps shots and
    queries together constant: what the shots leave of it are queries, and ``queries`` is the fewest of these.
    """

    shots: DrawnShots = 1
    queries: Examples = 15
    examples: Examples | None = None

    @model_validator(mode="after")
    def _check_examples(self) -> EpisodeOptions:
        if self.examples is None:
            return self
        _, most = limits(self.shots)
        fewest = self.examples - most
        if fewest < 1:
            raise ValueError(
                f"tasks.examples = {self.examples} leaves no queries beside {most} shots; expected {most + 1} or more"
            )
        if "queries" in self.model_fields_set and self.queries != fewest:
            raise ValueError(
                f"tasks.queries = {self.queries}: with tasks.examples = {self.examples} there are {fewest} queries "
                f"beside {most} shots; leave tasks.queries out"
            )
        object.__setattr__(self, "queries", fewest)
        return self
