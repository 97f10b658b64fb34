"""Views in a recording: chains of them, which most of its operations are, become one look at memory each."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch.fx import Graph, GraphModule, Node

aten = torch.ops.aten
VIEWS = {
    aten.alias.default,
    aten.detach.default,
    aten.expand.default,
    aten.permute.default,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.t.default,
    aten.transpose.int,
    aten.unsqueeze.default,
    aten.view.default,
    aten._unsafe_view.default,
}
"""Operations whose result begins where their argument does, and shares its memory."""


Strided = tuple[tuple[int, ...], tuple[int, ...]]
"""Shape and strides."""


def shortened(recorded: GraphModule) -> GraphModule:
    """The same operations with every chain of views replaced by one ``as_strided``, or by nothing.

    ``torch.func`` moves the dimension of tasks before and after most operations: two thirds of what is recorded are
    views that compute nothing, and take longer than what they surround where networks are small.

    What an operation is given has the shape, strides and memory that it had, so that its bits are the same, as long as
    the arguments have the strides that they had when they were recorded.
    """
    graph = Graph()
    copies: dict[Node, Node] = {}
    looks: dict[Any, Node] = {}

    def look(node: Node) -> Node:
        """What stands for a node among the arguments of an operation."""
        if not is_view(node):
            return copies[node]
        origin, seen = looked_at(node)
        if seen is None:
            return copies[origin]
        if (origin, seen) not in looks:
            looks[origin, seen] = graph.call_function(torch.as_strided, (copies[origin], *seen))
        return looks[origin, seen]

    for node in recorded.graph.nodes:
        if not is_view(node):
            copies[node] = graph.node_copy(node, look)
    return GraphModule(recorded, graph)


def is_view(node: Node) -> bool:
    """Whether a node is one of :data:`VIEWS`."""
    return node.op == "call_function" and node.target in VIEWS


def looked_at(view: Node) -> tuple[Node, Strided | None]:
    """What owns the memory of a chain of views that ends here, and how the view sees it; ``None``: as it is."""
    origin = view
    while is_view(origin):
        origin = cast(Node, origin.args[0])
    geometry = _geometry(view)
    return origin, None if geometry == _geometry(origin) else geometry


def _geometry(node: Node) -> Strided:
    value = node.meta["val"]
    return tuple(value.shape), tuple(value.stride())
