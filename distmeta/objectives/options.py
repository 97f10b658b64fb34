"""The settings of the objectives, apart from these themselves, so that checking them needs no torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from distmeta.config.sections import NonNegativeFloat, ObjectiveOptions, PositiveFloat


class CrossEntropyOptions(ObjectiveOptions):
    """Settings under ``tasks.objective`` for ``name: cross_entropy``.

    ``class_weights`` has a weight for each class of a task; ``label_smoothing`` is the share of an example's label that
    is spread evenly over all classes.
    """

    class_weights: Annotated[list[NonNegativeFloat], Field(min_length=2)] | None = None
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0


class HuberOptions(ObjectiveOptions):
    """Settings under ``tasks.objective`` for ``name: huber``: errors beyond ``delta`` count linearly."""

    delta: PositiveFloat = 1.0


class GaussianOptions(ObjectiveOptions):
    """Settings under ``tasks.objective`` for ``name: gaussian``: no predicted variance is below ``min_variance``."""

    min_variance: PositiveFloat = 1e-6


class PolicyGradientOptions(ObjectiveOptions):
    """Settings under ``tasks.objective`` of policy gradients.

    ``entropy`` is the weight of the policy's entropy, ``value_weight`` that of the error of a network's values
    (``tasks.baseline: network``).
    """

    entropy: NonNegativeFloat = 0.0
    value_weight: NonNegativeFloat = 0.5
