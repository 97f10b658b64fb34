"""Recorded and compiled functions: the same operations without the cost of deciding on them again."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from distmeta.cache import cache_for
from distmeta.kernels.build import program, unavailable
from distmeta.plan import Compile

Function = Callable[..., Any]


def specialise(function: Function, arguments: tuple[Any, ...], how: Compile) -> Function:
    """The same function, faster, for arguments of exactly these shapes.

    ``torch.func`` decides anew about every operation in every call. ``graph`` records the operations that reach torch's
    kernels in one call, all transforms applied, and repeats these: the same bits. ``inductor`` hands the recording to
    torch's compiler, which fuses chains of elementwise operations; its cache lies in ``DISTMETA_CACHE``, unless
    ``TORCHINDUCTOR_CACHE_DIR`` names another place. Recording after the transforms, rather than letting the compiler
    look at them, leaves no derivative to its judgement.

    Args:
        function: pure, of trees of tensors, to a tree of tensors; its control flow may depend on shapes alone.
        arguments: an example of what it will be called with.
        how: ``none`` gives the function itself.
    """
    if how == "none":
        return function
    if "TORCHINDUCTOR_CACHE_DIR" not in os.environ:
        # Before anything of the compiler is imported, which would settle on a folder in /tmp.
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache_for(folder="inductor"))
    graph, structure = _record(function, arguments)
    run: Function = graph
    if how == "inductor":
        run = _compile(graph, tree_leaves(arguments))

    def call(*given: Any) -> Any:
        return tree_unflatten(list(run(*tree_leaves(given))), structure)

    return call


def _record(function: Function, arguments: tuple[Any, ...]) -> tuple[GraphModule, Any]:
    """The operations of one call as a graph from leaves to leaves, and the structure of the result."""
    leaves, given = tree_flatten(arguments)
    structure: Any = None

    def on_leaves(*values: Any) -> list[Any]:
        nonlocal structure
        results, structure = tree_flatten(function(*tree_unflatten(list(values), given)))
        return results

    graph = make_fx(on_leaves)(*leaves)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph, structure


def _compile(graph: GraphModule, leaves: list[Any]) -> Function:
    from torch import _inductor  # starts a good part of torch, which runs without it need not wait for

    if not any(leaf.is_cuda for leaf in leaves):
        own: dict[str, Any] = {} if unavailable() else {"cpp.cxx": (None, program())}  # the compiler of the kernels
        return _inductor.compile(graph, leaves, options=own)  # type: ignore[no-any-return]
    run = _inductor.compile(graph, leaves, options={"triton.cudagraphs": True})
    # A CUDA graph writes its results to the same memory in every call.
    return lambda *given: tree_map(torch.clone, list(run(*given)))
