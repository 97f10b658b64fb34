"""Adaptation by context parameters, which stand beside a network that all tasks share: CAVIA."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from distmeta.adaptations.gradient_descent import GradientDescent
from distmeta.adaptations.options import ContextOptions
from distmeta.config.sections import AdaptationOptions
from distmeta.core.layout import MODEL, Meta
from distmeta.core.records import InputSpec, TensorSpec
from distmeta.errors import ConfigError
from distmeta.models.base import Network
from distmeta.models.insertions import Contextual, contexts, modulate


class Context(GradientDescent):
    r"""Gradient descent on a context :math:`c` (C,) alone, from 0; the network's parameters are meta-learned.

    The context stands behind each example's inputs, ``[x, c]``, where these are vectors; or it scales and shifts the
    channels of the layers that ``film`` names (:class:`~distmeta.models.insertions.Modulated`). All else is as in
    gradient descent.

    Source: Zintgraf, Shiarlis, Kurin, Hofmann, Whiteson, ICML 2019, arXiv 1810.03642, equations 3 to 5 (CAVIA).
    """

    Options: ClassVar[type[AdaptationOptions]] = ContextOptions

    @classmethod
    def module_inputs(cls, options: Any, inputs: InputSpec, outputs: int) -> InputSpec:
        """What the module is built for: an example with the context behind it, where there are no layers to modulate.

        Raises:
            ConfigError: examples are no vectors.
        """
        if options.film is not None:
            return inputs
        if not isinstance(inputs, TensorSpec) or len(inputs.shape) != 1 or inputs.dtype != "float32":
            raise ConfigError(
                "algorithm.adaptation = context puts the context behind inputs that are vectors, and these are none; "
                "name layers whose channels it modulates: algorithm.film, for example 'body.2.1' with model.kind=conv4"
            )
        return TensorSpec((inputs.shape[0] + options.context,))

    @classmethod
    def prepare(cls, options: Any, module: nn.Module, inputs: InputSpec) -> nn.Module:
        """The module with a context."""
        module = super().prepare(options, module, inputs)
        if options.film is not None:
            return modulate(module, options.film, options.context)
        return Contextual(module, options.context)

    def _names(self, network: Network) -> tuple[str, ...]:
        return contexts(list(network.parameters))

    def _first(self, meta: Meta) -> dict[str, Tensor]:
        # Not the meta-parameter, which stays at 0: what a task begins with is not learned, the network's biases are.
        return {name: torch.zeros_like(meta[MODEL + name]) for name in self.names}
