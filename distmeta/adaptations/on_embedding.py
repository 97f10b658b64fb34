"""What adaptations that solve a task in closed form share: a network that embeds, and a solution from embeddings."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from distmeta.adaptations.base import Batch, Support, module_parameters
from distmeta.config.sections import AdaptationOptions
from distmeta.core.layout import Meta
from distmeta.core.records import Data, inputs_of
from distmeta.models.base import Network
from distmeta.objectives import Objective


class OnEmbedding:
    """The support set is embedded, solved, and the query set's embeddings are judged by the solution.

    Subclasses say how, by :meth:`solve` and :meth:`outputs`. The network has no head, so that training and evaluation
    may differ in the number of ways.
    """

    Options: ClassVar[type[AdaptationOptions]]
    iterative: ClassVar[bool] = False
    needs_head: ClassVar[bool] = False
    needs_classes: ClassVar[bool] = True
    takes_weights: ClassVar[bool] = True

    def __init__(self, options: Any, network: Network, objective: Objective) -> None:
        self.options = options
        self.network = network
        self.objective = objective

    def extras(self, seed: int) -> dict[str, Tensor]:
        """Nothing beside the module is meta-learned."""
        return {}

    def solve(self, meta: Meta, embedded: Tensor, data: Data, ways: int | None) -> Any:
        """The task's solution, any tree of tensors, from its support set.

        Args:
            meta: the meta-parameters.
            embedded: (S, D) the support set.
            data: its targets ``y`` and, where examples have some, its weights.
            ways: number of classes, in families that have them.
        """
        raise NotImplementedError

    def outputs(self, meta: Meta, adapted: Any, embedded: Tensor) -> Tensor:
        """Outputs (N, ways), or (N, D') of a regression, for embeddings (N, D)."""
        raise NotImplementedError

    def adapt(self, meta: Meta, support: Support, steps: int | None) -> Any:
        """The task's solution."""
        batch = support.step(0)
        return self.solve(meta, self._embed(meta, batch), batch.data, support.ways)

    def predict(self, meta: Meta, adapted: Any, batch: Batch) -> Tensor:
        """Outputs for these examples."""
        return self.outputs(meta, adapted, self._embed(meta, batch))

    def predict_inductive(self, meta: Meta, adapted: Any, support: Support, batch: Batch) -> Tensor:
        """Outputs for embeddings normalised with the support set's statistics."""
        given = inputs_of(support.data), inputs_of(batch.data)
        return self.outputs(meta, adapted, self.network.with_support_statistics(module_parameters(meta), *given))

    def _embed(self, meta: Meta, batch: Batch) -> Tensor:
        return self.network(module_parameters(meta), inputs_of(batch.data), key=batch.key, draw=batch.draw)
