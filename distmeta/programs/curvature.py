"""Custom functions whose backward pass is hidden from autograd: second derivatives are lost without a word.

``torch.autograd.function.once_differentiable`` raises an error only where autograd comes past it, which
``torch.autograd.grad`` does not; a backward pass in NumPy or on detached tensors never does.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction

from distmeta.adaptations.base import Batch, Iterative, Params, inner_gradient
from distmeta.layout import Meta

STEP = 1e-6
"""Length of a difference, relative to the parameters."""

DIRECTIONS = 3
"""Directions, of which one must agree: others may cross the corner of a rectifier."""

AGREES = 1e-2
"""Relative distance of a derivative to a difference that is not a missing derivative."""


def hides_curvature(adaptation: Iterative, meta: Meta, batch: Batch) -> str:
    """Names of the loss's custom functions, if autograd's derivative of the inner gradient is not its derivative.

    ``d/ds g(p + s v) . v`` by autograd against a central difference. A backward pass that is not the derivative of its
    forward pass (a straight-through estimator) is a gradient ``g`` like any other.

    Args:
        adaptation: on a module in float64.
        meta: in float64.
        batch: the data of a step.
    """
    params, _ = adaptation.init(meta)
    own = {name: value.detach().requires_grad_() for name, value in params.items()}
    with torch.enable_grad():
        loss, _ = adaptation.loss(own, meta, batch)
    names = _custom_functions(loss)
    if not names or any(_turns(adaptation, own, meta, batch, seed) for seed in range(DIRECTIONS)):
        return ""
    return ", ".join(names)


def _turns(adaptation: Iterative, params: Params, meta: Meta, batch: Batch, seed: int) -> bool:
    """Whether the gradient changes along a direction as autograd says."""
    generator = torch.Generator().manual_seed(seed)
    along = {n: torch.randn(v.shape, generator=generator, dtype=v.dtype).to(v.device) for n, v in params.items()}
    with torch.enable_grad():
        slope = _dot(inner_gradient(adaptation, params, meta, batch), along)
    found, size = 0.0, abs(float(slope.detach()))
    if slope.requires_grad:
        turned = torch.autograd.grad(slope, list(params.values()), allow_unused=True, materialize_grads=True)
        found = float(_dot(dict(zip(params, turned, strict=True)), along))
    sides = []
    for step in (STEP, -STEP):
        moved = {name: value.detach() + step * along[name] for name, value in params.items()}
        sides.append(float(_dot(inner_gradient(adaptation, moved, meta, batch), along)))
    expected = (sides[0] - sides[1]) / (2 * STEP)
    return abs(found - expected) <= AGREES * max(abs(expected), abs(found), 1e-6 * size)


def _dot(a: Params, b: Params) -> Tensor:
    return torch.stack([(value * b[name]).sum() for name, value in a.items()]).sum()


def _custom_functions(loss: Tensor) -> list[str]:
    """Names of the functions written in Python that a value was computed by."""
    seen: set[Any] = set()
    names: set[str] = set()
    waiting = [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if isinstance(node, BackwardCFunction):
            names.add(type(node).__name__.removesuffix("Backward"))
        waiting += [following for following, _ in node.next_functions]
    return sorted(names)
