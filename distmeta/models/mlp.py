"""Fully connected network."""

from __future__ import annotations

import itertools
import math

from torch import Tensor, nn

from distmeta.errors import ConfigError
from distmeta.models.base import Model
from distmeta.models.options import MLPOptions


class MLP(Model):
    """``head(act(... act(W_1 x + b_1)))``; the defaults are MAML's for the sinusoid (Finn et al., ICML 2017).

    (N, *input_shape) to (N, outputs), or to (N, hidden[-1]) without a head.
    """

    Options = MLPOptions

    def __init__(self, options: MLPOptions, input_shape: tuple[int, ...], outputs: int | None) -> None:
        super().__init__(options, input_shape, outputs)
        if outputs is None and not options.hidden:
            raise ConfigError(
                "model.hidden is empty, but the algorithm uses the last hidden layer as an embedding; give "
                "at least one width, for example model.hidden = [64]"
            )
        widths = (math.prod(input_shape), *options.hidden)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU() if options.activation == "relu" else nn.Tanh()]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1], outputs) if outputs is not None else None
        if options.weights == "xavier":
            for layer in self.modules():
                if isinstance(layer, nn.Linear):
                    nn.init.xavier_uniform_(layer.weight)
                    nn.init.zeros_(layer.bias)

    def features(self, inputs: Tensor) -> Tensor:
        """(N, *input_shape) to (N, features)."""
        features: Tensor = self.body(inputs.flatten(1))
        return features
