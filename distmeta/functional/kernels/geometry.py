"""Where a filter's taps meet its input: sizes, and the pairs of rows that each tap connects."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Geometry(NamedTuple):
    """How a filter moves over its input, (vertical, horizontal).

    >>> Geometry((3, 3), (2, 2), (1, 1), (1, 1)).output((14, 14))
    (7, 7)
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]

    @classmethod
    def decode(cls, numbers: Sequence[int]) -> Geometry:
        """From eight integers, since operators take nothing else."""
        a, b, c, d, e, f, g, h = numbers
        return cls((a, b), (c, d), (e, f), (g, h))

    def encode(self) -> list[int]:
        """As eight integers."""
        return [number for pair in self for number in pair]

    @property
    def taps(self) -> int:
        """Elements of the filter that each output sees."""
        return self.kernel[0] * self.kernel[1]

    def output(self, size: tuple[int, int], ceil: bool = False) -> tuple[int, int]:
        """Height and width of the output for an input of this size.

        Args:
            size: height and width of the input.
            ceil: of a pool: windows may reach beyond the padding, but not begin there.
        """
        return self._along(0, size[0], ceil), self._along(1, size[1], ceil)

    def _along(self, axis: int, size: int, ceil: bool) -> int:
        reach, stride = self.dilation[axis] * (self.kernel[axis] - 1) + 1, self.stride[axis]
        room = size + 2 * self.padding[axis] - reach
        if not ceil:
            return room // stride + 1
        count = -(-room // stride) + 1
        return count - 1 if (count - 1) * stride >= size + self.padding[axis] else count

    def inside(self, axis: int, size: int, outputs: int) -> npt.NDArray[np.bool_]:
        """(outputs, kernel): which taps of a window lie on the input, not on padding, along one axis.

        >>> Geometry((3, 1), (1, 1), (1, 0), (1, 1)).inside(0, 2, 2).tolist()
        [[False, True, True], [True, True, False]]
        """
        first = np.arange(outputs)[:, None] * self.stride[axis] - self.padding[axis]
        place = first + np.arange(self.kernel[axis]) * self.dilation[axis]
        return (place >= 0) & (place < size)


class Rulebook(NamedTuple):
    """Pairs of rows, where a row is one pixel of one image with all its channels.

    Attributes:
        pairs: (P, 2) int32, the rows of input and output that a tap connects, tap after tap.
        starts: (taps + 1,) int32, where the pairs of each tap begin.
        rows: rows of the input and of the output.
    """

    pairs: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int32]
    rows: tuple[int, int]


@functools.lru_cache(maxsize=256)
def rulebook(geometry: Geometry, images: int, size: tuple[int, int]) -> Rulebook:
    """The pairs of a convolution of ``images`` images of this size; taps on padding have none.

    >>> rulebook(Geometry((1, 2), (1, 1), (0, 0), (1, 1)), 1, (1, 3)).pairs.tolist()
    [[0, 0], [1, 1], [1, 0], [2, 1]]
    """
    height, width = size
    tall, wide = geometry.output(size)
    image, row, column = np.meshgrid(*(np.arange(n, dtype=np.int32) for n in (images, tall, wide)), indexing="ij")
    pairs = []
    for tap in range(geometry.taps):
        down, right = divmod(tap, geometry.kernel[1])
        y = row * geometry.stride[0] - geometry.padding[0] + down * geometry.dilation[0]
        x = column * geometry.stride[1] - geometry.padding[1] + right * geometry.dilation[1]
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        sources, targets = (image * height + y) * width + x, (image * tall + row) * wide + column
        pairs.append(np.stack([sources[inside], targets[inside]], 1))
    starts = np.cumsum([0, *(len(each) for each in pairs)]).astype(np.int32)
    rows = (images * height * width, images * tall * wide)
    return Rulebook(np.ascontiguousarray(np.concatenate(pairs), np.int32), starts, rows)
