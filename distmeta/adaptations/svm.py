"""Adaptation by a multi-class support vector machine on embeddings: MetaOptNet."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from distmeta.adaptations.linear_systems import identity, one_hot
from distmeta.adaptations.on_embedding import OnEmbedding
from distmeta.adaptations.options import SVMOptions
from distmeta.adaptations.support_vectors import crammer_singer
from distmeta.config.sections import AdaptationOptions
from distmeta.core.layout import Meta
from distmeta.core.records import Data


class SVM(OnEmbedding):
    r"""The machine of Crammer and Singer on embeddings; logits :math:`o_k(x) = \gamma \sum_i a_{ik} k(f(x), f(x_i))`.

    .. math::

        \min_a \frac12 \sum_k a_k^\top (K + I) a_k - \sum_i a_{i y_i}, \qquad
        a_{ik} \le C [k = y_i], \qquad \sum_k a_{ik} = 0,

    with the kernel matrix K of the support set: ``linear``, :math:`k(u, v) = u^\top v`, or ``rbf``,
    :math:`k(u, v) = \exp(-\beta |u - v|^2 / D)`. The solution is differentiated on its free set, see
    :func:`~distmeta.adaptations.support_vectors.crammer_singer`. The scale :math:`\gamma`, and :math:`\log \beta` of
    ``rbf``, are meta-learned as ``svm/scale`` and ``svm/log_width``, with the outer rate ``outer.lr_meta``.

    Source: Lee, Maji, Ravichandran, Soatto, CVPR 2019, arXiv 1904.03758, equations 5 and 6 (MetaOptNet); the identity
    added to K is in its released code. It learns best with several shots and few ways.
    """

    Options: ClassVar[type[AdaptationOptions]] = SVMOptions
    takes_weights: ClassVar[bool] = False

    def extras(self, seed: int) -> dict[str, Tensor]:
        """The scale, and with ``rbf`` the logarithm of beta: scalars."""
        like = next(iter(self.network.parameters.values()))
        extras = {"svm/scale": torch.tensor(float(self.options.scale)).to(like)}
        if self.options.kernel == "rbf":
            extras["svm/log_width"] = torch.tensor(math.log(self.options.width)).to(like)
        return extras

    def solve(self, meta: Meta, embedded: Tensor, data: Data, ways: int | None) -> dict[str, Tensor]:
        """``vectors`` (S, D), and their ``coefficients`` (S, ways)."""
        wide = embedded.double()
        kernel = self._kernel(meta, wide, wide)
        labels = one_hot(data["y"], ways, wide)
        found = crammer_singer(kernel + identity(kernel), labels, self.options.capacity)
        return {"vectors": embedded, "coefficients": found.to(embedded)}

    def outputs(self, meta: Meta, adapted: dict[str, Tensor], embedded: Tensor) -> Tensor:
        """Logits (N, ways)."""
        return meta["svm/scale"] * (self._kernel(meta, embedded, adapted["vectors"]) @ adapted["coefficients"])

    def _kernel(self, meta: Meta, left: Tensor, right: Tensor) -> Tensor:
        cross = left @ right.T
        if self.options.kernel == "linear":
            return cross
        apart = left.square().sum(1, keepdim=True) + right.square().sum(1) - 2 * cross
        return (-meta["svm/log_width"].to(left).exp() * apart.clamp(min=0) / left.shape[1]).exp()
