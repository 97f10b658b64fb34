from __future__ import annotations

import itertools

import numpy as np
import pytest

from distmeta.core.philox import Purpose, distinct, integers, keys, minibatches, philox, uniform, words
from distmeta.core.records import SPLITS

# Random123's tests/kat_vectors, the lines "philox4x32 10": counter, key, result.
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]
IDS = [0, 1, 2**32 - 1, 2**32, 2**62 + 12345, 2**63]


def _hex(text: str) -> np.ndarray:
    return np.array([int(word, 16) for word in text.split()], dtype=np.uint32)


def _chi_square(observed: np.ndarray) -> float:
    """Standard deviations between the statistic and its mean, for many equally likely cells."""
    expected = observed.sum() / observed.size
    statistic = ((observed - expected) ** 2 / expected).sum()
    return float((statistic - (observed.size - 1)) / np.sqrt(2 * (observed.size - 1)))


def test_known_answers_one_by_one_and_together():
    counters, all_keys, results = (np.stack([_hex(row[i]) for row in KNOWN]) for i in range(3))
    for counter, key, result in zip(counters, all_keys, results, strict=True):
        assert (philox(counter, key) == result).all()
    assert (philox(counters, all_keys) == results).all()
    assert (philox(counters[:, None], all_keys)[[0, 1, 2], [0, 1, 2]] == results).all()


def test_words_are_the_documented_counters():
    seed, task = 2**63 - 5, 2**62 + 99
    got = words(seed, "validation", [task], Purpose.MINIBATCH, 6)
    assert got.dtype == np.uint32
    key = np.array([seed % 2**32, seed >> 32], dtype=np.uint32)
    blocks = [philox(np.array([block, 4 << 8 | 1, task % 2**32, task >> 32], dtype=np.uint32), key) for block in (0, 1)]
    assert got[0].tolist() == np.concatenate(blocks)[:6].tolist()


def test_purposes_keep_their_values():
    names = (
        "CLASSES EXAMPLES PARAMETERS INPUTS MINIBATCH DROPOUT INIT PERTURBATION PARTITION STROKES JITTER RATES "
        "AUGMENT_SUPPORT AUGMENT_QUERY DROP_SUPPORT DROP_QUERY SIZES ACTIONS RESETS TRANSITIONS"
        " DIRECTIONS"
    )
    assert {purpose.name: purpose.value for purpose in Purpose} == {n: i for i, n in enumerate(names.split())}


@pytest.mark.parametrize("seed", [0, 1, 2**63])
def test_a_task_does_not_depend_on_its_batch(seed):
    together = words(seed, "train", IDS, Purpose.CLASSES, 7)
    for row, task in zip(together, IDS, strict=True):
        assert (words(seed, "train", [task], Purpose.CLASSES, 7)[0] == row).all()
        assert (words(seed, "train", [task], Purpose.CLASSES, 3)[0] == row[:3]).all()


def test_seed_split_id_and_purpose_all_matter():
    rows = {
        tuple(words(seed, split, [task], purpose, 4)[0].tolist())
        for seed, split, task, purpose in itertools.product([0, 1, 2**32], SPLITS, IDS, Purpose)
    }
    assert len(rows) == 3 * len(SPLITS) * len(IDS) * len(Purpose)


def test_uniform_and_integers_are_uniform():
    drawn = words(3, "train", range(2000), Purpose.INPUTS, 50)
    fractions = uniform(drawn)
    assert fractions.dtype == np.float64
    assert 0 <= fractions.min() < 1e-4
    assert 1 - 1e-4 < fractions.max() < 1
    assert abs(_chi_square(np.histogram(fractions, bins=100, range=(0, 1))[0])) < 4
    numbers = integers(drawn, 37)
    assert numbers.dtype == np.int64
    assert abs(_chi_square(np.bincount(numbers.reshape(-1), minlength=37))) < 4


def test_integers_reach_both_ends():
    ends = np.array([0, 2**32 - 1], dtype=np.uint32)
    assert integers(ends, 4400).tolist() == [0, 4399]
    assert integers(ends, 2**32).tolist() == [0, 2**32 - 1]
    assert integers(ends, np.array([1, 2])).tolist() == [0, 1]


def _fisher_yates(row: np.ndarray, n: int) -> list[int]:
    deck = list(range(n))
    for step, word in enumerate(row.tolist()):
        partner = step + (word * (n - step) >> 32)
        deck[step], deck[partner] = deck[partner], deck[step]
    return deck[: len(row)]


@pytest.mark.parametrize(("n", "k"), [(1, 1), (5, 5), (20, 16), (64, 3), (65, 3), (100, 60), (121, 60), (4400, 60)])
def test_distinct_is_a_fisher_yates_shuffle(n, k):
    drawn = words(5, "test", range(40), Purpose.CLASSES, k)
    chosen = distinct(drawn, n)
    assert chosen.shape == (40, k)
    assert chosen.dtype == np.int64
    assert [row.tolist() for row in chosen] == [_fisher_yates(row, n) for row in drawn]
    assert all(len(set(row)) == k for row in chosen.tolist())


@pytest.mark.parametrize("limits", [[3, 20, 7], [3, 500, 70]])
def test_distinct_takes_a_limit_for_each_row(limits):
    drawn = words(5, "test", range(3), Purpose.EXAMPLES, 3)
    chosen = distinct(drawn, np.array(limits))
    assert [row.tolist() for row in chosen] == [_fisher_yates(d, n) for d, n in zip(drawn, limits, strict=True)]


def test_distinct_refuses_more_than_there_are():
    with pytest.raises(ValueError, match="cannot choose 3 distinct numbers of 2"):
        distinct(words(0, "train", [0], Purpose.CLASSES, 3), 2)


@pytest.mark.parametrize("n", [5, 70])
def test_ordered_choices_are_equally_likely(n):
    chosen = distinct(words(11, "train", range(60_000), Purpose.CLASSES, 2), n)
    pairs = np.bincount(chosen[:, 0] * n + chosen[:, 1], minlength=n * n).reshape(n, n)
    assert np.diag(pairs).sum() == 0
    assert abs(_chi_square(pairs[~np.eye(n, dtype=bool)])) < 4


def test_minibatches_go_through_whole_epochs_and_fill_across_their_ends():
    ids = [3, 2**40]
    batches = minibatches(7, "train", ids, examples=10, steps=9, size=4)
    assert batches.shape == (2, 9, 4)
    assert batches.dtype == np.int64
    for task in range(2):
        stream = batches[task].reshape(-1)
        for epoch in range(3):
            assert sorted(stream[10 * epoch : 10 * epoch + 10].tolist()) == list(range(10))
    assert not (batches[0] == batches[1]).all()
    assert (minibatches(7, "train", ids[1:], 10, 9, 4)[0] == batches[1]).all()
    assert (minibatches(7, "train", ids, 10, 3, 4) == batches[:, :3]).all()


def test_minibatches_are_never_larger_than_the_support_set():
    batches = minibatches(0, "train", range(3), examples=5, steps=4, size=10)
    assert batches.shape == (3, 4, 5)
    assert (np.sort(batches, axis=-1) == np.arange(5)).all()


def test_keys_are_32_bit_words_of_their_own():
    got = keys(1, "train", IDS, Purpose.DROPOUT)
    assert got.shape == (len(IDS), 2)
    assert got.dtype == np.int64
    assert got.min() >= 0
    assert got.max() < 2**32
    assert len(np.unique(got, axis=0)) == len(IDS)
    assert (keys(1, "train", IDS[2:3], Purpose.DROPOUT)[0] == got[2]).all()
