"""The settings of the adaptations, apart from these themselves, so that checking them needs no torch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveInt, model_validator

from distmeta.config.sections import AdaptationOptions, NonNegativeFloat, ObjectiveSetting, PositiveFloat

Beta = Annotated[float, Field(ge=0, lt=1)]
Patterns = str | list[str]
"""One or several patterns of names, in which ``*`` matches anything."""


class GradientDescentOptions(AdaptationOptions):
    """Settings of the inner loop.

    ``inner_lr`` is a number, or with learned rates also a range ``[low, high]`` from which they are drawn uniformly.
    ``inner_batch`` examples are used in each step, ``null`` for the whole support set. ``adapt`` is ``all``,
    ``head``, ``body`` (all but the head), or one or several patterns of parameter names (``*`` matches anything). The
    head is the layer that makes the outputs, or the submodule that ``head`` names. ``inner_momentum`` belongs to
    the optimizer ``momentum``; ``inner_betas`` and ``inner_eps`` belong to ``adam``. ``inner_objective`` is the loss
    that adaptation descends on, a name or a section like ``tasks.objective``, where it is not the latter.
    ``learned_rates``: one for each tensor, each element, or each tensor and inner step. ``preconditioner`` multiplies
    gradients by learned matrices, one for each dimension of a parameter, full (``block``) or diagonal. ``warp`` names
    layers, by patterns, behind which a learned linear layer stands that a task does not change. ``step_norms`` gives
    batch norms a scale and shift of their own for every inner step, which are learned and not adapted. ``proximal``
    adds this, by half, times the squared distance from where adaptation began to the inner loss.
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
    learned_rates: Literal["none", "per_tensor", "per_element", "per_step"] = "none"
    preconditioner: Literal["none", "diagonal", "block"] = "none"
    warp: Patterns | None = None
    step_norms: bool = False
    proximal: NonNegativeFloat = 0.0

    @model_validator(mode="after")
    def _check_head(self) -> GradientDescentOptions:
        if self.head is not None and self.adapt not in ("head", "body"):
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


class ContextOptions(GradientDescentOptions):
    """Settings of adaptation by context parameters, beside those of gradient descent.

    So many numbers, the ``context``, are all that a task changes; they begin at 0. They stand beside each example's
    inputs, or with ``film`` they scale and shift the channels that the layers of these names give.
    """

    adapt: Literal["all"] = "all"
    context: Annotated[int, Field(gt=0, le=10_000)] = 5
    film: Patterns | None = None


class AdaptersOptions(GradientDescentOptions):
    """Settings of adaptation by low-rank adapters, beside those of gradient descent.

    Linear layers and convolutions whose names match a pattern of ``layers`` get a product of two matrices of this
    ``rank``, whose share is ``alpha / rank``, added to their weights. Only these matrices, and parameters whose names
    match ``trained``, are meta-learned; all others keep the values that the model was built with.
    """

    rank: Annotated[int, Field(gt=0, le=10_000)] = 4
    alpha: PositiveFloat = 4.0
    layers: Patterns = "*"
    trained: Patterns | None = "head.*"


class RidgeOptions(AdaptationOptions):
    """The first values of what is learned: ``regularisation`` is lambda, and ``scale`` that of the logits."""

    iterative: ClassVar[bool] = False
    needs_head: ClassVar[bool] = False
    needs_classes: ClassVar[bool] = False

    regularisation: PositiveFloat = 1.0
    scale: PositiveFloat = 10.0


class LogisticOptions(AdaptationOptions):
    """``regularisation`` is the first value of the learned lambda; ``newton_steps`` are taken."""

    iterative: ClassVar[bool] = False
    needs_head: ClassVar[bool] = False
    needs_classes: ClassVar[bool] = True

    regularisation: PositiveFloat = 1.0
    newton_steps: Annotated[int, Field(gt=0, le=100)] = 10


class SVMOptions(AdaptationOptions):
    """``capacity`` is C, the bound of the coefficients.

    ``scale`` of the logits, and ``width``, the factor in the exponent of the kernel ``rbf``, are first values of what
    is learned.
    """

    iterative: ClassVar[bool] = False
    needs_head: ClassVar[bool] = False
    needs_classes: ClassVar[bool] = True

    capacity: PositiveFloat = 0.1
    kernel: Literal["linear", "rbf"] = "linear"
    scale: PositiveFloat = 1.0
    width: PositiveFloat = 1.0


class MatchingOptions(AdaptationOptions):
    """``scale`` is the first value of the learned scale of the cosine similarities."""

    iterative: ClassVar[bool] = False
    needs_head: ClassVar[bool] = False
    needs_classes: ClassVar[bool] = True

    scale: PositiveFloat = 10.0


class InContextOptions(AdaptationOptions):
    """There is nothing to set."""

    iterative: ClassVar[bool] = False
    needs_head: ClassVar[bool] = True
    needs_classes: ClassVar[bool] = False


class LinearProbeOptions(AdaptationOptions):
    """Settings of a classifier that is trained on all classes, and of the heads that held-out tasks get.

    ``classes`` are those of the training split. A head is trained from zeros by ``head_steps`` steps of gradient
    descent with the rate ``head_lr`` and this ``head_decay`` on the support set's embeddings. ``cosine``: outputs are
    ``scale`` times cosines instead of products.
    """

    iterative: ClassVar[bool] = False
    needs_head: ClassVar[bool] = False
    needs_classes: ClassVar[bool] = True
    joint_alone: ClassVar[bool] = True

    classes: Annotated[int, Field(gt=1)]
    head_steps: Annotated[int, Field(gt=0, le=10_000)] = 100
    head_lr: PositiveFloat = 0.1
    head_decay: NonNegativeFloat = 1e-3
    cosine: bool = False
    scale: PositiveFloat = 10.0


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
