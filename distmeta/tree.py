"""The fixed tree in which shards are added, whoever computes them and in whatever order they arrive.

Leaves are the shards 0, 1, ..., n - 1. Level by level neighbours are added pairwise, an odd one is carried up
unchanged. Floating-point addition is not associative, so only a fixed tree gives the same bits for any number of
workers. A worker that holds all the leaves below a node may add them itself and hand in the node's sum.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from distmeta.records import MetaGradient

Value = TypeVar("Value")


@dataclass(frozen=True, order=True)
class Node:
    """The subtree of leaves ``index * 2**level`` up to (not including) ``(index + 1) * 2**level``."""

    level: int
    index: int

    def leaves(self, count: int) -> range:
        """Its leaves in a tree of ``count`` leaves."""
        return range(self.index << self.level, min((self.index + 1) << self.level, count))


def cover(count: int, level: int) -> list[Node]:
    """The nodes of one level, which together hold every leaf once.

    >>> [list(node.leaves(5)) for node in cover(5, 1)]
    [[0, 1], [2, 3], [4]]
    """
    return [Node(level, index) for index in range(-(-count >> level))]


def combine(
    parts: Mapping[Node, Value] | Mapping[int, Value], count: int, add: Callable[[Value, Value], Value]
) -> Value:
    """Add the parts of a tree of ``count`` >= 1 leaves in the tree's order.

    Args:
        parts: values of nodes (or of leaves, by number) that together hold every leaf once.
        count: number of leaves.
        add: addition of two values; need not be associative.

    Raises:
        KeyError: a leaf is missing.

    >>> combine({0: "a", 1: "b", 2: "c", 3: "d", 4: "e"}, 5, lambda x, y: f"({x}{y})")
    '(((ab)(cd))e)'
    >>> combine({Node(1, 0): "(ab)", Node(1, 1): "(cd)", Node(0, 4): "e"}, 5, lambda x, y: f"({x}{y})")
    '(((ab)(cd))e)'
    """
    known = {Node(0, part) if isinstance(part, int) else part: value for part, value in parts.items()}

    def value(node: Node) -> Value:
        if node in known:
            return known[node]
        if node.level == 0:
            raise KeyError(f"shard {node.index} of {count} is missing")
        left, right = (Node(node.level - 1, 2 * node.index + side) for side in (0, 1))
        if not right.leaves(count):
            return value(left)
        return add(value(left), value(right))

    return value(Node(max(0, count - 1).bit_length(), 0))


def add(a: MetaGradient, b: MetaGradient) -> MetaGradient:
    """The sum over the tasks of both."""
    metrics = {name: total + b.metrics[name] for name, total in a.metrics.items()}
    return MetaGradient(a.vector + b.vector, a.tasks + b.tasks, metrics, a.nonfinite + b.nonfinite)
