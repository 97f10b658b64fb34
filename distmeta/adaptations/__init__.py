"""Adaptations: how a task's solution comes from meta-parameters. One file each, one line in the table."""

from __future__ import annotations

from distmeta.adaptations.base import Adaptation, Batch, Iterative, Support, Task
from distmeta.adaptations.gradient_descent import GradientDescent
from distmeta.adaptations.prototypes import Prototypes

ADAPTATIONS: dict[str, type[Adaptation]] = {
    "gradient_descent": GradientDescent,
    "prototypes": Prototypes,
}

__all__ = [
    "ADAPTATIONS",
    "Adaptation",
    "Batch",
    "GradientDescent",
    "Iterative",
    "Prototypes",
    "Support",
    "Task",
]
