"""The settings of the models, apart from the networks themselves, so that checking them needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, PositiveInt, field_validator, model_validator

from distmeta.config.modules import split
from distmeta.config.sections import ModelOptions, PositiveFloat

Norm = Literal["batch", "group", "layer", "none"]
"""``batch`` uses the statistics of the examples it is given (transductive at evaluation); the others look at
one example alone: ``group`` at groups of its channels, ``layer`` at all of them; ``none`` is the identity."""


class MLPOptions(ModelOptions):
    """``hidden`` lists the widths of the hidden layers; none at all is a linear model.

    ``weights`` says what layers begin with: ``torch``'s own, or ``xavier`` uniform weights (Glorot and Bengio, AISTATS
    2010) and biases of 0, as usual for policies.
    """

    kind: str = "mlp"
    hidden: tuple[PositiveInt, ...] = (40, 40)
    activation: Literal["relu", "tanh"] = "relu"
    weights: Literal["torch", "xavier"] = "torch"


class Conv4Options(ModelOptions):
    """``readout`` makes a vector of the last maps: ``mean`` by default for stride, ``flatten`` for pool.

    ``norm: group`` uses 8 groups, or the largest number below that divides ``filters``.
    """

    kind: str = "conv4"
    filters: PositiveInt = 64
    downsample: Literal["stride", "pool"] = "stride"
    norm: Norm = "batch"
    readout: Literal["mean", "flatten"] = "mean"

    @model_validator(mode="before")
    @classmethod
    def _default_readout(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and values.get("readout") is None:
            return {**values, "readout": "flatten" if values.get("downsample") == "pool" else "mean"}
        return values


class ResNet12Options(ModelOptions):
    """``widths`` are the channels of the four blocks; ``dropout`` is applied to the output of each."""

    kind: str = "resnet12"
    widths: Annotated[tuple[PositiveInt, ...], Field(min_length=4, max_length=4)] = (64, 160, 320, 640)
    norm: Norm = "batch"
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


class TokenOptions(ModelOptions):
    """Settings of networks of tokens.

    ``pooling`` makes one vector of a text: ``mean``, or by a learned weight of each token (``weights``), which starts
    at what the tasks say (inverse document frequencies, in ``tasks.kind: text``), else at 1. With ``scale`` this vector
    has that length, which is learned from there; its square is the inverse temperature of prototypes. ``vocabulary`` is
    the number of tokens; left out it is what the tasks say.
    """

    pooling: Literal["mean", "weights"] = "mean"
    scale: PositiveFloat | None = None
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    vocabulary: PositiveInt | None = None


class BagOptions(TokenOptions):
    """``features`` is the size of the embeddings; ``dropout`` is the part of tokens that training leaves out."""

    kind: str = "bag"
    pooling: Literal["mean", "weights"] = "weights"
    features: PositiveInt = 128


class TransformerOptions(TokenOptions):
    """``depth`` blocks of ``heads`` attention heads and a perceptron of ``feedforward`` units, 4 ``width`` by default.

    ``dropout`` is applied to embeddings, to what blocks add, to the perceptrons' units and to the pooling's weights.
    ``readout``: one output of a text (``pooled``) or one of each of its tokens.
    """

    kind: str = "transformer"
    width: PositiveInt = 64
    depth: PositiveInt = 2
    heads: PositiveInt = 4
    feedforward: PositiveInt | None = None
    readout: Literal["pooled", "tokens"] = "pooled"

    @model_validator(mode="after")
    def _check_heads(self) -> TransformerOptions:
        if self.width % self.heads:
            raise ValueError(
                f"model.heads = {self.heads} does not divide model.width = {self.width}; each head has an equal part"
            )
        if self.feedforward is None:
            object.__setattr__(self, "feedforward", 4 * self.width)
        return self


class PriorFittedOptions(ModelOptions):
    """``depth`` blocks of ``heads`` attention heads and vectors of ``width`` numbers."""

    in_context: ClassVar[bool] = True

    kind: str = "prior_fitted"
    width: PositiveInt = 64
    depth: PositiveInt = 4
    heads: PositiveInt = 4

    @model_validator(mode="after")
    def _check_heads(self) -> PriorFittedOptions:
        if self.width % self.heads:
            raise ValueError(
                f"model.heads = {self.heads} does not divide model.width = {self.width}; each head has an equal part"
            )
        return self


class GRUOptions(ModelOptions):
    """``width`` is the size of the memory that a recurrent network carries from step to step."""

    sequential: ClassVar[bool] = True

    kind: str = "gru"
    width: PositiveInt = 128


class UserOptions(ModelOptions):
    """Settings of a user's network: ``kind`` names the factory, all others are its keyword arguments.

    >>> UserOptions(kind="module:my_model.make", width=32).arguments
    {'width': 32}
    """

    model_config = ConfigDict(extra="allow")

    @field_validator("kind")
    @classmethod
    def _check_kind(cls, kind: str) -> str:
        if not all(part.isidentifier() for name in split(kind) for part in name.split(".")):
            raise ValueError(
                f"model.kind = {kind!r}: expected module:PACKAGE.FACTORY or module:PACKAGE:FACTORY, for "
                "example module:my_model.make for the function make in my_model.py"
            )
        return kind

    @property
    def arguments(self) -> dict[str, Any]:
        """Keyword arguments for the factory."""
        return dict(self.model_extra or {})
