"""Adaptation by attention over the support set: Matching Networks."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from distmeta.adaptations.linear_systems import one_hot
from distmeta.adaptations.on_embedding import OnEmbedding
from distmeta.adaptations.options import MatchingOptions
from distmeta.config.sections import AdaptationOptions
from distmeta.core.layout import Meta
from distmeta.core.records import Data
from distmeta.objectives.weights import weight_of

OTHER = -1e9
"""Added to the score of an example that is not of a class."""


class Matching(OnEmbedding):
    r"""A class has the share of the attention that its support examples get.

    .. math::

        p(y = k | x) = \sum_{i: y_i = k} a_i, \qquad
        a = \mathrm{softmax}_i (s \cos(f(x), f(x_i))), \qquad o_k = \log p(y = k | x).

    The scale s is meta-learned as ``matching/scale``, with the outer rate ``outer.lr_meta``; published is 1. An
    example's weight multiplies its attention. Embeddings do not depend on the rest of the support set (no full context
    embeddings).

    Source: Vinyals, Blundell, Lillicrap, Kavukcuoglu, Wierstra, NeurIPS 2016, arXiv 1606.04080, equations 1 and 2.
    """

    Options: ClassVar[type[AdaptationOptions]] = MatchingOptions

    def extras(self, seed: int) -> dict[str, Tensor]:
        """The scale, a scalar."""
        like = next(iter(self.network.parameters.values()))
        return {"matching/scale": torch.tensor(float(self.options.scale)).to(like)}

    def solve(self, meta: Meta, embedded: Tensor, data: Data, ways: int | None) -> dict[str, Tensor]:
        """``directions`` (S, D), and ``shares`` (S, ways): the logarithm of what an example gives to each class."""
        weight = weight_of(data)
        members = one_hot(data["y"], ways, embedded)
        counted = members if weight is None else members * weight.to(embedded).unsqueeze(1)
        shares = torch.where(counted > 0, counted.where(counted > 0, 1.0).log(), OTHER)
        return {"directions": direction(embedded), "shares": shares}

    def outputs(self, meta: Meta, adapted: dict[str, Tensor], embedded: Tensor) -> Tensor:
        """Log probabilities (N, ways)."""
        scores = meta["matching/scale"] * (direction(embedded) @ adapted["directions"].T)
        logits = (scores.unsqueeze(2) + adapted["shares"]).logsumexp(1)
        return logits.log_softmax(1)


def direction(embedded: Tensor) -> Tensor:
    """Embeddings (N, D) as unit vectors; 0, and without a derivative, where one is 0.

    >>> direction(torch.tensor([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    size = embedded.square().sum(-1, keepdim=True)
    return embedded * torch.where(size > 0, size.where(size > 0, 1.0).rsqrt(), 0.0)
