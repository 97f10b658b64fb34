"""Adaptation in closed form by ridge regression on embeddings: R2-D2."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from distmeta.adaptations.linear_systems import identity, one_hot, solve_positive, with_ones
from distmeta.adaptations.on_embedding import OnEmbedding
from distmeta.adaptations.options import RidgeOptions
from distmeta.config.sections import AdaptationOptions
from distmeta.core.layout import Meta
from distmeta.core.records import Data
from distmeta.errors import ConfigError
from distmeta.models.base import Network
from distmeta.objectives import Objective, Scored
from distmeta.objectives.weights import share, weight_of


class Ridge(OnEmbedding):
    r"""Ridge regression from embeddings to one-hot labels, or to the targets of a regression.

    With the rows :math:`[f(x_i), 1] / \sqrt S` of X and those of Y likewise divided,

    .. math::

        W = X^\top (X X^\top + \lambda I)^{-1} Y = (X^\top X + \lambda I)^{-1} X^\top Y, \qquad
        o(x) = s\, [f(x), 1]\, W + b,

    of which the smaller system is solved. :math:`\log \lambda`, s and b are meta-learned, with the outer rate
    ``outer.lr_meta``, as ``ridge/log_regularisation``, ``ridge/scale`` and ``ridge/shift``. Examples with weights
    count by these.

    Source: Bertinetto, Henriques, Torr, Vedaldi, ICLR 2019, arXiv 1805.08136, equations 6 to 8 (R2-D2); its released
    code keeps lambda at 50.
    """

    Options: ClassVar[type[AdaptationOptions]] = RidgeOptions
    needs_classes: ClassVar[bool] = False

    def __init__(self, options: RidgeOptions, network: Network, objective: Objective) -> None:
        super().__init__(options, network, objective)
        if not objective.classes and not _of_identity(objective):
            raise ConfigError(
                f"algorithm.adaptation = {options.adaptation} predicts targets themselves, and tasks.objective reads "  # type: ignore[attr-defined]
                "outputs otherwise; use squared_error, huber, or gradient_descent"
            )

    def extras(self, seed: int) -> dict[str, Tensor]:
        """Log lambda, scale and shift: scalars. A regression begins with the scale 1."""
        scale = self.options.scale if self.objective.classes else 1.0
        first = {"log_regularisation": math.log(self.options.regularisation), "scale": scale, "shift": 0.0}
        like = next(iter(self.network.parameters.values()))
        return {f"ridge/{name}": torch.tensor(value).to(like) for name, value in first.items()}

    def solve(self, meta: Meta, embedded: Tensor, data: Data, ways: int | None) -> Tensor:
        """W (D + 1, outputs)."""
        targets = one_hot(data["y"], ways, embedded) if self.objective.classes else data["y"]
        weight, count = weight_of(data), len(embedded)
        roots = embedded.new_full((count, 1), 1 / count) if weight is None else share(weight, embedded).unsqueeze(1)
        roots = roots.double().sqrt()
        x, y = roots * with_ones(embedded), roots * targets.double()
        penalty = meta["ridge/log_regularisation"].double().exp()
        if x.shape[0] <= x.shape[1]:
            gram = x @ x.T
            solution = x.T @ solve_positive(gram + penalty * identity(gram), y)
        else:
            gram = x.T @ x
            solution = solve_positive(gram + penalty * identity(gram), x.T @ y)
        return solution.to(embedded)

    def outputs(self, meta: Meta, adapted: Tensor, embedded: Tensor) -> Tensor:
        """``s [f(x), 1] W + b``."""
        return meta["ridge/scale"] * (embedded @ adapted[:-1] + adapted[-1]) + meta["ridge/shift"]


def _of_identity(objective: Objective) -> bool:
    """Whether a network's outputs are the predicted targets themselves, as far as one can know."""
    if not isinstance(objective, Scored):
        return True
    cls = type(objective)
    return cls.kind == "values" and cls.predicted is Scored.predicted and cls.outputs is Scored.outputs
