"""The settings of the adaptations, apart from these themselves, so that checking them needs no torch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveInt, model_validator

from distmeta.config.sections import AdaptationOptions, ObjectiveSetting, PositiveFloat

Beta = Annotated[float, Field(ge=0, lt=1)]


class GradientDescentOptions(AdaptationOptions):
    """Settings of the inner loop.

    ``inner_lr`` is a number, or with learned rates also a range ``[low, high]`` from which they are drawn uniformly.
    ``inner_batch`` examples are used in each step, ``null`` for the whole support set. ``adapt`` is ``all``,
    ``head``, or one or several patterns of parameter names (``*`` matches anything). The head is the layer that makes
    the outputs, or the submodule that ``head`` names. ``inner_momentum`` belongs to
    the optimizer ``momentum``; ``inner_betas`` and ``inner_eps`` belong to ``adam``. ``inner_objective`` is the loss
    that adaptation descends on, a name or a section like ``tasks.objective``, where it is not the latter.
    """

    iterative: ClassVar[bool] = True
    needs_head: ClassVar[bool] = True
    needs_classes: ClassVar[bool] = False

    inner_lr: PositiveFloat | tuple[PositiveFloat, PositiveFloat] = 0.01
    inner_steps: PositiveInt = 1
    inner_optimizer: Literal["sgd", "momentum", "adam"] = "sgd"
    inner_momentum: Beta = 0.9
    inner_betas: tuple[Beta, Beta] = (0.9, 0.999)
    inner_eps: PositiveFloat = 1e-8
    inner_batch: PositiveInt | None = None
    adapt: str | list[str] = "all"
    head: str | None = None
    inner_objective: ObjectiveSetting | None = None
    learned_rates: Literal["none", "per_tensor", "per_element"] = "none"

    @model_validator(mode="after")
    def _check_head(self) -> GradientDescentOptions:
        if self.head is not None and self.adapt != "head":
            raise ValueError(
                f"algorithm.head = {self.head} says what algorithm.adapt = head adapts, but algorithm.adapt = "
                f"{self.adapt}; leave it out, or set algorithm.adapt=head"
            )
        return self

    @model_validator(mode="after")
    def _check_range(self) -> GradientDescentOptions:
        if isinstance(self.inner_lr, tuple):
            if self.learned_rates == "none":
                raise ValueError(
                    f"algorithm.inner_lr = {list(self.inner_lr)} is a range to draw learned rates from, but "
                    "algorithm.learned_rates is none; give one number, or set learned_rates"
                )
            if self.inner_lr[0] > self.inner_lr[1]:
                raise ValueError(f"algorithm.inner_lr = {list(self.inner_lr)}: expected [low, high]")
        return self


class PrototypesOptions(AdaptationOptions):
    """There is nothing to set."""

    iterative: ClassVar[bool] = False
    needs_head: ClassVar[bool] = False
    needs_classes: ClassVar[bool] = True


class RecurrentOptions(AdaptationOptions):
    """There is nothing to set."""

    iterative: ClassVar[bool] = False
    needs_head: ClassVar[bool] = True
    needs_classes: ClassVar[bool] = False
    program: ClassVar[str | None] = "recurrent"
