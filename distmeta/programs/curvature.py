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
from distmeta.layout import Meta

_ERROR = "torch::autograd::Error"
"""The autograd node that ``once_differentiable`` puts behind its results."""


def hides_curvature(adaptation: Iterative, meta: Meta, batch: Batch) -> str:
    """Names of the loss's custom functions whose backward pass leaves no graph; empty where there is none.

    A backward pass is linear in what it is given, so where that has a graph, its results have one too. What derivative
    it stands for is its own affair: that of a straight-through estimator or a reversed gradient is none of its forward
    pass.

    Args:
        adaptation: on a module.
        meta: of the module's type.
        batch: the data of a step.
    """
    params, _ = adaptation.init(meta)
    own = {name: value.detach().requires_grad_() for name, value in params.items()}
    hidden: set[str] = set()
    with torch.enable_grad():
        loss, _ = adaptation.loss(own, meta, batch)
        for node in _custom_functions(loss):
            node.register_hook(_watch(type(node).__name__.removesuffix("Backward"), hidden))
        torch.autograd.grad(loss, list(own.values()), create_graph=True, allow_unused=True)
    return ", ".join(sorted(hidden))


def _watch(name: str, hidden: set[str]) -> Any:
    """A hook that adds the name of a function whose backward pass has lost the graph."""

    def look(results: tuple[Tensor | None, ...], given: tuple[Tensor | None, ...]) -> None:
        followed = any(value is not None and value.requires_grad for value in given)
        lost = [value for value in results if value is not None and not _has_graph(value)]
        if followed and any(bool(value.any()) for value in lost):
            hidden.add(name)

    return look


def _has_graph(value: Tensor) -> bool:
    return value.grad_fn is not None and value.grad_fn.name() != _ERROR


def _custom_functions(loss: Tensor) -> list[Any]:
    """The autograd nodes of functions written in Python that a value was computed by."""
    seen: set[Any] = set()
    waiting: list[Any] = [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [following for following, _ in node.next_functions]
    return [node for node in seen if isinstance(node, BackwardCFunction)]
