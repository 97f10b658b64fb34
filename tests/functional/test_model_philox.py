"""Known answers of Random123's philox4x32_10."""

import pytest
import torch

from distmeta.core.tensor_philox import philox4x32, random_words


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ("00000000 " * 4, "00000000 " * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff " * 4, "ffffffff " * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            "243f6a88 85a308d3 13198a2e 03707344",
            "a4093822 299f31d0",
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_known_answers(counter, key, expected):
    words = tuple(torch.tensor(int(word, 16)) for word in counter.split())
    answer = philox4x32(words, torch.tensor([int(word, 16) for word in key.split()]))
    assert [int(word) for word in answer] == [int(word, 16) for word in expected.split()]


def test_words_do_not_depend_on_how_many_are_drawn():
    key = torch.tensor([5, 6])
    words = random_words(key, (1, 2), 1001)
    assert words.shape == (1001,)
    assert torch.equal(random_words(key, (1, 2), 10), words[:10])
    assert not torch.equal(random_words(key, (2, 1), 1001), words)
    assert 0 <= int(words.min()) < 2**23
    assert 2**32 - 2**23 < int(words.max()) < 2**32


def test_mapped_over_keys_is_looped():
    keys = torch.tensor([[1, 2], [2**32 - 1, 0], [7, 2**31]])
    mapped = torch.vmap(lambda key: random_words(key, (3, 4), 9))(keys)
    assert torch.equal(mapped, torch.stack([random_words(key, (3, 4), 9) for key in keys]))
