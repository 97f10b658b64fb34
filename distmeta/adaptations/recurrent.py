"""Adaptation by a recurrent network: what it has seen of a task is in its memory."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from distmeta.adaptations.base import Batch, Support, module_parameters
from distmeta.adaptations.options import RecurrentOptions
from distmeta.config.sections import AdaptationOptions
from distmeta.core.layout import Meta
from distmeta.core.records import inputs_of
from distmeta.models.base import Network
from distmeta.objectives import Objective


class Recurrent:
    """The steps of a task are one sequence, and nothing else adapts to it.

    Duan, Schulman, Chen, Bartlett, Sutskever, Abbeel 2016, arXiv 1611.02779; Wang et al. 2016, arXiv 1611.05763.
    """

    Options: ClassVar[type[AdaptationOptions]] = RecurrentOptions
    iterative: ClassVar[bool] = Options.iterative
    needs_head: ClassVar[bool] = Options.needs_head
    needs_classes: ClassVar[bool] = Options.needs_classes
    takes_weights: ClassVar[bool] = True

    def __init__(self, options: RecurrentOptions, network: Network, objective: Objective) -> None:
        self.network = network
        self.objective = objective

    def extras(self, seed: int) -> dict[str, Tensor]:
        """Nothing beside the module is meta-learned."""
        return {}

    def adapt(self, meta: Meta, support: Support, steps: int | None) -> Any:
        """Nothing: the memory begins with the sequence."""
        return {}

    def predict(self, meta: Meta, adapted: Any, batch: Batch) -> Tensor:
        """Outputs (L, D) for the steps of a sequence from its beginning."""
        return self.network(module_parameters(meta), inputs_of(batch.data))

    def predict_inductive(self, meta: Meta, adapted: Any, support: Support, batch: Batch) -> Tensor:
        """The same: no batch statistics are used."""
        return self.predict(meta, adapted, batch)
