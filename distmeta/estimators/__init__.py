"""Estimators: how the meta-gradient is computed from an adaptation. One file each, one line in the table."""

from __future__ import annotations

from distmeta.estimators.base import Estimator
from distmeta.estimators.displacement import Displacement
from distmeta.estimators.exact import Exact
from distmeta.estimators.first_order import FirstOrder

ESTIMATORS: dict[str, type[Estimator]] = {
    "exact": Exact,
    "first_order": FirstOrder,
    "displacement": Displacement,
}

__all__ = ["ESTIMATORS", "Displacement", "Estimator", "Exact", "FirstOrder"]
