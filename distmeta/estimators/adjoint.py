"""The step-by-step adjoint of an inner loop: exact meta-gradients in mixed mode."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from distmeta.adaptations.base import Batch, Iterative, Params, Task, inner_gradient
from distmeta.adaptations.gradients import gradient, pullback
from distmeta.core.layout import Meta
from distmeta.estimators.base import Measured, loss_and_measured

KEEP_ALL = 8
"""Up to this many steps every step's parameters are kept; beyond, those of every sqrt(K)-th step."""


def adjoint(adaptation: Iterative, meta: Meta, task: Task, steps: int) -> tuple[dict[str, Tensor], Measured]:
    """Gradient of the query loss after ``steps`` >= 1 steps with respect to ``meta``, going back one step at a time.

    Forward, step k: ``g = grad_p L(p, meta, data_k)`` and ``p, s = update(p, s, g, meta, k)``. Backwards, with
    ``lp = dQ/dp`` and ``ls = dQ/ds``, starting from ``lp, lmeta = grad Q(p_K, meta)`` and ``ls = 0``::

        dp, ls, dg, dm = vjp(update, p, s, g, meta)(lp, ls)
        hp, hm = vjp(grad_p L, p, meta)(dg)
        lp, lmeta = dp + hp, lmeta + dm + hm

    Where the query loss after each step counts, with the weights of ``task.query``, each one's gradient is added to
    ``lp`` and ``lmeta`` on the way.

    Only ``p`` and ``s`` are kept between steps, activations are recomputed; for more than ``KEEP_ALL`` steps only every
    ceil(sqrt(K))-th ``(p, s)`` is kept and the ones between are computed again, so memory grows with sqrt(K).

    Source: Kemaev et al., "Scalable Meta-Learning via Mixed-Mode Differentiation", ICML 2025, arXiv 2505.00793. The
    Hessian product is reverse over reverse: it asks no operator for a forward mode, at the same memory.
    """
    segment = 1 if steps <= KEEP_ALL else math.ceil(math.sqrt(steps))
    before, pull_init = pullback(adaptation.init, meta)
    kept: list[tuple[int, tuple[Params, Any]]] = []
    for first in range(0, steps, segment):
        kept.append((first, before))
        before = _run(adaptation, meta, task, before, range(first, min(first + segment, steps)))[-1]

    params, state = before
    (lp, lmeta), measured = _judged(adaptation, task.query, params, meta, steps)
    ls = tree_map(torch.zeros_like, state)
    last = steps
    while kept:
        first, before = kept.pop()
        befores = _run(adaptation, meta, task, before, range(first, last - 1))
        for step in reversed(range(first, last)):
            before = befores.pop()
            (lp, ls), dm = _step_back(adaptation, meta, task, step, before, (lp, ls))
            lmeta = _add(lmeta, dm)
            if task.query.weights is not None and step > 0:
                (dp, dm), _ = _judged(adaptation, task.query, before[0], meta, step)
                lp, lmeta = _add(lp, dp), _add(lmeta, dm)
        last = first
    (from_init,) = pull_init((lp, ls))
    return _add(lmeta, from_init), measured


def _run(
    adaptation: Iterative, meta: Meta, task: Task, before: tuple[Params, Any], steps: range
) -> list[tuple[Params, Any]]:
    """Parameters and state before the first of these steps, and after each of them."""
    states = [before]
    for step in steps:
        params, state = states[-1]
        found = inner_gradient(adaptation, params, meta, task.support.step(step))
        states.append(adaptation.update(params, state, found, meta, step))
    return states


def _step_back(
    adaptation: Iterative,
    meta: Meta,
    task: Task,
    step: int,
    before: tuple[Params, Any],
    cotangent: tuple[Params, Any],
) -> tuple[tuple[Params, Any], Params]:
    """Cotangents of the parameters and state before a step, and the step's share of the meta-gradient."""
    params, state = before
    batch = task.support.step(step)
    found, pull_gradient = pullback(lambda p, m: inner_gradient(adaptation, p, m, batch), params, meta)
    _, pull_update = pullback(lambda p, s, g, m: adaptation.update(p, s, g, m, step), params, state, found, meta)
    dp, ds, dg, dm = pull_update(cotangent)
    hp, hm = pull_gradient(dg)
    return (_add(dp, hp), ds), _add(dm, hm)


def _judged(
    adaptation: Iterative, query: Batch, params: Params, meta: Meta, steps: int
) -> tuple[tuple[Params, Params], Measured]:
    """Gradients of the query loss by the parameters after some steps and by ``meta``, times what that step counts."""
    objective, weights = adaptation.objective, query.weights

    def loss(params: Params, meta: Meta) -> tuple[Tensor, Measured]:
        outputs = adaptation.predict(meta, params, query if weights is None else query.after(steps))
        value, measured = loss_and_measured(objective, outputs, query.data)
        return value if weights is None else weights[steps - 1].to(value) * value, measured

    found, (_, measured) = gradient(loss, params, meta, argnums=(0, 1))
    return found, measured


def _add(a: Params, b: Params) -> dict[str, Tensor]:
    return {name: value + b[name] for name, value in a.items()}
