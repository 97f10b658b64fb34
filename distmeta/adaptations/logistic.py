"""Adaptation by logistic regression on embeddings, solved by Newton's method: LR-D2."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from distmeta.adaptations.linear_systems import identity, one_hot, solve_positive, with_ones
from distmeta.adaptations.on_embedding import OnEmbedding
from distmeta.adaptations.options import LogisticOptions
from distmeta.config.sections import AdaptationOptions
from distmeta.core.layout import Meta
from distmeta.core.records import Data
from distmeta.objectives.weights import weight_of


class Logistic(OnEmbedding):
    r"""Logistic regression of each class against the rest, by iteratively reweighted least squares.

    With the rows :math:`[f(x_i), 1]` of X, for each class the minimum over w of
    :math:`\sum_i \log(1 + e^{-\pm w^\top x_i}) + \frac\lambda2 |w|^2` by ``newton_steps`` steps from w = 0:

    .. math::

        w \leftarrow X^\top S^{1/2} (S^{1/2} X X^\top S^{1/2} + \lambda I)^{-1} S^{1/2} z, \quad
        S = \mu (1 - \mu), \quad z = X w + (y - \mu) / S, \quad \mu = \sigma(X w),

    which are differentiated. Logits are X w. :math:`\log \lambda` is meta-learned as ``logistic/log_regularisation``,
    with the outer rate ``outer.lr_meta``. An example's weight multiplies its loss.

    Source: Bertinetto, Henriques, Torr, Vedaldi, ICLR 2019, arXiv 1805.08136, section 3.3 (LR-D2).
    """

    Options: ClassVar[type[AdaptationOptions]] = LogisticOptions

    def extras(self, seed: int) -> dict[str, Tensor]:
        """Log lambda, a scalar."""
        like = next(iter(self.network.parameters.values()))
        return {"logistic/log_regularisation": torch.tensor(math.log(self.options.regularisation)).to(like)}

    def solve(self, meta: Meta, embedded: Tensor, data: Data, ways: int | None) -> Tensor:
        """W (D + 1, ways)."""
        x, weight = with_ones(embedded), weight_of(data)
        signs = 2 * one_hot(data["y"], ways, x).T - 1  # (ways, S)
        counts = x.new_ones(len(x)) if weight is None else weight.to(x)
        gram, penalty = x @ x.T, meta["logistic/log_regularisation"].double().exp()
        dual = torch.zeros_like(signs)  # w = X^T dual
        for _ in range(self.options.newton_steps):
            logits = dual @ gram
            roots = (counts * logits.sigmoid() * (-logits).sigmoid()).sqrt()
            # sqrt(S) z: as (y - mu) / sqrt(S) = +-exp(-+logits / 2), nothing overflows where S vanishes
            right = roots * logits + counts.sqrt() * signs * (-signs * logits / 2).exp()
            system = roots.unsqueeze(2) * gram * roots.unsqueeze(1)
            dual = roots * solve_positive(system + penalty * identity(system), right.unsqueeze(2)).squeeze(2)
        return (x.T @ dual.T).to(embedded)

    def outputs(self, meta: Meta, adapted: Tensor, embedded: Tensor) -> Tensor:
        """Logits (N, ways)."""
        return embedded @ adapted[:-1] + adapted[-1]
