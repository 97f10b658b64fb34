"""Adaptations: how a task's solution comes from meta-parameters.

One file each, its settings in :mod:`~distmeta.adaptations.options`, one line in the table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from distmeta.adaptations.options import GradientDescentOptions, PrototypesOptions, RecurrentOptions
from distmeta.config.registry import Registry
from distmeta.config.sections import AdaptationOptions
from distmeta.core.lazy import lazily

if TYPE_CHECKING:
    from distmeta.adaptations.base import Adaptation, Batch, Iterative, Support, Task
    from distmeta.adaptations.gradient_descent import GradientDescent
    from distmeta.adaptations.prototypes import Prototypes
    from distmeta.adaptations.recurrent import Recurrent
else:
    __getattr__ = lazily(
        __name__,
        {
            "Adaptation": "base:Adaptation",
            "Batch": "base:Batch",
            "GradientDescent": "gradient_descent:GradientDescent",
            "Iterative": "base:Iterative",
            "Prototypes": "prototypes:Prototypes",
            "Recurrent": "recurrent:Recurrent",
            "Support": "base:Support",
            "Task": "base:Task",
        },
    )

ADAPTATIONS: Registry[Adaptation, AdaptationOptions] = Registry(
    "algorithm.adaptation",
    "a class with the methods of distmeta.adaptations.base.Adaptation",
    {
        "gradient_descent": (GradientDescentOptions, "distmeta.adaptations.gradient_descent:GradientDescent"),
        "prototypes": (PrototypesOptions, "distmeta.adaptations.prototypes:Prototypes"),
        "recurrent": (RecurrentOptions, "distmeta.adaptations.recurrent:Recurrent"),
    },
    AdaptationOptions,
)

__all__ = [
    "ADAPTATIONS",
    "Adaptation",
    "Batch",
    "GradientDescent",
    "Iterative",
    "Prototypes",
    "Recurrent",
    "Support",
    "Task",
]
