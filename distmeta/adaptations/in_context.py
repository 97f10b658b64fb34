"""Adaptation in one forward pass over the support set and the query: prior-fitted networks."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from distmeta.adaptations.base import Batch, Support, module_parameters
from distmeta.adaptations.linear_systems import one_hot
from distmeta.adaptations.options import InContextOptions
from distmeta.config.sections import AdaptationOptions
from distmeta.core.layout import Meta
from distmeta.core.records import InputSpec, TensorSpec, inputs_of
from distmeta.errors import ConfigError
from distmeta.models.base import Network
from distmeta.objectives import Objective

SUPPORT = "support_"
"""Before the names of what a network gets of the support set."""


class InContext:
    r"""One network reads the support set with its targets beside the query's inputs, and gives the query's outputs.

    ``o(x) = f_theta(x; support_x, support_y)``: the network gets the query's inputs by their names (``x`` where there
    is one), those of the support set with ``support_`` before them, and the targets as ``support_y`` (S, D), one-hot
    for classes. Nothing is adapted in steps. The outputs for a query example should not depend on the other ones: that
    is the network's part, and so batch norms are refused.

    Sources: Garnelo et al., ICML 2018 (conditional neural processes); Mueller et al., ICLR 2022, arXiv 2112.10510
    (prior-fitted networks, equation 3).
    """

    Options: ClassVar[type[AdaptationOptions]] = InContextOptions
    iterative: ClassVar[bool] = Options.iterative
    needs_head: ClassVar[bool] = Options.needs_head
    needs_classes: ClassVar[bool] = Options.needs_classes
    takes_weights: ClassVar[bool] = False

    def __init__(self, options: Any, network: Network, objective: Objective) -> None:
        self.network = network
        self.objective = objective
        if getattr(network, "uses_batch_statistics", False):
            raise ConfigError(
                "algorithm.adaptation = in_context: the model has batch norms, by which the outputs for one example of "
                "the query would depend on the others; use layer norms"
            )

    @classmethod
    def network_inputs(cls, options: Any, inputs: InputSpec, outputs: int) -> InputSpec:
        """What the network gets: a query example's inputs, those of a support example, and its target."""
        named = {"x": inputs} if isinstance(inputs, TensorSpec) else dict(inputs)
        beside = {SUPPORT + name: spec for name, spec in named.items()}
        return {**named, **beside, f"{SUPPORT}y": TensorSpec((outputs,))}

    def extras(self, seed: int) -> dict[str, Tensor]:
        """Nothing beside the module is meta-learned."""
        return {}

    def adapt(self, meta: Meta, support: Support, steps: int | None) -> dict[str, Tensor]:
        """The support set as the network reads it."""
        data = support.data
        like = next(iter(module_parameters(meta).values()))
        y = one_hot(data["y"], support.ways, like) if self.objective.classes else data["y"]
        return {**{SUPPORT + name: value for name, value in _named(data).items()}, f"{SUPPORT}y": y}

    def predict(self, meta: Meta, adapted: dict[str, Tensor], batch: Batch) -> Tensor:
        """Outputs (N, D) for these examples."""
        inputs = {**_named(batch.data), **adapted}
        return self.network(module_parameters(meta), inputs, key=batch.key, draw=batch.draw)

    def predict_inductive(self, meta: Meta, adapted: dict[str, Tensor], support: Support, batch: Batch) -> Tensor:
        """The same: no batch statistics are used."""
        return self.predict(meta, adapted, batch)


def _named(data: Any) -> dict[str, Tensor]:
    inputs = inputs_of(data)
    return {"x": inputs} if isinstance(inputs, Tensor) else dict(inputs)
