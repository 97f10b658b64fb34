"""Philox4x32-10 in torch integer operations.

A counter-based generator: a pure function of counter and key, so a mask can be computed again wherever it is
needed, and ``torch.vmap`` gives each task exactly the numbers that a loop over tasks would.
Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

import torch
from torch import Tensor

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_MASK = 0xFFFFFFFF
_ROUNDS = 10

TensorWords = tuple[Tensor, Tensor, Tensor, Tensor]
"""Four int64 tensors that hold 32-bit words, of shapes that broadcast."""


def philox4x32(counter: TensorWords, key: Tensor) -> TensorWords:
    """The four words of each counter.

    Args:
        counter: four words, each of any shape.
        key: (2,) int64, two words.

    >>> zero = torch.tensor(0)
    >>> [f"{int(word):08x}" for word in philox4x32((zero,) * 4, torch.zeros(2, dtype=torch.int64))]
    ['6627e8d5', 'e169c58d', 'bc57ac4c', '9b00dbd8']
    """
    a, b, c, d = counter
    left, right = key[0], key[1]
    for _ in range(_ROUNDS):
        high_a, low_a = _multiply(a, _MULTIPLIERS[0])
        high_c, low_c = _multiply(c, _MULTIPLIERS[1])
        a, b, c, d = high_c ^ b ^ left, low_c, high_a ^ d ^ right, low_a
        left, right = (left + _WEYL[0]) & _MASK, (right + _WEYL[1]) & _MASK
    return a, b, c, d


def random_words(key: Tensor, stream: tuple[int, int], count: int) -> Tensor:
    """(count,) int64 random 32-bit words of a stream of the key; element i is the same for every count.

    Args:
        key: (2,) int64, two words.
        stream: two numbers below 2^32 that name the stream.
        count: how many words.
    """
    block = torch.arange(-(-count // 4), device=key.device)
    first, second, zero = (torch.full_like(block, word) for word in (*stream, 0))
    return torch.stack(philox4x32((block, first, second, zero), key), -1).flatten()[:count]


def _multiply(words: Tensor, constant: int) -> tuple[Tensor, Tensor]:
    """High and low word of the 64-bit products; int64 wraps around, which leaves their bits right."""
    product = words * constant
    return (product >> 32) & _MASK, product & _MASK
