"""A small transformer encoder for texts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distmeta.errors import ConfigError
from distmeta.models.base import Model
from distmeta.models.options import TransformerOptions
from distmeta.models.tokens import Pooling, TokenInputs, embedding, head, presence

_POSITIONS = 0.02
"""Standard deviation of the first embeddings of positions, small beside those of tokens."""


class Transformer(Model):
    """Embeddings of tokens and positions, pre-norm blocks, a last layer norm; pooled, then a linear head.

    Vaswani et al., "Attention is all you need", NeurIPS 2017, with the norms in front of attention and perceptron
    (Xiong et al., ICML 2020): ``h = h + attention(norm(h))``, ``h = h + W_2 gelu(W_1 norm(h))``. No token attends to
    padding. Everything is written in operations that have derivatives of every order and rules for ``vmap``, as fused
    attention has not.

    ``tokens`` (N, length) int64 and ``mask`` (N, length) to (N, outputs), or to (N, width) without a head; with
    ``readout: tokens`` to (N, length, outputs).

    >>> from distmeta.core.records import TensorSpec
    >>> inputs = {"tokens": TensorSpec((4,), "int64", values=9), "mask": TensorSpec((4,))}
    >>> network = Transformer(TransformerOptions(width=8, heads=2), inputs, 5)
    >>> network(tokens=torch.tensor([[5, 2, 0, 0]]), mask=torch.tensor([[1.0, 1.0, 0.0, 0.0]])).shape
    torch.Size([1, 5])
    """

    Options = TransformerOptions
    named_inputs = True

    def __init__(self, options: TransformerOptions, inputs: Any, outputs: int | None) -> None:
        super().__init__(options, inputs, outputs)
        found = TokenInputs.of(options, inputs)
        self.embedding = embedding(found.vocabulary, options.width)
        self.positions = nn.Parameter(torch.empty(found.length, options.width).normal_(std=_POSITIONS))
        self.dropout = nn.Dropout(options.dropout)
        self.blocks = nn.ModuleList(_Block(options) for _ in range(options.depth))
        self.norm = nn.LayerNorm(options.width)
        self.pooling: Pooling | None = None
        if options.readout == "pooled":
            self.pooling = Pooling(options, found)
        elif outputs is None:
            raise ConfigError(
                "model.readout = tokens gives outputs for each token, but the algorithm needs one embedding of each "
                "example; use model.readout = pooled"
            )
        else:
            self.output_dimensions = (found.length,)
        self.head = head(options.width, outputs)

    def features(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """(N, length) tokens to (N, width), or to (N, length, width)."""
        vectors: Tensor = self.dropout(self.embedding(tokens) + self.positions)
        there = presence(tokens, mask, vectors)
        for block in self.blocks:
            vectors = block(vectors, there)
        vectors = self.norm(vectors)
        return vectors if self.pooling is None else self.pooling(vectors, tokens, there)


class _Block(nn.Module):
    def __init__(self, options: TransformerOptions) -> None:
        super().__init__()
        width, inner = options.width, options.feedforward
        assert inner is not None
        self.heads = options.heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.first, self.second = nn.Linear(width, inner), nn.Linear(inner, width)
        self.dropout = nn.Dropout(options.dropout)

    def forward(self, vectors: Tensor, there: Tensor) -> Tensor:
        vectors = vectors + self.dropout(self._attend(self.norm1(vectors), there))
        inner = F.gelu(self.first(self.norm2(vectors)))
        result: Tensor = vectors + self.dropout(self.second(self.dropout(inner)))
        return result

    def _attend(self, vectors: Tensor, there: Tensor) -> Tensor:
        examples, length, width = vectors.shape
        parts = self.attention(vectors).view(examples, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)  # each (N, heads, L, width / heads)
        scores = query @ key.transpose(-2, -1) * (width // self.heads) ** -0.5
        # A number, not -inf: where a text has no token at all, softmax of nothing but -inf would be no number.
        hidden = (there == 0).view(examples, 1, 1, length)
        scores = scores.masked_fill(hidden, torch.finfo(scores.dtype).min / 2)
        attended = scores.softmax(-1) @ value
        output: Tensor = self.output(attended.transpose(1, 2).reshape(examples, length, width))
        return output
