"""Features of a trained network, before the layer that makes its outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from distmeta.adaptations.base import module_parameters
from distmeta.core.philox import Purpose, words
from distmeta.core.records import zeros_of
from distmeta.errors import ConfigError
from distmeta.functional.heads import output_layer
from distmeta.functional.module import FunctionalModule
from distmeta.runs.inference import MetaLearner

BATCH = 512
"""Images that go through a network at once, about; they share the statistics of batch norms."""

Fetch = Callable[[NDArray[np.int64]], Tensor]
"""Gives the images at these places, (N, ...)."""


class Embedding:
    """A learner's network up to its features: (N, ...) inputs to (N, D).

    The features are what the layer that makes the outputs gets; the outputs themselves where the network has no such
    layer, as with prototypes. Nothing is adapted, and dropout is off.

    Args:
        learner: any that :func:`~distmeta.runs.inference.load` gives.

    Raises:
        ConfigError: several layers make the outputs together, so that it is not clear what features are.
    """

    def __init__(self, learner: MetaLearner) -> None:
        parts, parameters = learner.parts, module_parameters(learner.meta)
        self._network, self._parameters = parts.network, parameters
        if not parts.adaptation.needs_head:
            return
        example = zeros_of(parts.inputs, 2)
        module = parts.build()
        path = output_layer(module, example)
        if not path:
            raise ConfigError(
                f"model.kind = {learner.config.model.kind}: no single layer of the network makes its outputs, so it "
                "has no features before it; use a run of an algorithm without a head, such as protonet"
            )
        self._network = FunctionalModule(_Features(module, path), example)
        self._parameters = {f"module.{name}": value for name, value in parameters.items()}

    def __call__(self, inputs: Tensor) -> Tensor:
        """Features (N, D); batch norms use the statistics of these inputs."""
        with torch.no_grad():
            return self._network(self._parameters, inputs).flatten(1)


class _Features(nn.Module):
    """A network that gives what one of its layers gets."""

    def __init__(self, module: nn.Module, path: str) -> None:
        super().__init__()
        self.module = module
        self._path = path

    def forward(self, inputs: Any) -> Tensor:
        found: list[Tensor] = []
        layer = self.module.get_submodule(self._path)
        handle = layer.register_forward_pre_hook(lambda _, given: found.append(given[0]))
        try:
            self.module(inputs)
        finally:
            handle.remove()
        return found[-1]


def embed(
    compute: Callable[[Tensor], Tensor],
    fetch: Fetch,
    count: int,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float32]:
    """Features (count, D) of many images.

    They go through the network in batches of one size, in a random order: a batch norm's statistics are then those of
    images of all kinds.

    Args:
        compute: (N, ...) to (N, D).
        fetch: gives images by their places 0 ... count - 1.
        count: how many images there are.
        seed: fixes the order.
        progress: called with the number of images done and their total.
    """
    order = np.argsort(words(seed, "train", [count], Purpose.EXAMPLES, count)[0], kind="stable")
    result: NDArray[np.float32] | None = None
    done = 0
    for places in _batches(order):
        features = compute(fetch(places)).cpu().numpy()
        if result is None:
            result = np.empty((count, features.shape[1]), np.float32)
        result[places] = features
        done += len(places)
        if progress is not None:
            progress(done, count)
    assert result is not None
    return result


def _batches(order: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    yield from np.array_split(order, max(1, round(len(order) / BATCH)))
