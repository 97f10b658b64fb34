"""The fixed tree: whoever adds which whole subtree, and in whatever order parts come, the bits are the same."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from distmeta.core.requests import Answer, add
from distmeta.core.tree import Add, Node, Pool, Sum, cover, share


def combine(parts: Mapping[Node, Any] | Mapping[int, Any], count: int, plus: Add[Any]) -> Any:
    """The sum of parts, nodes or leaves by number, that are all there already."""
    total = Sum(count, plus)
    for part, value in parts.items():
        total.add(Node(0, part) if isinstance(part, int) else part, value)
    return total.result()


def leaves(count: int) -> list[Tensor]:
    """float32 vectors of very different sizes, so that the order of additions shows."""
    generator = torch.Generator().manual_seed(count)
    return [
        torch.randn(16, generator=generator) * 10 ** float(4 * torch.rand(1, generator=generator)) for _ in range(count)
    ]


def plus(a: Tensor, b: Tensor, into: Tensor | None) -> Tensor:
    return torch.add(a, b, out=into)


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
        parts = {node: subtree(node, values) for node in nodes}
        before = {node: part.clone() for node, part in parts.items()}
        assert torch.equal(combine(parts, count, plus), expected)
        assert all(torch.equal(parts[node], part) for node, part in before.items())
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


def test_no_part_is_no_sum() -> None:
    with pytest.raises(KeyError, match="shard 0 of 1"):
        Sum(1, plus).result()


def test_neighbours_are_added_as_soon_as_both_are_there() -> None:
    added: list[str] = []

    def note(a: str, b: str, into: str | None) -> str:
        added.append(f"{a}+{b}")
        return a + b

    total = Sum(7, note)
    seen = []
    for leaf in (6, 1, 0, 5, 3, 4, 2):
        total.add(Node(0, leaf), str(leaf))
        seen.append(list(added))
        added.clear()
    assert seen == [[], [], ["0+1"], [], [], ["4+5", "45+6"], ["2+3", "01+23", "0123+456"]]
    assert total.result() == "0123456"


@pytest.mark.parametrize("count", [1, 2, 5, 8, 13, 64, 70])
def test_from_left_to_right_few_vectors_are_made(count: int) -> None:
    """New memory is taken for two parts alone, and a sum of sums lives in one of theirs."""
    values = leaves(count)
    made: list[int] = []

    def note(a: Tensor, b: Tensor, into: Tensor | None) -> Tensor:
        assert into is None or into is a or into is b
        assert into is None or all(into.data_ptr() != value.data_ptr() for value in values)
        made.append(into is None)
        return plus(a, b, into)

    total = Sum(count, note)
    for leaf, value in enumerate(values):
        total.add(Node(0, leaf), value)
    assert torch.equal(total.result(), levels(values))
    assert (len(made), sum(made)) == (count - 1, count // 2)
    assert all(torch.equal(value, same) for value, same in zip(values, leaves(count), strict=True))


@pytest.mark.parametrize("count", range(1, 71))
def test_shares_are_one_or_two_large_subtrees_a_worker(count: int) -> None:
    for workers in range(1, 40):
        nodes = share(count, workers)
        sizes = [len(node.leaves(count)) for node in nodes]
        assert [leaf for node in nodes for leaf in node.leaves(count)] == list(range(count))
        assert len(nodes) <= 2 * workers
        most = max(sizes[:workers]) + max(sizes[workers:], default=0)
        assert most <= 1.34 * -(-count // workers)
        if (count & (count - 1), workers & (workers - 1)) == (0, 0):
            assert len(nodes) == min(count, workers)


@pytest.mark.parametrize("count", range(1, 71))
def test_a_pool_gives_every_leaf_once_whatever_is_asked_for(count: int) -> None:
    rng = random.Random(count)
    for _ in range(10):
        pool = Pool(count, [Node((count - 1).bit_length(), 0)])
        taken: list[Node] = []
        while pool.left:
            most, before = rng.choice([1, 2, 4, 8, 32]), pool.left
            taken.append(pool.take(most))
            assert 1 <= len(taken[-1].leaves(count)) <= most
            assert before - pool.left == len(taken[-1].leaves(count))
        assert sorted(leaf for node in taken for leaf in node.leaves(count)) == list(range(count))


@pytest.mark.parametrize("count", [1, 2, 5, 8, 13])
@pytest.mark.parametrize("level", range(5))
def test_a_cover_holds_every_leaf_once(count: int, level: int) -> None:
    held = [leaf for node in cover(count, level) for leaf in node.leaves(count)]
    assert held == list(range(count))


def test_adding_gradients_adds_tasks_and_metrics_and_joins_ids() -> None:
    a = Answer({"gradient": torch.tensor([1.0, 2.0])}, {"loss": 1.5}, 2, nonfinite=(3,))
    b = Answer({"gradient": torch.tensor([0.5, 1.0])}, {"loss": 2.0}, 3, nonfinite=(7, 8))
    total = add(a, b)
    assert total.vector.tolist() == [1.5, 3.0]
    assert (total.tasks, total.sums, total.nonfinite) == (5, {"loss": 3.5}, (3, 7, 8))
    assert (a.vector.tolist(), b.vector.tolist()) == ([1.0, 2.0], [0.5, 1.0])
    again = add(total, b, total)
    assert again.vector.data_ptr() == total.vector.data_ptr()
    assert again.vector.tolist() == [2.0, 4.0]
