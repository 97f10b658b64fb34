"""Drawing made-up characters with a pen: cubic Bezier strokes, jittered, rendered by separable Gaussians.

The result is the same on every machine: positions, pen profiles and weights are rounded to whole numbers, and
    these are
small enough that the sums of their products are exact in float32, in any order.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from distmeta.core.philox import Purpose, integers, uniform, words

GENERATOR = "1"
"""Version of everything in this file: any change of a constant or a formula is a new data set."""

GLYPH_SIZE = 28
_SEED = 0x676C797068
_STROKES = 4
_POINTS = 24
_PENS = np.linspace(0.55, 0.9, 8)  # radii, in pixels
_GRID = 32  # steps a pixel, to which the pen's path is rounded
_INK = 63  # levels of a pen's profile
_SHARE = 16  # levels of a point's weight, its share of the path's length in pixels
_FULL = int(0.8 * np.sqrt(2 * np.pi) * np.mean(_PENS) * _INK * _INK * _SHARE)  # ink that makes a pixel black

Floats = NDArray[np.float64]


def draw(classes: Sequence[int], examples: int) -> NDArray[np.uint8]:
    """Drawings (classes, examples, 28, 28), strokes 255 on 0, of characters that are named by number."""
    shape, present = _programmes(classes)
    number = (np.array(classes)[:, None] * 4096 + np.arange(examples)).reshape(-1)
    path, pens = _jitter(np.repeat(shape, examples, axis=0), number)
    images = _render(path, np.repeat(present, examples, axis=0), pens)
    return images.reshape(len(classes), examples, GLYPH_SIZE, GLYPH_SIZE)


def _programmes(classes: Sequence[int]) -> tuple[Floats, NDArray[np.bool_]]:
    """Control points (classes, strokes, 4, 2) in [-1, 1] and which strokes there are (classes, strokes)."""
    drawn = words(_SEED, "train", classes, Purpose.STROKES, 1 + _STROKES * 8)
    present = np.arange(_STROKES) < 2 + integers(drawn[:, :1], 3)
    chance = uniform(drawn[:, 1:]).reshape(-1, _STROKES, 8)
    strokes = np.empty((len(classes), _STROKES, 4, 2))
    anchor = np.zeros((len(classes), 2))
    for index in range(_STROKES):
        u = chance[:, index]
        # A pen mostly starts anew, sometimes where the stroke before it ended or passed.
        fresh = 1.7 * u[:, 0:2] - 0.85
        start = np.where(index > 0 and u[:, 2:3] < 0.5, anchor, fresh)
        # Towards the other side of the page, else strokes crowd at its edge.
        angle = np.arctan2(-start[:, 1], -start[:, 0]) + (u[:, 3] - 0.5) * 1.3 * np.pi
        length = 0.7 + 0.9 * u[:, 4]
        along = np.stack([np.cos(angle), np.sin(angle)], axis=-1) * length[:, None]
        end = np.clip(start + along, -1, 1)
        along = end - start
        across = np.stack([-along[:, 1], along[:, 0]], axis=-1)
        bend = 1.8 * (u[:, 5:7] - 0.5)
        # Many strokes are nearly straight, as in real scripts.
        bend *= np.where(u[:, 7:8] < 0.4, 0.2, 1.0)
        first = start + along / 3 + across * bend[:, :1]
        second = start + along * 2 / 3 + across * bend[:, 1:]
        strokes[:, index] = np.stack([start, first, second, end], axis=1)
        middle = (start + 3 * first + 3 * second + end) / 8
        anchor = np.where(u[:, 2:3] < 0.25, end, middle)
    return _centred(strokes, present), present


def _centred(strokes: Floats, present: NDArray[np.bool_]) -> Floats:
    """Shift and scale each character so that it fills the page."""
    path = np.einsum("pc,nscd->nspd", _bezier(), strokes)
    there = present[:, :, None, None]
    low = np.where(there, path, np.inf).min(axis=(1, 2))
    high = np.where(there, path, -np.inf).max(axis=(1, 2))
    scale = 2 / (high - low).max(axis=-1)
    centred: Floats = (strokes - ((low + high) / 2)[:, None, None]) * scale[:, None, None, None]
    return centred


def _bezier() -> Floats:
    """Weights (points, 4) of a cubic Bezier curve's control points."""
    t = np.linspace(0, 1, _POINTS)
    return np.stack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3], axis=-1)


def _jitter(strokes: Floats, numbers: NDArray[np.int64]) -> tuple[Floats, NDArray[np.int64]]:
    """One drawing of each: the path (N, strokes, points, 2) in pixels (column, row), and the pen (N,)."""
    drawn = words(_SEED, "train", numbers.tolist(), Purpose.JITTER, 7 + strokes[0].size)
    unit = 2 * uniform(drawn[:, 1:]) - 1
    wobbled = strokes + 0.2 * unit[:, 6:].reshape(strokes.shape)
    turn, shear = 0.3 * unit[:, 0], 0.25 * unit[:, 1]
    wide, high = 1 + 0.2 * unit[:, 2], 1 + 0.2 * unit[:, 3]
    cos, sin = np.cos(turn), np.sin(turn)
    matrix = np.stack([wide * cos, wide * (shear * cos - sin), high * sin, high * (shear * sin + cos)], axis=-1)
    path = np.einsum("pc,nscd->nspd", _bezier(), wobbled)
    path = np.einsum("nij,nspj->nspi", matrix.reshape(-1, 2, 2), path)
    centre = (GLYPH_SIZE - 1) / 2 + 2.0 * unit[:, 4:6]
    return centre[:, None, None] + 9.0 * path, integers(drawn[:, 0], len(_PENS))


def _render(path: Floats, present: NDArray[np.bool_], pens: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Images (N, 28, 28): min(1, sum over points of w gy gx^T), w being a share of the path's length."""
    steps = np.linalg.norm(np.diff(path, axis=2), axis=-1)
    share = np.zeros(path.shape[:3])
    share[..., :-1] += steps / 2
    share[..., 1:] += steps / 2
    # 96 points of at most 31 * 63 * 63 levels stay below 2**24, where float32 is exact.
    weight = np.minimum(np.rint(_SHARE * share), 31) * present[..., None]
    column, row = _profile(path[..., 0], pens), _profile(path[..., 1], pens)
    row *= weight.reshape(len(path), -1, 1).astype(np.float32)
    ink = row.transpose(0, 2, 1) @ column
    grey: NDArray[np.uint8] = (np.minimum(ink, _FULL).astype(np.int32) * 255 // _FULL).astype(np.uint8)
    return grey


def _profile(position: Floats, pens: NDArray[np.int64]) -> NDArray[np.float32]:
    """The pen's ink (N, points, 28) along one axis: whole numbers up to ``_INK``."""
    reach = 2 * GLYPH_SIZE * _GRID
    distance = np.arange(reach) / _GRID
    profile = np.rint(_INK * np.exp(-0.5 * (distance / _PENS[:, None]) ** 2)).astype(np.float32)
    places = np.rint(position.reshape(len(position), -1, 1) * _GRID).astype(np.int32)
    apart = np.minimum(np.abs(places - _GRID * np.arange(GLYPH_SIZE, dtype=np.int32)), reach - 1)
    ink: NDArray[np.float32] = profile.reshape(-1)[apart + reach * pens.astype(np.int32)[:, None, None]]
    return ink
