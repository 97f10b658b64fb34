"""Estimators: how the meta-gradient is computed from an adaptation.

One file each, its settings in :mod:`~distmeta.estimators.options`, one line in the table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from distmeta.config.registry import Registry
from distmeta.config.sections import EstimatorOptions
from distmeta.core.lazy import lazily
from distmeta.estimators.options import (
    CreditedOptions,
    DisplacementOptions,
    EvolutionOptions,
    ExactOptions,
    FirstOrderOptions,
    HybridOptions,
    ImplicitOptions,
    JointOptions,
    TruncatedOptions,
)

if TYPE_CHECKING:
    from distmeta.estimators.base import Estimator
    from distmeta.estimators.credited import Credited
    from distmeta.estimators.displacement import Displacement
    from distmeta.estimators.evolution import Evolution
    from distmeta.estimators.exact import Exact
    from distmeta.estimators.first_order import FirstOrder
    from distmeta.estimators.hybrid import Hybrid
    from distmeta.estimators.implicit import Implicit
    from distmeta.estimators.joint import Joint
    from distmeta.estimators.truncated import Truncated
else:
    __getattr__ = lazily(
        __name__,
        {
            "Credited": "credited:Credited",
            "Displacement": "displacement:Displacement",
            "Estimator": "base:Estimator",
            "Evolution": "evolution:Evolution",
            "Exact": "exact:Exact",
            "FirstOrder": "first_order:FirstOrder",
            "Hybrid": "hybrid:Hybrid",
            "Implicit": "implicit:Implicit",
            "Joint": "joint:Joint",
            "Truncated": "truncated:Truncated",
        },
    )

ESTIMATORS: Registry[Estimator, EstimatorOptions] = Registry(
    "algorithm.estimator",
    "a class with the methods of distmeta.estimators.base.Estimator",
    {
        "exact": (ExactOptions, "distmeta.estimators.exact:Exact"),
        "first_order": (FirstOrderOptions, "distmeta.estimators.first_order:FirstOrder"),
        "hybrid": (HybridOptions, "distmeta.estimators.hybrid:Hybrid"),
        "truncated": (TruncatedOptions, "distmeta.estimators.truncated:Truncated"),
        "implicit": (ImplicitOptions, "distmeta.estimators.implicit:Implicit"),
        "displacement": (DisplacementOptions, "distmeta.estimators.displacement:Displacement"),
        "joint": (JointOptions, "distmeta.estimators.joint:Joint"),
        "evolution": (EvolutionOptions, "distmeta.estimators.evolution:Evolution"),
        "credited": (CreditedOptions, "distmeta.estimators.credited:Credited"),
    },
    EstimatorOptions,
)

__all__ = [
    "ESTIMATORS",
    "Credited",
    "Displacement",
    "Estimator",
    "Evolution",
    "Exact",
    "FirstOrder",
    "Hybrid",
    "Implicit",
    "Joint",
    "Truncated",
]
