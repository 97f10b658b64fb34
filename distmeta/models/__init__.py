"""Models: networks by name; or a factory of the user's own.

One file each, its settings in :mod:`~distmeta.models.options`, one line in the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from distmeta.config.modules import PREFIX
from distmeta.config.registry import Registry
from distmeta.core.lazy import lazily
from distmeta.models.options import (
    BagOptions,
    Conv4Options,
    GRUOptions,
    MLPOptions,
    PriorFittedOptions,
    ResNet12Options,
    TransformerOptions,
    UserOptions,
)

if TYPE_CHECKING:
    from distmeta.config.sections import ModelOptions
    from distmeta.models.bag import Bag
    from distmeta.models.base import Model
    from distmeta.models.conv4 import Conv4
    from distmeta.models.gru import GRU
    from distmeta.models.mlp import MLP
    from distmeta.models.prior_fitted import PriorFitted
    from distmeta.models.resnet12 import ResNet12
    from distmeta.models.transformer import Transformer
else:
    __getattr__ = lazily(
        __name__,
        {
            "Bag": "bag:Bag",
            "Conv4": "conv4:Conv4",
            "GRU": "gru:GRU",
            "MLP": "mlp:MLP",
            "Model": "base:Model",
            "PriorFitted": "prior_fitted:PriorFitted",
            "ResNet12": "resnet12:ResNet12",
            "Transformer": "transformer:Transformer",
        },
    )

MODELS: Registry[Model, ModelOptions] = Registry(
    "model.kind",
    "a class of the package",
    {
        "mlp": (MLPOptions, "distmeta.models.mlp:MLP"),
        "conv4": (Conv4Options, "distmeta.models.conv4:Conv4"),
        "resnet12": (ResNet12Options, "distmeta.models.resnet12:ResNet12"),
        "gru": (GRUOptions, "distmeta.models.gru:GRU"),
        "bag": (BagOptions, "distmeta.models.bag:Bag"),
        "prior_fitted": (PriorFittedOptions, "distmeta.models.prior_fitted:PriorFitted"),
        "transformer": (TransformerOptions, "distmeta.models.transformer:Transformer"),
    },
)

__all__ = [
    "GRU",
    "MLP",
    "MODELS",
    "Bag",
    "Conv4",
    "Model",
    "PriorFitted",
    "ResNet12",
    "Transformer",
    "UserOptions",
    "model_options",
]


def model_options(values: Mapping[str, Any]) -> type[ModelOptions]:
    """The class that validates the settings under ``model``.

    Raises:
        ValueError: ``kind`` is missing or unknown.

    >>> [model_options({"kind": kind}).__qualname__ for kind in ("mlp", "module:my_model.make")]
    ['MLPOptions', 'UserOptions']
    """
    from distmeta.config.problems import choose

    kind = values.get("kind")
    if isinstance(kind, str) and kind.startswith(PREFIX):
        return UserOptions
    try:
        options: type[ModelOptions] = choose(MODELS.options, kind, "model.kind")
    except ValueError as error:
        raise ValueError(
            f"{error} (or module:PACKAGE.FACTORY, a function of your own that returns an nn.Module)"
        ) from None
    return options
