"""The settings of the outer steps, apart from these themselves, so that checking them needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Discriminator, Field, PositiveInt, Tag, model_validator

from distmeta.config.sections import NonNegativeFloat, OuterOptions, PositiveFloat, Section


class StepSchedule(Section):
    """Outer rate multiplied by ``factor`` every ``every`` meta-steps."""

    kind: Literal["step"]
    every: PositiveInt
    factor: Annotated[float, Field(gt=0, le=1)]


Schedule = Annotated[
    Annotated[Literal["constant", "linear", "cosine"], Tag("name")] | Annotated[StepSchedule, Tag("section")],
    # Told apart first, so that a mistake in one is not answered with the rules of the other.
    Discriminator(lambda value: "section" if isinstance(value, Mapping | StepSchedule) else "name"),
]


class GradientOptions(OuterOptions):
    """A step of an optimizer along the mean meta-gradient.

    ``lr_meta`` is the rate of what is meta-learned beside the module's parameters (learned inner rates); it defaults to
    ``lr``. ``schedule`` multiplies both: ``constant``, ``linear`` (1 to 0 over ``run.steps``), ``cosine`` (likewise),
    or ``{kind: step, every: N, factor: F}``. ``clip_value`` bounds each element of the mean meta-gradient, then
    ``clip_norm`` its Euclidean norm. ``momentum`` belongs to the optimizer ``sgd``; ``weight_decay`` is applied to the
    module's parameters alone.
    """

    requests: ClassVar[tuple[str, ...]] = ("gradient",)

    name: str = "gradient"
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    lr: NonNegativeFloat = 1e-3
    lr_meta: NonNegativeFloat | None = None
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    weight_decay: NonNegativeFloat = 0.0
    schedule: Schedule = "constant"
    clip_norm: PositiveFloat | None = None
    clip_value: PositiveFloat | None = None

    @model_validator(mode="after")
    def _check_momentum(self) -> GradientOptions:
        if self.momentum and self.optimizer != "sgd":
            raise ValueError(f"outer.momentum is a setting of optimizer sgd, not of {self.optimizer}")
        return self

    @model_validator(mode="after")
    def _rate_of_the_others(self) -> GradientOptions:
        if self.lr_meta is None:
            object.__setattr__(self, "lr_meta", self.lr)
        return self


class ClippedOptions(OuterOptions):
    """Several steps of Adam on one sample, of a loss that does not reward going far from the policies that drew it.

    ``epochs`` steps of rate ``lr``, times the factor of the ``schedule``, which is as of the gradient step. Probability
    ratios beyond 1 - ``clip`` and 1 + ``clip`` gain nothing. ``penalty`` weighs the divergence of the policies before
    each inner step from those that acted; with a ``divergence`` to aim at it is doubled where that is exceeded by half,
    and halved where it is below two thirds of it. ``clip_norm`` bounds the Euclidean norm of the mean meta-gradient.
    """

    requests: ClassVar[tuple[str, ...]] = ("clipped",)
    repeats: ClassVar[bool] = True

    name: str = "clipped"
    lr: PositiveFloat = 1e-3
    epochs: Annotated[int, Field(gt=0, le=1000)] = 5
    clip: Annotated[float, Field(gt=0, lt=1)] = 0.3
    schedule: Schedule = "constant"
    penalty: NonNegativeFloat = 5e-4
    divergence: PositiveFloat | None = None
    clip_norm: PositiveFloat | None = None

    @property
    def passes(self) -> int:
        """One an epoch."""
        return self.epochs


class TrustRegionOptions(OuterOptions):
    """The natural-gradient step of a given length, shortened until the loss is lower.

    ``radius`` bounds the mean divergence of the adapted networks' outputs, and so the step's length. ``damping`` is
    added to the curvature's diagonal. ``cg_steps`` and ``cg_tolerance`` end conjugate gradients: after so many
    products, or when the residual is so small beside the meta-gradient. A candidate that is not accepted is followed by
    one that is ``backtrack`` times as far, ``candidates`` in all; then the step changes nothing.
    """

    requests: ClassVar[tuple[str, ...]] = ("gradient", "curvature", "compare")

    name: str = "trust_region"
    radius: PositiveFloat = 0.01
    damping: PositiveFloat = 0.01
    cg_steps: Annotated[int, Field(gt=0, le=1000)] = 10
    cg_tolerance: NonNegativeFloat = 1e-6
    candidates: Annotated[int, Field(gt=0, le=100)] = 10
    backtrack: Annotated[float, Field(gt=0, lt=1)] = 0.5

    @property
    def passes(self) -> int:
        """The gradient, and the curvature's products."""
        return 1 + self.cg_steps
