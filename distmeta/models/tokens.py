"""What networks of tokens share: what they take of the tasks, and one vector of a text's many."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distmeta.core.records import InputSpec, TensorSpec
from distmeta.errors import ConfigError
from distmeta.models.options import TokenOptions

_LEAST = 1e-6
"""Below it a text's weights, and the squared length of its vector, count as nothing: texts without tokens give zeros,
with derivatives of every order."""


class TokenInputs(NamedTuple):
    """What a network of tokens is built for.

    Attributes:
        length: tokens of one example.
        vocabulary: tokens are 0 ... vocabulary - 1.
        weights: (vocabulary,) first weights of the tokens; ``None`` where the tasks tell of none.
    """

    length: int
    vocabulary: int
    weights: Tensor | None

    @classmethod
    def of(cls, options: TokenOptions, inputs: InputSpec) -> TokenInputs:
        """What these tasks have.

        Raises:
            ConfigError: their examples are no tokens, or nothing says how many tokens there are.
        """
        given = {"x": inputs} if isinstance(inputs, TensorSpec) else dict(inputs)
        tokens = given.get("tokens")
        fits = tokens is not None and len(tokens.shape) == 1 and tokens.dtype == "int64"
        if tokens is None or not fits or given.keys() - {"tokens", "mask"}:
            raise ConfigError(
                f"model.kind = {options.kind} takes texts: whole numbers named tokens of shape (length,), and a mask "
                f"of the same shape if there is one; the tasks' examples have {_listing(given)}; use tasks.kind = text "
                "or another model"
            )
        known, asked = tokens.values, options.vocabulary
        if known is None and asked is None:
            raise ConfigError(
                "model.vocabulary is not set, and the tasks do not say how many tokens there are; set it to one more "
                "than the largest token"
            )
        if known is not None and asked is not None and asked < known:
            raise ConfigError(
                f"model.vocabulary = {asked:,}, but the tasks have {known:,} tokens; leave it out, or set at least that"
            )
        vocabulary = asked or known
        assert vocabulary is not None
        weights = torch.ones(vocabulary)
        weights[: len(tokens.weights)] = torch.tensor(tokens.weights)
        return cls(tokens.shape[0], vocabulary, weights if tokens.weights else None)


def _listing(given: Mapping[str, TensorSpec]) -> str:
    return ", ".join(f"{name} ({each.dtype}, shape {each.shape})" for name, each in given.items())


class Pooling(nn.Module):
    """One vector of a text's many: ``s p / |p|`` with ``p = sum_i w_i v_i / sum_i w_i``.

    ``w_i`` is a learned weight of token i, kept as its logarithm; it starts at what the tasks say, inverse document
    frequencies for example, else at 1. With ``pooling: mean`` it is 1 and stays so. ``s``, also kept as its logarithm,
    is learned; without it the vector is p itself. The squared distances of prototypes go with ``s^2``, which therefore
    is their softmax's inverse temperature.

    Args:
        options: ``pooling``, ``scale`` and ``dropout``, the part of tokens that training leaves out at random.
        inputs: what the network is built for.
    """

    log_weights: nn.Parameter | None
    log_scale: nn.Parameter | None

    def __init__(self, options: TokenOptions, inputs: TokenInputs) -> None:
        super().__init__()
        weights = torch.ones(inputs.vocabulary) if inputs.weights is None else inputs.weights
        learned = options.pooling == "weights"
        self.register_parameter("log_weights", nn.Parameter(weights.log()) if learned else None)
        scale = options.scale
        self.register_parameter("log_scale", None if scale is None else nn.Parameter(torch.tensor(scale).log()))
        self.dropout = nn.Dropout(options.dropout)

    def forward(self, vectors: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """(N, L, D) vectors of (N, L) tokens, of which the mask (N, L) says 1 for those that are there: (N, D)."""
        weights = mask
        if self.log_weights is not None:
            weights = mask * F.embedding(tokens, self.log_weights.unsqueeze(1)).squeeze(-1).exp()
        weights = self.dropout(weights)
        total = weights.sum(1, keepdim=True).clamp(min=_LEAST)
        pooled: Tensor = torch.bmm(weights.unsqueeze(1), vectors).squeeze(1) / total
        if self.log_scale is not None:
            pooled = self.log_scale.exp() * pooled * torch.rsqrt(pooled.square().sum(1, keepdim=True) + _LEAST)
        return pooled


def presence(tokens: Tensor, mask: Tensor | None, like: Tensor) -> Tensor:
    """(N, L) 1 for tokens that are there and 0 for padding; without a mask all are there."""
    return torch.ones_like(tokens, dtype=like.dtype) if mask is None else mask.to(like.dtype)


def embedding(vocabulary: int, features: int) -> nn.Embedding:
    """Embeddings of length 1 or so in random directions.

    A sum of them is a random projection of the tokens' counts, which keeps angles (Johnson and Lindenstrauss 1984), so
    that an untrained network knows what counts know.
    """
    layer = nn.Embedding(vocabulary, features)
    nn.init.normal_(layer.weight, std=features**-0.5)
    return layer


def head(features: int, outputs: int | None) -> Any:
    """The last layer; ``None`` in an embedding."""
    return nn.Linear(features, outputs) if outputs is not None else None
