"""What a model is, and what adaptations see of one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from distmeta.config.sections import ModelOptions
from distmeta.core.records import Inputs
from distmeta.errors import ConfigError


class Model(nn.Module):
    """An entry of the registry: a network with its settings.

    The submodule that turns features into outputs is called ``head``, so that adaptations of the head alone
    (or of all but the head) find it.

    Args:
        options: an instance of ``Options``.
        input_shape: shape of one example's only input; with ``named_inputs`` what the tasks have, by name.
        outputs: numbers that the network gives for one example; ``None`` for an embedding: there is no
            ``head``, and the result is (examples, features).

    Attributes:
        Options: the settings that stand under ``model`` in a configuration.
        named_inputs: whether it takes inputs by name, as keyword arguments.
        output_dimensions: dimensions of an example's outputs before their last; none where it has one vector.
        head: the last layer, ``None`` in an embedding.

    Raises:
        ConfigError: the settings do not suit the input shape.
    """

    Options: ClassVar[type[ModelOptions]]
    named_inputs: ClassVar[bool] = False
    output_dimensions: tuple[int, ...] = ()
    head: nn.Linear | None

    def __init__(self, options: Any, input_shape: Any, outputs: int | None) -> None:
        super().__init__()

    def features(self, *args: Any, **kwargs: Any) -> Tensor:
        """(N, *input_shape), or inputs by name, to (N, features)."""
        raise NotImplementedError

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """(N, *input_shape), or inputs by name, to (N, outputs), or to (N, features) without a head."""
        features = self.features(*args, **kwargs)
        return features if self.head is None else self.head(features)


class Network(Protocol):
    """A module as a function of its trainable parameters, for one task.

    Attributes:
        parameters: initial values of the trainable parameters, by the module's own names.
    """

    parameters: dict[str, Tensor]

    @property
    def features(self) -> int:
        """Numbers of an example's outputs."""
        ...

    @property
    def norms(self) -> tuple[str, ...]:
        """Names of the trainable scales and shifts of batch norms that use the statistics of their batch."""
        ...

    def __call__(
        self, parameters: Mapping[str, Tensor], inputs: Inputs, *, key: Tensor | None = None, draw: int = 0
    ) -> Tensor:
        """The module's outputs for the inputs (N, ...) of one task; ``key`` and ``draw`` fix its dropout."""
        ...

    def with_support_statistics(
        self, parameters: Mapping[str, Tensor], support_inputs: Inputs, query_inputs: Inputs
    ) -> Tensor:
        """Outputs for the query, every batch norm normalising by the support's statistics."""
        ...

    @property
    def head(self) -> tuple[str, ...]:
        """Names of the trainable parameters of the layer that makes the outputs; none where that is not one layer."""
        ...

    def names_below(self, path: str) -> tuple[str, ...]:
        """Names of the trainable parameters of a submodule."""
        ...


def image_shape(kind: str, input_shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(channels, height, width), or a ``ConfigError`` where the examples are no images."""
    if len(input_shape) != 3:
        raise ConfigError(
            f"model.kind = {kind} takes images of shape (channels, height, width), but the tasks' examples "
            f"have shape {input_shape}; use model.kind = mlp"
        )
    channels, height, width = input_shape
    return channels, height, width


def halved(kind: str, size: int, times: int) -> int:
    """Side of an image after 2x2 max pools, or a ``ConfigError`` where nothing is left of it."""
    if size >> times == 0:
        raise ConfigError(
            f"model.kind = {kind} halves its images {times} times, so their height and width are at least "
            f"{1 << times}, but they are {size}; use larger images (tasks) or another model"
        )
    return size >> times
