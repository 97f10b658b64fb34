"""The settings of the estimators, apart from these themselves, so that checking them needs no torch."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field

from distmeta.config.sections import EstimatorOptions, PositiveFloat


class ExactOptions(EstimatorOptions):
    """There is nothing to set, and every adaptation works."""

    through_steps: ClassVar[bool] = True
    of_outputs: ClassVar[bool] = True


class FirstOrderOptions(EstimatorOptions):
    """There is nothing to set, and every iterative adaptation works."""

    needs_steps: ClassVar[bool] = True
    of_outputs: ClassVar[bool] = True


class DisplacementOptions(EstimatorOptions):
    """There is nothing to set."""

    needs_steps: ClassVar[bool] = True

    @classmethod
    def refuse(cls, options: Any) -> str | None:
        """What a task does not change has no displacement, and learned rates have none either."""
        if options.adapt != "all":
            return (
                f"algorithm.adapt = {options.adapt!r} with the displacement estimator would never train the other "
                "parameters, which do not move within a task; use adapt: all, or the exact or first_order estimator"
            )
        if options.inner_objective is not None:
            return (
                "algorithm.inner_objective has no use under the displacement estimator, which knows no loss but that "
                "of the inner steps; set tasks.objective, or use the exact or first_order estimator"
            )
        if options.learned_rates != "none":
            return (
                "algorithm.learned_rates has no meta-gradient under the displacement estimator; use the exact or "
                "first_order estimator"
            )
        return None


class CreditedOptions(ExactOptions):
    """There is nothing to set."""

    of_policies: ClassVar[bool] = True


class EvolutionOptions(EstimatorOptions):
    """So many ``directions`` are tried for each task, to both sides, ``deviation`` times a normal vector away."""

    needs_steps: ClassVar[bool] = True
    of_policies: ClassVar[bool] = True
    program: ClassVar[str | None] = "evolving"

    directions: Annotated[int, Field(gt=0, le=10_000)] = 10
    deviation: PositiveFloat = 0.1
