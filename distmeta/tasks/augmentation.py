"""Keyed augmentation: random changes of images that depend on a task's id and the image's place in it alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from distmeta.core.philox import Purpose, Words, uniform, words
from distmeta.core.records import Split
from distmeta.errors import ConfigError
from distmeta.tasks.options.augmentation import AugmentationOptions

TaskPart = Literal["support", "query"]

_PURPOSES = {
    "support": (Purpose.AUGMENT_SUPPORT, Purpose.DROP_SUPPORT),
    "query": (Purpose.AUGMENT_QUERY, Purpose.DROP_QUERY),
}
_WORDS = 20
"""Words of an image; each setting has its own, so that one does not change what another draws."""

_SHIFT, _SHIFTED, _TURN, _TURNED = slice(0, 2), 2, 3, 4
_SCALE, _SHEAR, _CROP, _CROPPED = slice(5, 7), slice(7, 9), slice(9, 12), 12
_FLIP, _GREY, _BRIGHT, _HUE = 13, 14, 15, 16
_STEPS = 2.0**16
"""Steps a pixel, to which maps are rounded: the last bit of a sine may differ between machines."""

_LUMA = (0.299, 0.587, 0.114)

_Floats = NDArray[np.float64]


def augment(
    images: Tensor, options: AugmentationOptions, *, seed: int, split: Split, ids: Sequence[int], part: TaskPart
) -> Tensor:
    """Images of some tasks, each changed at random.

    An image is mirrored, moved, recoloured and loses pixels, in this order. A point p of a window of it, from the
    middle and in pixels, moves to ``R S p + t``: ``S = [[1 + s_x, k_x], [k_y, 1 + s_y]]`` scales and shears, R
    turns, t shifts. Hues turn about the grey axis of the RGB cube.

    Args:
        images: (T, N, C, H, W) in [0, 1], on any device.
        options: what may change, and how much.
        seed: with ``split``, the task's id, ``part`` and an image's place n it fixes how image n is changed.
        split: which distribution the ids belong to.
        ids: T task ids.
        part: support and query images at the same place are changed differently.

    Returns:
        Of the same shape and type; the images themselves where nothing is to change. Row t has the same bits whatever
        other tasks stand beside it.

    >>> square = torch.zeros(1, 2, 1, 8, 8)
    >>> square[..., 2:4, 2:4] = 1
    >>> moved = augment(
    ...     square, AugmentationOptions(shift=2, rotation=30), seed=0, split="train", ids=[5], part="query"
    ... )
    >>> moved.shape, torch.equal(moved[0, 0], moved[0, 1])
    (torch.Size([1, 2, 1, 8, 8]), False)
    """
    if not options.active:
        return images
    tasks, count, channels, height, width = images.shape
    changes, drops = _PURPOSES[part]
    chance = uniform(words(seed, split, ids, changes, count * _WORDS).reshape(tasks * count, _WORDS))
    flat = images.reshape(tasks * count, channels, height, width)
    if options.flip:
        flat = torch.where(_on(chance[:, _FLIP] < options.flip, flat), flat.flip(-1), flat)
    if options.moves:
        flat = _moved(flat, _maps(options, chance, height, width))
    if options.recolours:
        flat = _recoloured(flat, options, chance)
    if options.dropout:
        drawn = words(seed, split, ids, drops, count * -(-height * width // 2)).reshape(tasks * count, -1)
        flat = flat * _on(_kept(drawn, options.dropout, height, width), flat)
    return flat.view(images.shape)


def check_augmentation(
    options: AugmentationOptions, shape: tuple[int, int, int], setting: str = "tasks.augment"
) -> None:
    """Refuse an augmentation that makes no sense for images of this shape.

    Args:
        options: the settings.
        shape: (channels, height, width) of an image.
        setting: where they stand.

    Raises:
        ConfigError: naming the setting.

    >>> check_augmentation(AugmentationOptions(shift=30), (1, 28, 28))
    Traceback (most recent call last):
    distmeta.errors.ConfigError: tasks.augment.shift = 30: expected less than 28, the side of images of 28 x 28 pixels
    """
    channels, height, width = shape
    if options.shift >= min(height, width):
        raise ConfigError(
            f"{setting}.shift = {options.shift:g}: expected less than {min(height, width)}, the side of images of "
            f"{height} x {width} pixels"
        )
    for name in ("grey", "hue"):
        if getattr(options, name) and channels != 3:
            raise ConfigError(
                f"{setting}.{name} = {getattr(options, name):g}: images of {channels} "
                f"{'channel' if channels == 1 else 'channels'} have no colour; leave it out"
            )


def _on(mask: NDArray[np.bool_], images: Tensor) -> Tensor:
    """A mask (M,) or (M, 1, H, W) where the images are, as wide as they are."""
    return torch.from_numpy(mask.reshape(len(mask), *(mask.shape[1:] or (1, 1, 1)))).to(images.device)


def _both(chance: _Floats) -> _Floats:
    """Numbers of [0, 1) as numbers of [-1, 1)."""
    return 2 * chance - 1


def _maps(options: AugmentationOptions, chance: _Floats, height: int, width: int) -> NDArray[np.float32]:
    """(M, 2, 3): from a place in the result to the place in the image that it shows, in pixels from the middle."""
    size = np.array([width, height])
    shift = options.shift * _both(chance[:, _SHIFT]) * (chance[:, _SHIFTED] < options.shift_probability)[:, None]
    turned = chance[:, _TURNED] < options.rotation_probability
    angle = math.radians(options.rotation) * _both(chance[:, _TURN]) * turned
    scale, shear = 1 + options.scale * _both(chance[:, _SCALE]), options.shear * _both(chance[:, _SHEAR])
    side, x, y = chance[:, _CROP].T
    share = 1 - (1 - options.crop) * side * (chance[:, _CROPPED] < options.crop_probability)
    corner = (1 - share)[:, None] / 2 * size * _both(np.stack([x, y], 1))
    # The inverse of R S, by hand: S^-1 R^T.
    cos, sin = np.cos(angle), np.sin(angle)
    determinant = scale[:, 0] * scale[:, 1] - shear[:, 0] * shear[:, 1]
    linear = np.empty((len(chance), 2, 2))
    linear[:, 0, 0] = scale[:, 1] * cos + shear[:, 0] * sin
    linear[:, 0, 1] = scale[:, 1] * sin - shear[:, 0] * cos
    linear[:, 1, 0] = -shear[:, 1] * cos - scale[:, 0] * sin
    linear[:, 1, 1] = -shear[:, 1] * sin + scale[:, 0] * cos
    linear *= (share / determinant)[:, None, None]
    start = corner - (linear * shift[:, None, :]).sum(-1)
    return (np.rint(np.concatenate([linear, start[..., None]], -1) * _STEPS) / _STEPS).astype(np.float32)


def _moved(images: Tensor, maps: NDArray[np.float32]) -> Tensor:
    """Images (M, C, H, W) at the places that the maps (M, 2, 3) name, black outside.

    Places are computed element by element, since a matrix product may round otherwise for another M.
    """
    height, width = images.shape[-2:]
    across = torch.arange(width, dtype=torch.float32, device=images.device) - (width - 1) / 2
    down = (torch.arange(height, dtype=torch.float32, device=images.device) - (height - 1) / 2)[:, None]
    a, b, c, d, e, f = torch.from_numpy(maps).to(images.device).flatten(1)[..., None, None].unbind(1)
    grid = torch.stack([(a * across + b * down + c) * (2 / width), (d * across + e * down + f) * (2 / height)], -1)
    return functional.grid_sample(images, grid.to(images.dtype), align_corners=False)


def _recoloured(images: Tensor, options: AugmentationOptions, chance: _Floats) -> Tensor:
    """Grey, or with other light and hues; in [0, 1]."""
    bright = options.brightness * _both(chance[:, _BRIGHT])
    angle = 2 * math.pi * options.hue * _both(chance[:, _HUE])
    third, across = (1 - np.cos(angle)) / 3, np.sin(angle) / math.sqrt(3)
    factors = np.stack([1 - 2 * third, third - across, third + across, bright], 1)
    factors = np.rint(factors * _STEPS) / _STEPS
    same, before, after, light = (
        each[:, None, None] for each in torch.from_numpy(factors).to(images.device, images.dtype).unbind(1)
    )
    changed = images
    if options.hue:
        red, green, blue = images.unbind(1)
        changed = torch.stack(
            [
                same * red + before * green + after * blue,
                after * red + same * green + before * blue,
                before * red + after * green + same * blue,
            ],
            1,
        )
    changed = (changed + light[:, None]).clamp(0, 1)
    if options.grey:
        red, green, blue = images.unbind(1)
        grey = (_LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue)[:, None].expand_as(images)
        changed = torch.where(_on(chance[:, _GREY] < options.grey, images), grey, changed)
    return changed


def _kept(drawn: Words, dropout: float, height: int, width: int) -> NDArray[np.bool_]:
    """(M, 1, H, W): which pixels stay; two pixels share a word, each has 16 bits of it."""
    halves = np.stack([drawn & 0xFFFF, drawn >> 16], -1).reshape(len(drawn), -1)[:, : height * width]
    kept: NDArray[np.bool_] = halves >= round(dropout * 65536)
    return kept.reshape(-1, 1, height, width)
