"""The settings of the models, apart from the networks themselves, so that checking them needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, PositiveInt, field_validator, model_validator

from distmeta.config.modules import split
from distmeta.config.sections import ModelOptions

Norm = Literal["batch", "group", "layer", "none"]
"""``batch`` uses the statistics of the examples it is given (transductive at evaluation); the others look at
one example alone: ``group`` at groups of its channels, ``layer`` at all of them; ``none`` is the identity."""


class MLPOptions(ModelOptions):
    """``hidden`` lists the widths of the hidden layers; none at all is a linear model."""

    kind: Literal["mlp"] = "mlp"
    hidden: tuple[PositiveInt, ...] = (40, 40)
    activation: Literal["relu", "tanh"] = "relu"


class Conv4Options(ModelOptions):
    """``readout`` makes a vector of the last maps: ``mean`` by default for stride, ``flatten`` for pool.

    ``norm: group`` uses 8 groups, or the largest number below that divides ``filters``.
    """

    kind: Literal["conv4"] = "conv4"
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

    kind: Literal["resnet12"] = "resnet12"
    widths: Annotated[tuple[PositiveInt, ...], Field(min_length=4, max_length=4)] = (64, 160, 320, 640)
    norm: Norm = "batch"
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


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
