"""Meta-gradients by plain ``torch.autograd``, one task at a time: formulas of the test's own, nothing of distmeta."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

Named = dict[str, Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(outputs: Tensor, y: Tensor) -> Tensor:
    """-1/N sum_i log(exp(o_i[y_i]) / sum_c exp(o_i[c]))."""
    return (outputs.logsumexp(1) - outputs[torch.arange(len(y)), y]).mean()


def squared_error(outputs: Tensor, y: Tensor) -> Tensor:
    """1/(N D) sum_id (o_id - y_id)^2."""
    return ((outputs - y) ** 2).sum() / y.numel()


LOSSES: dict[str, Loss] = {"cross_entropy": cross_entropy, "squared_error": squared_error}


@dataclass(frozen=True)
class Inner:
    """An inner loop.

    Attributes:
        names: parameters that a task changes.
        steps: K.
        rate: the step size; ``None`` where ``rates/NAME`` are meta-parameters.
        optimizer: sgd, momentum or adam.
        momentum: decay of the velocity.
        betas: Adam's decays.
        eps: Adam's, inside the root.
    """

    names: Sequence[str]
    steps: int
    rate: float | None
    optimizer: str = "sgd"
    momentum: float = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8


def plain(module: nn.Module) -> nn.Module:
    """A copy in training mode whose batch norms have no running statistics to update."""
    module = copy.deepcopy(module).train()
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layer.track_running_stats = False
            layer.running_mean = layer.running_var = layer.num_batches_tracked = None
    return module


def adapted(
    module: nn.Module, meta: Mapping[str, Tensor], task: Mapping[str, Tensor], inner: Inner, loss: Loss, exact: bool
) -> Named:
    """The module's parameters after the inner loop; with ``exact`` the inner gradients are differentiable."""
    params = {name[6:]: value for name, value in meta.items() if name.startswith("model/")}
    first, second = dict.fromkeys(inner.names, 0.0), dict.fromkeys(inner.names, 0.0)
    for k in range(inner.steps):
        chosen = task["batches"][k] if "batches" in task else slice(None)
        value = loss(functional_call(module, params, (task["x"][chosen],)), task["y"][chosen])
        gradients = torch.autograd.grad(value, [params[name] for name in inner.names], create_graph=exact)
        for name, g in zip(inner.names, gradients, strict=True):
            if inner.optimizer == "momentum":
                first[name] = g = inner.momentum * first[name] + g
            elif inner.optimizer == "adam":
                b1, b2 = inner.betas
                first[name] = b1 * first[name] + (1 - b1) * g
                second[name] = b2 * second[name] + (1 - b2) * g**2
                root = (second[name] / (1 - b2 ** (k + 1)) + inner.eps**2) ** 0.5
                g = first[name] / (1 - b1 ** (k + 1)) / root
            params[name] = params[name] - (meta["rates/" + name] if inner.rate is None else inner.rate) * g
    return params


def gradient_by_steps(
    module: nn.Module,
    meta: Mapping[str, Tensor],
    task: Mapping[str, Tensor],
    inner: Inner,
    loss: Loss,
    estimator: str,
) -> Named:
    """d query loss / d meta, exact or with constant inner gradients; or theta - theta_K."""
    leaves = {name: value.clone().requires_grad_() for name, value in meta.items()}
    params = adapted(module, leaves, task, inner, loss, exact=estimator == "exact")
    if estimator == "displacement":
        return {name: (value - params[name[6:]]).detach() for name, value in leaves.items()}
    value = loss(functional_call(module, params, (task["query_x"],)), task["query_y"])
    return dict(zip(leaves, torch.autograd.grad(value, list(leaves.values())), strict=True))


def prototype_logits(embedded: Tensor, y: Tensor, queries: Tensor, ways: int) -> Tensor:
    """-||f(x) - mean of class k||^2, one pair at a time."""
    means = [embedded[y == k].mean(0) for k in range(ways)]
    return torch.stack([torch.stack([-((q - mean) ** 2).sum() for mean in means]) for q in queries])


def gradient_by_prototypes(
    module: nn.Module, meta: Mapping[str, Tensor], task: Mapping[str, Tensor], ways: int
) -> Named:
    """d query cross-entropy / d meta of a prototypical network."""
    leaves = {name: value.clone().requires_grad_() for name, value in meta.items()}
    params = {name[6:]: value for name, value in leaves.items()}
    support, query = (functional_call(module, params, (task[name],)) for name in ("x", "query_x"))
    value = cross_entropy(prototype_logits(support, task["y"], query, ways), task["query_y"])
    return dict(zip(leaves, torch.autograd.grad(value, list(leaves.values())), strict=True))
