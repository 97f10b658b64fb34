"""Objectives: the loss and the metric of a kind of task. One file each, one line in the table."""

from __future__ import annotations

from distmeta.objectives.base import Objective
from distmeta.objectives.cross_entropy import CrossEntropy
from distmeta.objectives.squared_error import SquaredError

OBJECTIVES: dict[str, type[Objective]] = {
    "cross_entropy": CrossEntropy,
    "squared_error": SquaredError,
}

__all__ = ["OBJECTIVES", "CrossEntropy", "Objective", "SquaredError"]
