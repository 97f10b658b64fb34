"""What an outer step is."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from distmeta.core.requests import Answer, Request, Start

if TYPE_CHECKING:
    from torch import Tensor

    from distmeta.core.layout import Layout

Ask = Callable[[Request], Answer]
"""The answer of a whole meta-batch, reduced in the fixed tree; every request of a meta-step is about the same tasks."""


@dataclass(frozen=True)
class Outcome:
    """What an outer step did.

    Attributes:
        answer: of the request for the meta-gradient, from whose sums a step's measurements come.
        norm: Euclidean norm of the mean meta-gradient before clipping; not finite where the gradient is not.
        rate: outer learning rate, or what takes its place.
        accepted: whether the vectors were changed.
        nonfinite: ids of tasks whose loss or gradient was not finite; where there are any, nothing was changed.
        metrics: what else there is to tell of the step, by name.
    """

    answer: Answer
    norm: float
    rate: float
    accepted: bool
    nonfinite: tuple[int, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Whether the meta-gradient was not finite, so that there was nothing to step by."""
        return bool(self.nonfinite) or not math.isfinite(self.norm)


class OuterStep(Protocol):
    """Changes the meta-parameters once a meta-step; its state is part of a checkpoint.

    Args:
        options: its settings.
        steps: meta-steps of the whole run.
        layout: of the meta-parameters.
        theta: (P,) float32, the meta-parameters, which :meth:`step` changes in place.
    """

    def __init__(self, options: Any, steps: int, layout: Layout, theta: Tensor) -> None: ...

    def step(self, start: Start, ask: Ask) -> Outcome:
        """One outer step from ``start``, whose ``theta`` it changes, when all is asked, or leaves as it is."""
        ...

    def state(self) -> dict[str, Any]:
        """What a checkpoint has to hold: tensors and plain values."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a state.

        Raises:
            StorageError: it is not one of this step with these settings.
        """
        ...
