"""A recurrent network of gated units."""

from __future__ import annotations

import math

from torch import Tensor, nn

from distmeta.errors import ConfigError
from distmeta.models.base import Model
from distmeta.models.options import GRUOptions


class GRU(Model):
    """A layer of gated recurrent units (Cho et al., EMNLP 2014) and a linear head.

    (L, *input_shape) to (L, outputs): the examples are the steps of one sequence, and what is given for one of them
    depends on those before it. :meth:`unroll` is for several sequences, and for going on with one.

    >>> import torch
    >>> network = GRU(GRUOptions(width=4), (3,), 2)
    >>> sequence = torch.ones(5, 3)
    >>> first, memory = network.unroll(sequence[:2].unsqueeze(1))
    >>> rest, _ = network.unroll(sequence[2:].unsqueeze(1), memory)
    >>> torch.allclose(torch.cat([first, rest]).squeeze(1), network(sequence), atol=1e-6)
    True
    """

    Options = GRUOptions

    def __init__(self, options: GRUOptions, input_shape: tuple[int, ...], outputs: int | None) -> None:
        super().__init__(options, input_shape, outputs)
        if outputs is None:
            raise ConfigError(
                "model.kind = gru gives outputs for the steps of a sequence, and the algorithm needs an embedding of "
                "single examples; use another model"
            )
        self.recurrent = nn.GRU(math.prod(input_shape), options.width)
        self.head = nn.Linear(options.width, outputs)
        weights = dict(self.recurrent.named_parameters())
        nn.init.xavier_uniform_(weights["weight_ih_l0"])
        nn.init.orthogonal_(weights["weight_hh_l0"])
        for bias in (weights["bias_ih_l0"], weights["bias_hh_l0"], self.head.bias):
            nn.init.zeros_(bias)
        # A policy that begins with nearly equal outputs tries everything.
        nn.init.orthogonal_(self.head.weight, gain=0.01)

    def features(self, inputs: Tensor) -> Tensor:
        """(L, *input_shape) to (L, width)."""
        states: Tensor = self.recurrent(inputs.flatten(1).unsqueeze(1))[0]
        return states.squeeze(1)

    def unroll(self, inputs: Tensor, memory: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Some steps of N sequences.

        Args:
            inputs: (L, N, *input_shape).
            memory: as an earlier call gave it; zeros at the beginning.

        Returns:
            (L, N, outputs), and the memory (1, N, width) after the last step.
        """
        states, after = self.recurrent(inputs.flatten(2), memory)
        assert self.head is not None
        return self.head(states), after
