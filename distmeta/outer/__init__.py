"""Outer steps: what becomes of a meta-batch's reduced answers.

One file each, its settings in :mod:`~distmeta.outer.options`, one line in the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from distmeta.config.problems import choose
from distmeta.config.registry import Registry
from distmeta.config.sections import OuterOptions
from distmeta.outer.options import ClippedOptions, GradientOptions, TrustRegionOptions

if TYPE_CHECKING:
    from distmeta.outer.base import OuterStep

OUTER: Registry[OuterStep, OuterOptions] = Registry(
    "outer.name",
    "a class with the methods of distmeta.outer.base.OuterStep",
    {
        "gradient": (GradientOptions, "distmeta.outer.gradient:GradientStep"),
        "clipped": (ClippedOptions, "distmeta.outer.clipped:ClippedStep"),
        "trust_region": (TrustRegionOptions, "distmeta.outer.trust_region:TrustRegion"),
    },
    OuterOptions,
)

__all__ = ["OUTER", "outer_options"]


def outer_options(values: Mapping[str, Any]) -> type[OuterOptions]:
    """The settings class of ``values["name"]``, ``gradient`` where it is left out.

    Raises:
        ValueError: there is no such outer step.
    """
    options: type[OuterOptions] = choose(OUTER.options, values.get("name", "gradient"), "outer.name")
    return options
