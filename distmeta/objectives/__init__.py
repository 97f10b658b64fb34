"""Objectives: the loss and the metrics of a kind of task. One file each, one line in the table."""

from __future__ import annotations

from distmeta.config.registry import Registry
from distmeta.config.sections import Section
from distmeta.objectives.base import Curved, Objective
from distmeta.objectives.cross_entropy import CrossEntropy
from distmeta.objectives.squared_error import SquaredError

OBJECTIVES: Registry[Objective, Section] = Registry(
    "tasks.objective",
    "a class with the methods of distmeta.objectives.base.Objective",
    {
        "cross_entropy": (None, "distmeta.objectives.cross_entropy:CrossEntropy"),
        "squared_error": (None, "distmeta.objectives.squared_error:SquaredError"),
    },
)

__all__ = ["OBJECTIVES", "CrossEntropy", "Curved", "Objective", "SquaredError"]
