"""The settings of the estimators, apart from these themselves, so that checking them needs no torch."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, NonNegativeInt

from distmeta.config.sections import EstimatorOptions, PositiveFloat


class ExactOptions(EstimatorOptions):
    """Until meta-step ``multi_step`` the query loss after every inner step counts, less and less; 0: the last alone."""

    through_steps: ClassVar[bool] = True
    curved: ClassVar[bool] = True
    of_outputs: ClassVar[bool] = True

    multi_step: NonNegativeInt = 0

    @classmethod
    def refuse(cls, options: Any) -> str | None:
        """Multi-step losses are of inner steps."""
        if options.multi_step and not hasattr(options, "inner_steps"):
            return (
                f"algorithm.multi_step = {options.multi_step} weighs the losses after inner steps, and "
                f"algorithm.adaptation = {options.adaptation} takes none; leave it out"
            )
        return None


class HybridOptions(ExactOptions):
    """Beside the exact estimator's: meta-steps before ``first_order_steps`` are of first order and the last loss."""

    needs_steps: ClassVar[bool] = True
    in_phases: ClassVar[bool] = True

    first_order_steps: Annotated[int, Field(gt=0)]


class TruncatedOptions(EstimatorOptions):
    """The last ``differentiated`` inner steps are differentiated."""

    needs_steps: ClassVar[bool] = True
    curved: ClassVar[bool] = True
    of_outputs: ClassVar[bool] = True

    differentiated: Annotated[int, Field(gt=0)] = 1


class ImplicitOptions(EstimatorOptions):
    """``solver_steps`` steps of conjugate gradient (``cg``), or so many powers of the Hessian (``neumann``)."""

    needs_steps: ClassVar[bool] = True
    curved: ClassVar[bool] = True

    solver: Literal["cg", "neumann"] = "cg"
    solver_steps: Annotated[int, Field(gt=0, le=1000)] = 5

    @classmethod
    def refuse(cls, options: Any) -> str | None:
        """A solution is one of the whole support set, near to where it began, and knows nothing of the way there."""
        if not options.proximal:
            return (
                "algorithm.estimator = implicit is about solutions near the meta-parameters, and algorithm.proximal = "
                "0; give the proximal term's weight, for example algorithm.proximal=2"
            )
        for key, none in (
            ("learned_rates", "none"),
            ("preconditioner", "none"),
            ("step_norms", False),
            ("inner_batch", None),
        ):
            if getattr(options, key) != none:
                return (
                    f"algorithm.{key} = {getattr(options, key)} belongs to the way to a task's solution, which "
                    "algorithm.estimator = implicit does not look at; leave it out, or use the exact estimator"
                )
        return None


class JointOptions(EstimatorOptions):
    """There is nothing to set."""

    joint: ClassVar[bool] = True

    @classmethod
    def refuse(cls, options: Any) -> str | None:
        """What is learned for inner steps has no gradient without them."""
        for key, none in (("learned_rates", "none"), ("preconditioner", "none"), ("warp", None), ("step_norms", False)):
            if getattr(options, key, none) != none:
                return (
                    f"algorithm.{key} = {getattr(options, key)} has no gradient under algorithm.estimator = joint, "
                    "which takes no inner steps; leave it out"
                )
        if options.adaptation == "context":
            return (
                "algorithm.adaptation = context learns nothing of contexts under algorithm.estimator = joint, which "
                "takes no inner steps; use gradient_descent"
            )
        return None


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
        for key, none in (("preconditioner", "none"), ("warp", None), ("step_norms", False)):
            if getattr(options, key) != none:
                return (
                    f"algorithm.{key} = {getattr(options, key)} has no meta-gradient under the displacement "
                    "estimator; use the exact or first_order estimator"
                )
        if options.adaptation == "context":
            return (
                "algorithm.adaptation = context adapts nothing that is meta-learned, so that there is no displacement; "
                "use the exact or first_order estimator"
            )
        return None


class CreditedOptions(EstimatorOptions):
    """There is nothing to set."""

    through_steps: ClassVar[bool] = True
    curved: ClassVar[bool] = True
    of_outputs: ClassVar[bool] = True
    of_policies: ClassVar[bool] = True


class EvolutionOptions(EstimatorOptions):
    """So many ``directions`` are tried for each task, to both sides, ``deviation`` times a normal vector away."""

    keyed: ClassVar[bool] = True
    program: ClassVar[str | None] = "evolving"

    directions: Annotated[int, Field(gt=0, le=10_000)] = 10
    deviation: PositiveFloat = 0.1
