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


def shortened(recorded: GraphModule) -> GraphModule:
    """The same operations with every chain of views replaced by one ``as_strided``, or by nothing.

    ``torch.func`` moves the dimension of tasks before and after most operations: two thirds of what is recorded are
    views that compute nothing, and take longer than what they surround where networks are small.

    What an operation is given has the shape, strides and memory that it had, so that its bits are the same, as long as
    the arguments have the strides that they had when they were recorded.
    """
    graph = Graph()
    copies: dict[Node, Node] = {}
    origins: dict[Node, Node] = {}  # of a view: what owns the memory
    looks: dict[Any, Node] = {}

    def look(node: Node) -> Node:
        """What stands for a node among the arguments of an operation."""
        if node not in origins:
            return copies[node]
        origin, geometry = origins[node], _geometry(node)
        if geometry == _geometry(origin):
            return copies[origin]
        if (origin, geometry) not in looks:
            looks[origin, geometry] = graph.call_function(torch.as_strided, (copies[origin], *geometry))
        return looks[origin, geometry]

    for node in recorded.graph.nodes:
        if node.op == "call_function" and node.target in VIEWS:
            of = cast(Node, node.args[0])
            origins[node] = origins.get(of, of)
        else:
            copies[node] = graph.node_copy(node, look)
    return GraphModule(recorded, graph)


def _geometry(node: Node) -> tuple[tuple[int, ...], tuple[int, ...]]:
    value = node.meta["val"]
    return tuple(value.shape), tuple(value.stride())
