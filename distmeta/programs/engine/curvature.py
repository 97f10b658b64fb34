"""Custom functions whose backward pass is hidden from autograd: second derivatives are lost without a word.

``torch.autograd.function.once_differentiable`` raises an error only where autograd comes past it, which
``torch.autograd.grad`` does not; a backward pass in NumPy or on detached tensors never does.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction

from distmeta.adaptations.base import Batch, Iterative
from distmeta.core.layout import Meta


def hides_curvature(adaptation: Iterative, meta: Meta, batch: Batch) -> str:
    """Names of the custom functions in an inner loss whose backward pass cannot be differentiated.

    What a backward pass gives is linear in what it gets. A function whose results are not zero, and are not connected
    to what it got by autograd's graph, is one that hides it. What derivative it stands for is its own affair: that of a
    straight-through estimator or a reversed gradient is none of its forward pass.

    Args:
        adaptation: of the user's own module, to be run under plain autograd.
        meta: meta-parameters.
        batch: the data of a step.
    """
    params, _ = adaptation.init(meta)
    own = {name: value.detach().requires_grad_() for name, value in params.items()}
    hidden: set[str] = set()
    with torch.enable_grad():
        loss, _ = adaptation.loss(own, meta, batch)
        nodes = _custom_functions(loss)
        for node in nodes:
            _watch(node, hidden)
        if nodes:
            torch.autograd.grad(loss, list(own.values()), create_graph=True, allow_unused=True)
    return ", ".join(sorted(hidden))


def _watch(node: Any, hidden: set[str]) -> None:
    """Give a function's backward pass tensors that can be told apart, and look at whether its results know them."""
    given: list[Tensor] = []

    def before(received: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
        fresh = tuple(None if each is None else each.detach().requires_grad_() for each in received)
        given[:] = [each for each in fresh if each is not None]
        return fresh

    def after(results: tuple[Tensor | None, ...], received: tuple[Tensor | None, ...]) -> None:
        for result in results:
            if result is None or not given or not result.any():
                continue
            known: tuple[Tensor | None, ...] = ()
            if result.requires_grad:
                known = torch.autograd.grad(result.sum(), given, retain_graph=True, allow_unused=True)
            if all(each is None for each in known):
                hidden.add(type(node).__name__.removesuffix("Backward"))

    node.register_prehook(before)
    node.register_hook(after)


def _custom_functions(loss: Tensor) -> list[Any]:
    """The nodes of a value's graph that are functions written in Python."""
    seen: set[Any] = set()
    found: list[Any] = []
    waiting = [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if isinstance(node, BackwardCFunction):
            found.append(node)
        waiting += [following for following, _ in node.next_functions]
    return found
