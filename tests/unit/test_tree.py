"""The fixed tree: whoever adds which whole subtree, and in whatever order parts come, the bits are the same."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from distmeta.records import MetaGradient
from distmeta.tree import Node, add, combine, cover


def leaves(count: int) -> list[Tensor]:
    """float32 vectors of very different sizes, so that the order of additions shows."""
    generator = torch.Generator().manual_seed(count)
    return [
        torch.randn(16, generator=generator) * 10 ** float(4 * torch.rand(1, generator=generator)) for _ in range(count)
    ]


def plus(a: Tensor, b: Tensor) -> Tensor:
    return a + b


def full(values: list[Tensor]) -> Tensor:
    return combine(dict(enumerate(values)), len(values), plus)


def levels(values: list[Tensor]) -> Tensor:
    """The tree again, written as its definition reads: neighbours pairwise, level by level, an odd one carried up."""
    while len(values) > 1:
        pairs = [values[i] + values[i + 1] for i in range(0, len(values) - 1, 2)]
        values = pairs + values[len(values) - len(values) % 2 :]
    return values[0]


def random_cover(count: int, rng: random.Random) -> list[Node]:
    """Nodes that hold every leaf once: from the root down, a node is taken or split at random."""
    taken, open_nodes = [], [Node((count - 1).bit_length(), 0)]
    while open_nodes:
        node = open_nodes.pop()
        if node.level == 0 or rng.random() < 0.4:
            taken.append(node)
            continue
        halves = [Node(node.level - 1, 2 * node.index + side) for side in (0, 1)]
        open_nodes += [half for half in halves if half.leaves(count)]
    return taken


def subtree(node: Node, values: list[Tensor]) -> Tensor:
    """What a worker that holds a node's leaves hands in: their sum in a tree of these leaves alone."""
    return full([values[leaf] for leaf in node.leaves(len(values))])


@pytest.mark.parametrize("count", range(1, 71))
def test_any_cover_in_any_order_is_the_full_tree(count: int) -> None:
    values, rng = leaves(count), random.Random(count)
    expected = full(values)
    assert torch.equal(expected, levels(values))
    for _ in range(10):
        nodes = random_cover(count, rng)
        assert sorted(leaf for node in nodes for leaf in node.leaves(count)) == list(range(count))
        rng.shuffle(nodes)
        assert torch.equal(combine({node: subtree(node, values) for node in nodes}, count, plus), expected)
    for level in range((count - 1).bit_length() + 1):
        parts = {node: subtree(node, values) for node in cover(count, level)}
        assert torch.equal(combine(parts, count, plus), expected)


def test_a_sum_from_left_to_right_differs() -> None:
    """So the equality above is no accident."""
    different = 0
    for count in range(4, 71):
        values = leaves(count)
        total = values[0]
        for value in values[1:]:
            total = total + value
        different += not torch.equal(total, full(values))
    assert different > 60


@pytest.mark.parametrize("missing", range(5))
def test_a_missing_shard_is_named(missing: int) -> None:
    parts = {i: torch.zeros(1) for i in range(5) if i != missing}
    with pytest.raises(KeyError, match=f"shard {missing} of 5"):
        combine(parts, 5, plus)


@pytest.mark.parametrize("count", [1, 2, 5, 8, 13])
@pytest.mark.parametrize("level", range(5))
def test_a_cover_holds_every_leaf_once(count: int, level: int) -> None:
    held = [leaf for node in cover(count, level) for leaf in node.leaves(count)]
    assert held == list(range(count))


def test_adding_gradients_adds_tasks_and_metrics_and_joins_ids() -> None:
    a = MetaGradient(torch.tensor([1.0, 2.0]), 2, {"loss": 1.5}, (3,))
    b = MetaGradient(torch.tensor([0.5, 1.0]), 3, {"loss": 2.0}, (7, 8))
    total = add(a, b)
    assert total.vector.tolist() == [1.5, 3.0]
    assert (total.tasks, total.metrics, total.nonfinite) == (5, {"loss": 3.5}, (3, 7, 8))
