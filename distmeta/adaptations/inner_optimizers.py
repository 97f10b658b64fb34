"""Differentiable inner optimizers: pure, fresh a task, state in and state out.

Each maps ``(gradient, state, step)`` to a direction per parameter; gradient descent then moves by
``-rate * direction``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

Tree = Mapping[str, Tensor]
State = Mapping[str, Tree]


class InnerOptimizer(Protocol):
    """Turns gradients into directions."""

    def init(self, params: Tree) -> State:
        """State before the first step."""
        ...

    def direction(self, gradient: Tree, state: State, step: int) -> tuple[Tree, State]:
        """Direction of step ``step`` (0, 1, ...) and the state after it."""
        ...


class SGD:
    """Direction ``g``."""

    def init(self, params: Tree) -> State:
        """No state."""
        return {}

    def direction(self, gradient: Tree, state: State, step: int) -> tuple[Tree, State]:
        """The gradient itself."""
        return gradient, state


class Momentum:
    """Direction ``m``, where ``m <- momentum * m + g`` (as in ``torch.optim.SGD``)."""

    def __init__(self, momentum: float) -> None:
        self.momentum = momentum

    def init(self, params: Tree) -> State:
        """Zero velocity."""
        return {"velocity": {name: torch.zeros_like(value) for name, value in params.items()}}

    def direction(self, gradient: Tree, state: State, step: int) -> tuple[Tree, State]:
        """The new velocity."""
        velocity = {name: self.momentum * state["velocity"][name] + g for name, g in gradient.items()}
        return velocity, {"velocity": velocity}


class Adam:
    """Direction ``m_hat / sqrt(v_hat + eps^2)`` (Kingma and Ba 2015, with ``eps`` inside the root).

    Inside the root the direction has a finite derivative where a gradient is exactly zero (a dead ReLU); outside, the
    root's infinite slope times zero gives NaN meta-gradients.
    """

    def __init__(self, betas: tuple[float, float], eps: float) -> None:
        self.betas = betas
        self.eps = eps

    def init(self, params: Tree) -> State:
        """Zero moments."""
        zeros = {name: torch.zeros_like(value) for name, value in params.items()}
        return {"first": zeros, "second": dict(zeros)}

    def direction(self, gradient: Tree, state: State, step: int) -> tuple[Tree, State]:
        """Bias-corrected Adam direction."""
        b1, b2 = self.betas
        first = {name: b1 * state["first"][name] + (1 - b1) * g for name, g in gradient.items()}
        second = {name: b2 * state["second"][name] + (1 - b2) * g * g for name, g in gradient.items()}
        c1, c2 = 1 - b1 ** (step + 1), 1 - b2 ** (step + 1)
        direction = {name: (first[name] / c1) * (second[name] / c2 + self.eps**2).rsqrt() for name in first}
        return direction, {"first": first, "second": second}
