"""Layers that several convolutional networks share."""

from __future__ import annotations

from torch import nn

from distmeta.models.options import Norm


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
