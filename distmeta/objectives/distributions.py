"""The distribution of actions that a policy's outputs stand for.

Outputs (N, 2 A), means and logarithms of standard deviations, are a diagonal Gaussian of A numbers; outputs (N, C) are
logits of C actions. Which of them, the type of the actions says: floating-point numbers (N, A), or indices (N,).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def log_probability(outputs: Tensor, actions: Tensor) -> Tensor:
    """(N,) the logarithm of the actions' probability, or density: the sum over a Gaussian's dimensions.

    >>> import torch
    >>> log_probability(torch.zeros(1, 4), torch.zeros(1, 2))  # -log(2 pi)
    tensor([-1.8379])
    """
    if not actions.is_floating_point():
        return outputs.log_softmax(-1).gather(-1, actions.unsqueeze(-1)).squeeze(-1)
    means, log_stds = outputs.chunk(2, -1)
    off = (actions - means) * (-log_stds).exp()
    return -(off.square() / 2 + log_stds + math.log(2 * math.pi) / 2).sum(-1)


def entropy(outputs: Tensor, actions: Tensor) -> Tensor:
    """(N,) the entropy, in nats; ``actions`` say which distribution it is."""
    if not actions.is_floating_point():
        logarithms = outputs.log_softmax(-1)
        return -(logarithms.exp() * logarithms).sum(-1)
    return (outputs.chunk(2, -1)[1] + (1 + math.log(2 * math.pi)) / 2).sum(-1)


def divergence(before: Tensor, after: Tensor, actions: Tensor) -> Tensor:
    """(N,) Kullback-Leibler divergence of the distributions ``after`` from those ``before``."""
    if not actions.is_floating_point():
        first, second = before.log_softmax(-1), after.log_softmax(-1)
        return (first.exp() * (first - second)).sum(-1)
    (means, log_stds), (others, log_others) = before.chunk(2, -1), after.chunk(2, -1)
    spread = ((2 * log_stds).exp() + (means - others).square()) * (-2 * log_others).exp()
    return (log_others - log_stds + spread / 2 - 0.5).sum(-1)


def fisher(outputs: Tensor, actions: Tensor, tangent: Tensor) -> Tensor:
    """The Fisher information of each example's distribution times its tangent: the curvature of :func:`divergence`."""
    import torch  # here: a configuration is checked against objectives without torch

    if not actions.is_floating_point():
        p = outputs.softmax(-1)
        return p * (tangent - (p * tangent).sum(-1, keepdim=True))
    (_, log_stds), (of_means, of_logs) = outputs.chunk(2, -1), tangent.chunk(2, -1)
    return torch.cat([of_means * (-2 * log_stds).exp(), 2 * of_logs], -1)


def draw(outputs: Tensor, noise: Tensor, continuous: bool) -> Tensor:
    """Actions of given noise.

    Args:
        outputs: (N, 2 A) or (N, C).
        noise: (N, A) standard normal numbers, or (N, 1) uniform ones in [0, 1).
        continuous: which of them.

    Returns:
        (N, A) numbers, or (N,) indices.
    """
    if continuous:
        means, log_stds = outputs.chunk(2, -1)
        return means + log_stds.exp() * noise
    below = outputs.softmax(-1).cumsum(-1) <= noise
    return below.sum(-1).clamp(max=outputs.shape[-1] - 1)


def likeliest(outputs: Tensor, continuous: bool) -> Tensor:
    """The most likely actions: means (N, A), or indices (N,)."""
    return outputs.chunk(2, -1)[0] if continuous else outputs.argmax(-1)
