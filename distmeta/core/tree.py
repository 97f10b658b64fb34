"""The fixed tree in which shards are added, whoever computes them and in whatever order they arrive.

Leaves are the shards 0, 1, ..., n - 1. Level by level neighbours are added pairwise, an odd one is carried up
unchanged. Floating-point addition is not associative, so only a fixed tree gives the same bits for any number of
workers. A worker that holds all the leaves below a node may add them itself and hand in the node's sum.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

Value = TypeVar("Value")


@dataclass(frozen=True, order=True)
class Node:
    """The subtree of leaves ``index * 2**level`` up to (not including) ``(index + 1) * 2**level``."""

    level: int
    index: int

    def leaves(self, count: int) -> range:
        """Its leaves in a tree of ``count`` leaves."""
        return range(self.index << self.level, min((self.index + 1) << self.level, count))

    def halves(self) -> tuple[Node, Node]:
        """The two subtrees below it; the second may have no leaves."""
        return Node(self.level - 1, 2 * self.index), Node(self.level - 1, 2 * self.index + 1)


def cover(count: int, level: int) -> list[Node]:
    """The nodes of one level, which together hold every leaf once.

    >>> [list(node.leaves(5)) for node in cover(5, 1)]
    [[0, 1], [2, 3], [4]]
    """
    return [Node(level, index) for index in range(-(-count >> level))]


def share(count: int, workers: int) -> list[Node]:
    """The fewest large subtrees that share ``count`` leaves out evenly: at most two for each worker.

    First the largest that every worker can have one of, then the rest, cut to at most one more for each. Where both
    numbers are powers of two this is one subtree a worker.

    >>> [list(node.leaves(8)) for node in share(8, 2)]
    [[0, 1, 2, 3], [4, 5, 6, 7]]
    >>> [list(node.leaves(8)) for node in share(8, 3)]
    [[0, 1], [2, 3], [4, 5], [6], [7]]
    """
    level = max(0, (count // workers).bit_length() - 1)
    nodes = cover(count, level)
    first = min(workers, len(nodes))
    rest = count - (first << level)
    if rest > 0:
        # Each of the rest is as small as still leaves no worker more than one of them.
        smaller = max(0, -(-rest // workers) - 1).bit_length()
        nodes = nodes[:first] + cover(count, smaller)[first << (level - smaller) :]
    return nodes


class Pool:
    """Subtrees that nobody has taken yet. What is too large is halved as it is taken, so every leaf is taken once.

    Attributes:
        left: leaves in it.

    >>> pool = Pool(7, [Node(3, 0)])
    >>> [list(pool.take(size).leaves(7)) for size in (2, 1, 4, 4)]
    [[0, 1], [2], [4, 5, 6], [3]]
    """

    def __init__(self, count: int, nodes: Sequence[Node]) -> None:
        self._count = count
        self._free: list[list[int]] = [[] for _ in range(1 + max((node.level for node in nodes), default=0))]
        self.left = 0
        for node in nodes:
            self.put(node)

    def take(self, most: int) -> Node:
        """The largest subtree of at most ``most`` leaves that halving gives; of several, the leftmost."""
        wanted = most.bit_length() - 1
        levels = [*range(wanted, len(self._free)), *range(min(wanted, len(self._free)) - 1, -1, -1)]
        level = next(level for level in levels if self._free[level])
        node = Node(level, heapq.heappop(self._free[level]))
        self.left -= len(node.leaves(self._count))
        while node.level > wanted:
            node, right = node.halves()
            if right.leaves(self._count):
                self.put(right)
        return node

    def put(self, node: Node) -> int:
        """Add a subtree that nobody has taken, or that was given back; gives the number of its leaves."""
        self._free += [[] for _ in range(len(self._free), node.level + 1)]
        heapq.heappush(self._free[node.level], node.index)
        leaves = len(node.leaves(self._count))
        self.left += leaves
        return leaves


class Add(Protocol[Value]):
    """Addition of two values, which need not be associative. ``into`` is one of them if its memory may be reused."""

    def __call__(self, a: Value, b: Value, into: Value | None) -> Value:
        """The sum of ``a`` and ``b``."""
        ...


class Sum(Generic[Value]):
    """Adds the parts of a tree of ``count`` >= 1 leaves in the tree's order, each as soon as its neighbour is there.

    Parts come in any order: nodes that together hold every leaf once. They are never written to; sums of two parts are
    reused, so as few values live at a time as the order of arrival allows (about log2 of the number of parts if they
    come from left to right).

    >>> total = Sum(5, lambda a, b, into: f"({a}{b})")
    >>> for node, value in [(Node(0, 4), "e"), (Node(0, 1), "b"), (Node(1, 1), "(cd)"), (Node(0, 0), "a")]:
    ...     total.add(node, value)
    >>> total.result()
    '(((ab)(cd))e)'
    """

    def __init__(self, count: int, add: Add[Value]) -> None:
        self._count = count
        self._add = add
        self._root = Node(max(0, count - 1).bit_length(), 0)
        self._waiting: dict[Node, tuple[Value, bool]] = {}

    def add(self, node: Node, value: Value) -> None:
        """Take in the value of a node."""
        ours = False  # whether nobody else knows the value
        while node != self._root:
            beside = Node(node.level, node.index ^ 1)
            if beside.leaves(self._count):
                if beside not in self._waiting:
                    break
                other, others_ours = self._waiting.pop(beside)
                into = value if ours else other if others_ours else None
                a, b = (value, other) if node < beside else (other, value)
                value, ours = self._add(a, b, into), True
            node = Node(node.level + 1, node.index // 2)
        self._waiting[node] = value, ours

    def result(self) -> Value:
        """The sum of all leaves.

        Raises:
            KeyError: a leaf is missing.
        """
        if self._root not in self._waiting:
            held = {leaf for node in self._waiting for leaf in node.leaves(self._count)}
            missing = next(leaf for leaf in range(self._count) if leaf not in held)
            raise KeyError(f"shard {missing} of {self._count} is missing")
        return self._waiting[self._root][0]
