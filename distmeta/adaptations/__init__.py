"""Adaptations: how a task's solution comes from meta-parameters.

One file each, its settings in :mod:`~distmeta.adaptations.options`, one line in the table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from distmeta.adaptations.options import (
    AdaptersOptions,
    ContextOptions,
    GradientDescentOptions,
    InContextOptions,
    LinearProbeOptions,
    LogisticOptions,
    MatchingOptions,
    PrototypesOptions,
    RecurrentOptions,
    RidgeOptions,
    SVMOptions,
)
from distmeta.config.registry import Registry
from distmeta.config.sections import AdaptationOptions
from distmeta.core.lazy import lazily

if TYPE_CHECKING:
    from distmeta.adaptations.adapters import Adapters
    from distmeta.adaptations.base import Adaptation, Batch, Iterative, Support, Task
    from distmeta.adaptations.context import Context
    from distmeta.adaptations.gradient_descent import GradientDescent
    from distmeta.adaptations.in_context import InContext
    from distmeta.adaptations.linear_probe import LinearProbe
    from distmeta.adaptations.logistic import Logistic
    from distmeta.adaptations.matching import Matching
    from distmeta.adaptations.on_embedding import OnEmbedding
    from distmeta.adaptations.prototypes import Prototypes
    from distmeta.adaptations.recurrent import Recurrent
    from distmeta.adaptations.ridge import Ridge
    from distmeta.adaptations.svm import SVM
else:
    __getattr__ = lazily(
        __name__,
        {
            "Adaptation": "base:Adaptation",
            "Adapters": "adapters:Adapters",
            "Batch": "base:Batch",
            "Context": "context:Context",
            "GradientDescent": "gradient_descent:GradientDescent",
            "InContext": "in_context:InContext",
            "Iterative": "base:Iterative",
            "LinearProbe": "linear_probe:LinearProbe",
            "Logistic": "logistic:Logistic",
            "Matching": "matching:Matching",
            "OnEmbedding": "on_embedding:OnEmbedding",
            "Prototypes": "prototypes:Prototypes",
            "Recurrent": "recurrent:Recurrent",
            "Ridge": "ridge:Ridge",
            "SVM": "svm:SVM",
            "Support": "base:Support",
            "Task": "base:Task",
        },
    )

ADAPTATIONS: Registry[Adaptation, AdaptationOptions] = Registry(
    "algorithm.adaptation",
    "a class with the methods of distmeta.adaptations.base.Adaptation",
    {
        "gradient_descent": (GradientDescentOptions, "distmeta.adaptations.gradient_descent:GradientDescent"),
        "context": (ContextOptions, "distmeta.adaptations.context:Context"),
        "adapters": (AdaptersOptions, "distmeta.adaptations.adapters:Adapters"),
        "prototypes": (PrototypesOptions, "distmeta.adaptations.prototypes:Prototypes"),
        "matching": (MatchingOptions, "distmeta.adaptations.matching:Matching"),
        "ridge": (RidgeOptions, "distmeta.adaptations.ridge:Ridge"),
        "logistic": (LogisticOptions, "distmeta.adaptations.logistic:Logistic"),
        "svm": (SVMOptions, "distmeta.adaptations.svm:SVM"),
        "linear_probe": (LinearProbeOptions, "distmeta.adaptations.linear_probe:LinearProbe"),
        "in_context": (InContextOptions, "distmeta.adaptations.in_context:InContext"),
        "recurrent": (RecurrentOptions, "distmeta.adaptations.recurrent:Recurrent"),
    },
    AdaptationOptions,
)

__all__ = [
    "ADAPTATIONS",
    "SVM",
    "Adaptation",
    "Adapters",
    "Batch",
    "Context",
    "GradientDescent",
    "InContext",
    "Iterative",
    "LinearProbe",
    "Logistic",
    "Matching",
    "OnEmbedding",
    "Prototypes",
    "Recurrent",
    "Ridge",
    "Support",
    "Task",
]
