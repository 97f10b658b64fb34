"""Operations that a recording holds more than once, which it then computes once."""

from __future__ import annotations

import operator
from typing import Any, cast

import torch
from torch.fx import Graph, Node
from torch.fx.node import map_arg

from distmeta.programs.engine.views import is_view, looked_at


def drop_duplicates(graph: Graph) -> None:
    """Leave each operation once with the same arguments: derivatives of a function share its values.

    Results have the bits that they had, and memory of their own. What is computed twice so that it need not be kept
    between is kept: this is not for recordings that save memory in that way. Those that write to memory or draw
    numbers stay as they are.
    """
    if not all(_is_pure(node) for node in graph.nodes):
        return
    results = {_owner(node) for node in graph.output_node().all_input_nodes}
    first: dict[Any, Node] = {}
    for node in list(graph.nodes):
        if node.op not in ("call_function", "get_attr") or _owner(node) in results:
            continue
        found = first.setdefault(_identity(node), node)
        if found is not node:
            node.replace_all_uses_with(found)
            graph.erase_node(node)


def _is_pure(node: Node) -> bool:
    schema, tags = getattr(node.target, "_schema", None), getattr(node.target, "tags", ())
    return not (schema is not None and schema.is_mutable) and torch.Tag.nondeterministic_seeded not in tags


def _owner(node: Node) -> Node:
    """What owns the memory of a node's result, through views of every kind."""
    while node.op == "call_function" and (node.target is operator.getitem or _shares_memory(node)):
        node = cast(Node, node.args[0])
    return node


def _shares_memory(node: Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and any(argument.alias_info is not None for argument in schema.arguments)


def _identity(node: Node) -> Any:
    """What two nodes with the same result have in common."""
    if is_view(node):
        return looked_at(node)
    seen: Any = _Seen
    return node.op, node.target, repr(map_arg(node.args, seen)), repr(map_arg(node.kwargs, seen))


class _Seen:
    """An argument, told by what owns its memory and how that is seen."""

    def __init__(self, argument: Node) -> None:
        self._seen = looked_at(argument) if is_view(argument) else (argument, None)

    def __repr__(self) -> str:
        return str(self._seen)
