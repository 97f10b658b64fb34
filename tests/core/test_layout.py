"""The flat layout of meta-parameters."""

from __future__ import annotations

import pytest
import torch

from distmeta.core.layout import Layout

META = {
    "rates/b": torch.tensor(0.5),
    "model/b": torch.arange(6.0).view(2, 3),
    "model/a.weight": torch.tensor([7.0, 8.0]),
    "context/z": torch.zeros(0),
    "rates/a": torch.tensor([[9.0]]),
}


def test_names_are_sorted_whatever_the_order_they_came_in() -> None:
    layout = Layout.of(META)
    assert layout.names == ("context/z", "model/a.weight", "model/b", "rates/a", "rates/b")
    assert layout.shapes == ((0,), (2,), (2, 3), (1, 1), ())
    assert (layout.sizes, layout.size) == ([0, 2, 6, 1, 1], 10)
    assert Layout.of(dict(reversed(META.items()))) == layout


def test_flatten_by_hand_and_back() -> None:
    layout = Layout.of(META)
    vector = layout.flatten(META)
    assert vector.tolist() == [7, 8, 0, 1, 2, 3, 4, 5, 9, 0.5]
    named = layout.unflatten(vector)
    assert list(named) == list(layout.names)
    assert all(torch.equal(named[name], value) for name, value in META.items())
    both = layout.unflatten(torch.stack([vector, 2 * vector]))
    assert all(torch.equal(both[name], torch.stack([value, 2 * value])) for name, value in META.items())
    named["model/b"][1, 2] = -1.0  # views
    assert vector[7] == -1


def test_groups_are_contiguous_and_cover_everything() -> None:
    groups = Layout.of(META).groups()
    assert groups == {"context": slice(0, 0), "model": slice(0, 8), "rates": slice(8, 10)}
    # "model-x/" sorts between "model" names only if a group's names were compared without the slash.
    mixed = Layout.of({f"{group}/{name}": torch.zeros(2) for group in ("model", "model-x", "modela") for name in "ab"})
    spans = mixed.groups()
    assert sorted((span.start, span.stop) for span in spans.values()) == [(0, 4), (4, 8), (8, 12)]
    for group, span in spans.items():
        assert mixed.names[span.start // 2].split("/")[0] == group


def test_a_vector_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(RuntimeError):
        Layout.of(META).unflatten(torch.zeros(11))
