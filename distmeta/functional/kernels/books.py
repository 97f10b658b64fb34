"""How a convolution's filter moves, as the kernels take it."""

from __future__ import annotations

import ctypes
import functools
import math

from distmeta.functional.kernels.geometry import Geometry, rulebook

FEW_INPUTS = 64
"""Up to this many taps times input channels, all that an output sees is multiplied at once, not tap by tap."""


POINTS = 16
"""Products of a tile of 2 x 2 outputs in minimal filtering."""

FILTER_AS_TILES = 7
"""Tiles of outputs that cost as much as the filter's own transform."""

MINIMAL_REPAYS = 1.2
"""Products of pairs that cost as much as one of minimal filtering, with its share of the transforms."""


class _Structure(ctypes.Structure):
    """``Rulebook`` of kernels.cpp."""

    _fields_ = (
        ("pairs", ctypes.c_void_p),
        ("starts", ctypes.c_void_p),
        *((name, ctypes.c_int32) for name in ("taps", "images", "outputs", "few", "minimal")),
        *((name, ctypes.c_int32 * 2) for name in ("from", "to", "kernel", "stride", "padding", "dilation")),
    )


class Book:
    """The rulebook of a convolution in memory, as long as this object lives.

    Attributes:
        structure: what the kernels read.
        address: of the structure.
        output: height and width of an output.
    """

    def __init__(self, geometry: Geometry, images: int, size: tuple[int, int], inputs: int) -> None:
        self._rules = pairs, starts, (_, outputs) = rulebook(geometry, images, size)
        self.output = geometry.output(size)
        few = geometry.taps > 1 and geometry.taps * inputs <= FEW_INPUTS
        minimal = not few and _minimal_pays(geometry, images, self.output, len(pairs))
        sizes = [(ctypes.c_int32 * 2)(*two) for two in (size, self.output, *geometry)]
        counts = (geometry.taps, images, outputs, few, minimal)
        self.structure = _Structure(pairs.ctypes.data, starts.ctypes.data, *counts, *sizes)
        self.address = ctypes.addressof(self.structure)


def _minimal_pays(geometry: Geometry, images: int, output: tuple[int, int], pairs: int) -> bool:
    """Whether Winograd's minimal filtering is faster than the products of all pairs."""
    if (geometry.kernel, geometry.stride, geometry.dilation) != ((3, 3), (1, 1), (1, 1)):
        return False
    tiles = images * math.prod((length + 1) // 2 for length in output)
    return pairs >= MINIMAL_REPAYS * POINTS * (tiles + FILTER_AS_TILES)


@functools.lru_cache(maxsize=512)
def book(geometry: tuple[int, ...], images: int, size: tuple[int, int], inputs: int) -> Book:
    """Of an encoded geometry, for so many images of this height, width and number of channels."""
    return Book(Geometry.decode(geometry), images, size, inputs)
