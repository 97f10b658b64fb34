"""Layers that several convolutional networks share."""

from __future__ import annotations

from typing import Literal

from torch import nn

Norm = Literal["batch", "group", "layer", "none"]
"""``batch`` uses the statistics of the examples it is given (transductive at evaluation); the others look at
one example alone: ``group`` at groups of its channels, ``layer`` at all of them; ``none`` is the identity."""


def norm2d(kind: Norm, channels: int) -> nn.Module:
    """The normalisation of (N, channels, H, W).

    ``group`` uses 8 groups, or the largest number below that divides the channels.

    >>> norm2d("group", 64).num_groups, norm2d("group", 10).num_groups, norm2d("layer", 64).num_groups
    (8, 5, 1)
    """
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    if kind == "group":
        return nn.GroupNorm(max(groups for groups in range(1, 9) if channels % groups == 0), channels)
    return nn.GroupNorm(1, channels) if kind == "layer" else nn.Identity()
