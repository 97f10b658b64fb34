"""Randomness by name: Philox4x32-10, counted by task id, vectorised in NumPy.

NumPy does not promise its streams between versions, so the generator is our own. It is a pure function of a
counter and a key (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011): the
key is the seed, the counter names (block, purpose, split, task id). What a task gets therefore never depends
on the tasks that stand beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum, unique

import numpy as np
from numpy.typing import NDArray

from distmeta.core.records import SPLITS, Split

_MULTIPLIERS = np.array([[0xD2511F53], [0xCD9E8D57]], dtype=np.uint64)
_WEYL = np.array([0x9E3779B9, 0xBB67AE85], dtype=np.uint64)
_ROUNDS = np.arange(10, dtype=np.uint64)
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)

Integers = NDArray[np.int64]
Words = NDArray[np.uint32]


@unique
class Purpose(IntEnum):
    """What random words are for. The values are part of every task's content: never change or reuse one."""

    CLASSES = 0
    EXAMPLES = 1
    PARAMETERS = 2
    INPUTS = 3
    MINIBATCH = 4
    DROPOUT = 5
    INIT = 6
    PERTURBATION = 7
    PARTITION = 8
    STROKES = 9
    JITTER = 10
    RATES = 11
    AUGMENT_SUPPORT = 12
    AUGMENT_QUERY = 13
    DROP_SUPPORT = 14
    DROP_QUERY = 15
    SIZES = 16
    ACTIONS = 17
    RESETS = 18
    TRANSITIONS = 19
    DIRECTIONS = 20


def philox(counter: NDArray[np.unsignedinteger], key: NDArray[np.unsignedinteger]) -> Words:
    """Ten rounds of Philox4x32.

    A round maps (c0, c1, c2, c3) to (hi(M1 c2) ^ c1 ^ k0, lo(M1 c2), hi(M0 c0) ^ c3 ^ k1, lo(M0 c0)).

    Args:
        counter: (..., 4), values below 2**32.
        key: (..., 2), values below 2**32; its leading dimensions broadcast to those of the counter.

    Returns:
        (..., 4) uint32.

    >>> [hex(word) for word in philox(np.zeros(4, np.uint32), np.zeros(2, np.uint32))]
    ['0x6627e8d5', '0xe169c58d', '0xbc57ac4c', '0x9b00dbd8']
    """
    shape = np.broadcast_shapes(counter.shape[:-1], key.shape[:-1])
    words = np.broadcast_to(counter, (*shape, 4)).reshape(-1, 4).T.astype(np.uint64)
    # Pairs (c0, c2) and (c1, c3), so that one operation serves both halves of a round.
    even, odd = words[0::2], words[1::2]
    start = key.reshape(-1, 2) if key.ndim == 1 else np.broadcast_to(key, (*shape, 2)).reshape(-1, 2)
    keys = (start.astype(np.uint64) + _ROUNDS[:, None, None] * _WEYL & _LOW).transpose(0, 2, 1)
    for round_key in keys:
        product = even * _MULTIPLIERS
        even = product[::-1] >> _HALF
        even ^= odd
        even ^= round_key
        odd = product[::-1] & _LOW
    result = np.empty((even.shape[1], 4), dtype=np.uint32)
    result[:, 0::2] = even.T
    result[:, 1::2] = odd.T
    return result.reshape(*shape, 4)


def words(seed: int, split: Split, ids: Sequence[int], purpose: Purpose, count: int, part: int = 0) -> Words:
    """Random 32-bit words of some tasks.

    Args:
        seed: 0 ... 2**64 - 1, the key.
        split: which distribution the ids belong to.
        ids: T task ids, each 0 ... 2**64 - 1.
        purpose: what the words are for.
        count: words a task; the first words of a longer draw equal those of a shorter one.
        part: 0 ... 2**16 - 1, which of several draws for this purpose.

    Returns:
        (T, count) uint32: row t depends on (seed, split, ids[t], purpose, part) alone.

    >>> both = words(7, "train", [3, 2**62], Purpose.CLASSES, 5)
    >>> bool((both[1:] == words(7, "train", [2**62], Purpose.CLASSES, 5)).all())
    True
    """
    names = np.array(ids, dtype=np.uint64)
    blocks = -(-count // 4)
    counter = np.empty((len(names), blocks, 4), dtype=np.uint64)
    counter[..., 0] = np.arange(blocks)
    counter[..., 1] = part << 16 | purpose << 8 | SPLITS.index(split)
    counter[..., 2] = (names & _LOW)[:, None]
    counter[..., 3] = (names >> _HALF)[:, None]
    key = np.array([seed & 0xFFFFFFFF, seed >> 32], dtype=np.uint64)
    return philox(counter, key).reshape(len(names), 4 * blocks)[:, :count]


def uniform(words: Words) -> NDArray[np.float64]:
    """Numbers in [0, 1), multiples of 2**-32, of the words' shape."""
    return words.astype(np.float64) * 2.0**-32


def fractions(words: Words) -> NDArray[np.float32]:
    """Numbers in [0, 1), multiples of 2**-24, of the words' shape: in float32 those of :func:`uniform` may be 1.

    >>> fractions(np.array([0, 2**31, 2**32 - 1], np.uint32)).tolist()
    [0.0, 0.5, 0.9999999403953552]
    """
    drawn: NDArray[np.float32] = (words >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)
    return drawn


def normal(words: Words) -> NDArray[np.float64]:
    """Standard normal numbers, of the words' shape, whose last dimension is even (Box and Muller 1958).

    >>> drawn = normal(words(0, "train", [0], Purpose.ACTIONS, 100_000))
    >>> bool(abs(drawn.mean()) < 0.01 and abs(drawn.std() - 1) < 0.01)
    True
    """
    first, second = np.split(words.astype(np.float64), 2, axis=-1)
    radius, angle = np.sqrt(-2 * np.log((first + 1) * 2.0**-32)), 2 * np.pi * 2.0**-32 * second
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)


def integers(words: Words, n: int | Integers) -> Integers:
    """Whole numbers 0 ... n - 1 by multiply and shift, ``word * n >> 32``.

    ``n`` is at most 2**32 and broadcasts against the words. Without rejection the probabilities differ from
    1/n by less than 2**-32 each, a relative bias below n / 2**32: one in a million for n = 4,400.
    """
    product: NDArray[np.uint64] = words.astype(np.uint64) * np.asarray(n).astype(np.uint64)
    bounded: Integers = (product >> _HALF).astype(np.int64)
    return bounded


def distinct(words: Words, n: int | Integers) -> Integers:
    """k distinct numbers of 0 ... n - 1 in random order, a row of words each: a partial Fisher-Yates shuffle.

    Args:
        words: (T, k) uint32.
        n: how many numbers there are to choose from, at least k; one for all rows or (T,) one for each.

    Returns:
        (T, k) int64; every ordered choice has the same probability, up to the bias of :func:`integers`.
    """
    rows, k = words.shape
    steps = np.arange(k)
    limits = np.broadcast_to(np.asarray(n, dtype=np.int64), (rows,))
    if rows and limits.min() < k:
        raise ValueError(f"cannot choose {k} distinct numbers of {limits.min()}")
    partners = steps + integers(words, limits[:, None] - steps)
    widest = int(limits.max(initial=k))
    if widest <= max(64, 2 * k):
        width = widest
        table = np.tile(np.arange(width), (rows, 1))
        places = partners
    else:
        # At most 2 k positions are ever touched: 0 ... k - 1 and the partners. Only these get a place.
        width = 2 * k
        table = np.concatenate([np.tile(steps, (rows, 1)), partners], axis=1)
        same = partners[:, :, None] == partners[:, None, :]
        places = np.where(partners < k, partners, k + same.argmax(-1))
    flat = table.reshape(-1)
    places = np.ascontiguousarray((places + width * np.arange(rows)[:, None]).T)
    chosen: Integers = np.empty((k, rows), dtype=np.int64)
    for step in range(k):
        flat.take(places[step], out=chosen[step], mode="clip")
        flat[places[step]] = table[:, step]
    return np.transpose(chosen)


def minibatches(seed: int, split: Split, ids: Sequence[int], examples: int, steps: int, size: int) -> Integers:
    """Which examples each inner step of each task sees, as in Reptile's released ``_mini_batches``.

    A task goes through a fresh permutation of its examples each epoch; the epochs are laid end to end and cut
    into batches. A batch is filled across the end of an epoch, so such a batch may hold an example twice.
    (Only the order is drawn differently: by the task's id.)

    Returns:
        (T, steps, min(size, examples)) int64.

    >>> minibatches(0, "train", [5], examples=4, steps=2, size=2).reshape(-1).tolist()
    [3, 1, 0, 2]
    """
    size = min(size, examples)
    epochs = -(-steps * size // examples)
    drawn = words(seed, split, ids, Purpose.MINIBATCH, epochs * examples)
    order = distinct(drawn.reshape(-1, examples), examples).reshape(len(drawn), -1)
    return order[:, : steps * size].reshape(len(drawn), steps, size)


def keys(seed: int, split: Split, ids: Sequence[int], purpose: Purpose) -> Integers:
    """(T, 2) int64 of 32-bit words: a key of its own for each task, for generators that run elsewhere."""
    return words(seed, split, ids, purpose, 2).astype(np.int64)
