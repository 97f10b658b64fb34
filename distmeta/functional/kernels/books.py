"""How a convolution's filter moves, as the kernels take it."""

from __future__ import annotations

import ctypes
import functools

from distmeta.functional.kernels.geometry import Geometry, rulebook

FEW_INPUTS = 64
"""Up to this many taps times input channels, all that an output sees is multiplied at once, not tap by tap."""


class _Structure(ctypes.Structure):
    """``Rulebook`` of kernels.cpp."""

    _fields_ = (
        ("pairs", ctypes.c_void_p),
        ("starts", ctypes.c_void_p),
        *((name, ctypes.c_int32) for name in ("taps", "images", "outputs", "few")),
        *((name, ctypes.c_int32 * 2) for name in ("from", "to", "kernel", "stride", "padding", "dilation")),
    )


class Book:
    """The rulebook of a convolution in memory, as long as this object lives.

    Attributes:
        address: of the structure.
        output: height and width of an output.
    """

    def __init__(self, geometry: Geometry, images: int, size: tuple[int, int], inputs: int) -> None:
        self._rules = pairs, starts, (_, outputs) = rulebook(geometry, images, size)
        self.output = geometry.output(size)
        few = geometry.taps > 1 and geometry.taps * inputs <= FEW_INPUTS
        sizes = [(ctypes.c_int32 * 2)(*two) for two in (size, self.output, *geometry)]
        self._structure = _Structure(pairs.ctypes.data, starts.ctypes.data, geometry.taps, images, outputs, few, *sizes)
        self.address = ctypes.addressof(self._structure)


@functools.lru_cache(maxsize=512)
def book(geometry: tuple[int, ...], images: int, size: tuple[int, int], inputs: int) -> Book:
    """Of an encoded geometry, for so many images of this height, width and number of channels."""
    return Book(Geometry.decode(geometry), images, size, inputs)
