"""What an objective is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from distmeta.config.sections import ObjectiveOptions
from distmeta.core.lazy import find
from distmeta.core.records import Data
from distmeta.objectives.metrics import KNOWN_METRICS, Kind
from distmeta.objectives.weights import weight_of

if TYPE_CHECKING:
    from torch import Tensor

_SCORES = "distmeta.objectives.scores"


class Objective(Protocol):
    """Loss and metrics of one task, from the network's outputs and the data they belong to.

    A class with settings of its own has them as ``Options``, a subclass of
    :class:`~distmeta.config.sections.ObjectiveOptions`, and is made with them; one without is made without arguments.
    :class:`Scored` is a beginning that brings the metrics of :data:`~distmeta.objectives.metrics.KNOWN_METRICS`.

    Attributes:
        metrics: names of the figures that are reported beside ``loss``; models are selected by the first.
        higher_is_better: which way the first one improves.
        classes: whether ``y`` holds class indices that closed-form adaptations can group by.
    """

    metrics: tuple[str, ...]
    higher_is_better: bool
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


class Scored:
    """What objectives with a choice of metrics share.

    Attributes:
        Options: its settings under ``tasks.objective``.
        kind: what its targets are, which says which metrics fit.
        classes: whether these are class indices.
        metrics: of a run; the class's own where ``tasks.metrics`` chooses none.
        higher_is_better: which way the first of them improves.
        takes_weights: whether loss and metrics heed the examples' weights, see
            :class:`~distmeta.tasks.base.TaskSpec`.
        bounds: the least and the greatest target, where there are such.
        scale: (D,) what a unit of each dimension of the targets is in the user's unit; metrics are told in the latter.
    """

    Options: ClassVar[type[ObjectiveOptions]] = ObjectiveOptions
    kind: ClassVar[Kind]
    classes: ClassVar[bool] = False
    metrics: tuple[str, ...]
    higher_is_better: bool
    takes_weights: ClassVar[bool] = True
    bounds: ClassVar[tuple[float | None, float | None]] = (None, None)
    scale: tuple[float, ...] | None = None

    def __init__(self, options: Any = None) -> None:
        self.options: Any = options if options is not None else self.Options(name=type(self).__name__)

    @classmethod
    def fitting(cls) -> tuple[str, ...]:
        """Names of the metrics that this objective can report."""
        own = {"nll"} if hasattr(cls, "nll") else set()
        return tuple(name for name, metric in KNOWN_METRICS.items() if name in own or cls.kind in metric.places)

    def outputs(self, dimension: int) -> int:
        """Numbers that a network has to give for an example whose target has ``dimension`` of them, or for so many
        classes.
        """
        return dimension

    def predicted(self, outputs: Tensor) -> Tensor:
        """The targets that the outputs predict, as metrics compare them."""
        return outputs

    def measure(self, outputs: Tensor, data: Data) -> dict[str, Tensor]:
        """Scalar figures over the examples of one task, by the names of ``metrics``; NaN where one is not defined."""
        return {name: self._figure(name, outputs, data) for name in self.metrics}

    def _figure(self, name: str, outputs: Tensor, data: Data) -> Tensor:
        if name == "nll":
            nll: Tensor = self.nll(outputs, data)  # type: ignore[attr-defined]
            return nll
        predicted, y = self.predicted(outputs), data["y"]
        if self.scale is not None and self.kind == "values":
            scale = predicted.new_tensor(self.scale)
            predicted, y = predicted * scale, y * scale
        figure: Tensor = find(f"{_SCORES}.{KNOWN_METRICS[name].places[self.kind]}")(predicted, y, weight_of(data))
        return figure
