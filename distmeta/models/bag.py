"""A bag of embeddings: texts without the order of their tokens."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from distmeta.models.base import Model
from distmeta.models.options import BagOptions
from distmeta.models.tokens import Pooling, TokenInputs, embedding, head, presence


class Bag(Model):
    """The (weighted) mean of a text's token embeddings, then a linear head.

    Few-shot text classification with lexical weights: Bao, Wu, Chang, Barzilay, ICLR 2020; the mean of embeddings:
    Joulin, Grave, Bojanowski, Mikolov, "Bag of tricks for efficient text classification", EACL 2017. With ``scale`` the
    mean has a learned length (see :class:`~distmeta.models.tokens.Pooling`). Embeddings start in random directions, so
    that distances of an untrained network are about those of (weighted) counts.

    ``tokens`` (N, length) int64 and ``mask`` (N, length) to (N, outputs), or to (N, features) without a head.

    >>> import torch
    >>> from distmeta.core.records import TensorSpec
    >>> inputs = {"tokens": TensorSpec((4,), "int64", values=9), "mask": TensorSpec((4,))}
    >>> Bag(BagOptions(features=3), inputs, None)(tokens=torch.tensor([[5, 2, 0, 0]])).shape
    torch.Size([1, 3])
    """

    Options = BagOptions
    named_inputs = True

    def __init__(self, options: BagOptions, inputs: Any, outputs: int | None) -> None:
        super().__init__(options, inputs, outputs)
        found = TokenInputs.of(options, inputs)
        self.embedding = embedding(found.vocabulary, options.features)
        self.pooling = Pooling(options, found)
        self.head = head(options.features, outputs)

    def features(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """(N, length) tokens to (N, features)."""
        vectors: Tensor = self.embedding(tokens)
        pooled: Tensor = self.pooling(vectors, tokens, presence(tokens, mask, vectors))
        return pooled
