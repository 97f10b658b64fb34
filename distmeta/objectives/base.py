"""What an objective is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Protocol

from distmeta.core.records import Data

if TYPE_CHECKING:
    from torch import Tensor


class Objective(Protocol):
    """Loss and metric of one task, from the network's outputs and the data they belong to.

    Attributes:
        metrics: names of the figures that are reported beside ``loss``; models are selected by the first.
        higher_is_better: which way the first one improves.
        classes: whether ``y`` holds class indices that closed-form adaptations can group by.
    """

    metrics: ClassVar[tuple[str, ...]]
    higher_is_better: ClassVar[bool]
    classes: ClassVar[bool]

    def loss(self, outputs: Tensor, data: Data) -> Tensor:
        """Scalar mean loss over the examples of one task."""
        ...

    def measure(self, outputs: Tensor, data: Data) -> Mapping[str, Tensor]:
        """Scalar figures over the examples of one task, by the names of ``metrics``."""
        ...


class Curved(Objective, Protocol):
    """An objective of which a trust region knows how outputs may change."""

    def curvature(self, outputs: Tensor, data: Data, tangent: Tensor) -> Tensor:
        """The second derivative of :meth:`divergence` by its second argument, where both are ``outputs``, times a
        tangent of their shape; symmetric and positive semidefinite.
        """
        ...

    def divergence(self, before: Tensor, after: Tensor, data: Data) -> Tensor:
        """Scalar mean over the examples of how far what ``after`` predicts is from what ``before`` does; 0 if equal."""
        ...
