"""A transformer that reads a support set and a query: for adaptation in context."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distmeta.core.records import InputSpec
from distmeta.errors import ConfigError
from distmeta.models.base import Model
from distmeta.models.options import PriorFittedOptions


class PriorFitted(Model):
    r"""Support examples, each with its target, attend to one another; query examples attend to the support set alone.

    A support example's first vector is :math:`A x + B y`, a query example's :math:`A x`; then come pre-norm blocks of
    attention and a perceptron, a last layer norm and the head. Inputs are flattened. No position is told: the order of
    the examples does not matter, and the outputs for one query example do not depend on the others.

    Mueller et al., ICLR 2022, arXiv 2112.10510, section 3 (prior-fitted networks); Vaswani et al., NeurIPS 2017.

    ``x`` (Q, ...), ``support_x`` (S, ...) and ``support_y`` (S, D) to (Q, outputs).

    >>> from distmeta.core.records import TensorSpec
    >>> inputs = {"x": TensorSpec((3,)), "support_x": TensorSpec((3,)), "support_y": TensorSpec((2,))}
    >>> network = PriorFitted(PriorFittedOptions(width=8, heads=2), inputs, 2)
    >>> network(x=torch.zeros(5, 3), support_x=torch.zeros(4, 3), support_y=torch.zeros(4, 2)).shape
    torch.Size([5, 2])
    """

    Options = PriorFittedOptions
    named_inputs = True

    def __init__(self, options: PriorFittedOptions, inputs: InputSpec, outputs: int | None) -> None:
        super().__init__(options, inputs, outputs)
        size, targets = _sizes(inputs)
        self.inputs = nn.Linear(size, options.width)
        self.targets = nn.Linear(targets, options.width, bias=False)
        self.blocks = nn.ModuleList(_Block(options) for _ in range(options.depth))
        self.norm = nn.LayerNorm(options.width)
        self.head = None if outputs is None else nn.Linear(options.width, outputs)

    def features(self, x: Tensor, support_x: Tensor, support_y: Tensor) -> Tensor:
        """(Q, width) of the query examples."""
        support = self.inputs(support_x.flatten(1)) + self.targets(support_y)
        vectors = torch.cat([support, self.inputs(x.flatten(1))])
        for block in self.blocks:
            vectors = block(vectors, len(support_x))
        features: Tensor = self.norm(vectors)[len(support_x) :]
        return features


class _Block(nn.Module):
    def __init__(self, options: PriorFittedOptions) -> None:
        super().__init__()
        width = options.width
        self.heads = options.heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.pair, self.output = (
            nn.Linear(width, width),
            nn.Linear(width, 2 * width),
            nn.Linear(width, width),
        )
        self.first, self.second = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, vectors: Tensor, support: int) -> Tensor:
        vectors = vectors + self._attend(self.norm1(vectors), support)
        outputs: Tensor = vectors + self.second(F.gelu(self.first(self.norm2(vectors))))
        return outputs

    def _attend(self, vectors: Tensor, support: int) -> Tensor:
        examples, width = vectors.shape
        size = width // self.heads
        query = self.query(vectors).view(examples, self.heads, size).transpose(0, 1)
        key, value = self.pair(vectors[:support]).view(support, 2, self.heads, size).permute(1, 2, 0, 3)
        attended = (query @ key.transpose(-2, -1) * size**-0.5).softmax(-1) @ value  # (heads, S + Q, size)
        output: Tensor = self.output(attended.transpose(0, 1).reshape(examples, width))
        return output


def _sizes(inputs: Any) -> tuple[int, int]:
    """Numbers of an example's input, and of its target."""
    names = {"x", "support_x", "support_y"}
    if not isinstance(inputs, Mapping) or inputs.keys() != names or inputs["x"].dtype != "float32":
        raise ConfigError(
            "model.kind = prior_fitted reads a support set with one input of numbers, as algorithm.adaptation = "
            "in_context gives it; use that, and tasks with one input, or another model"
        )
    return inputs["x"].zeros(1).numel(), inputs["support_y"].shape[0]
