"""Meta-gradients by plain ``torch.autograd``, one task at a time: formulas of the test's own, nothing of distmeta."""

from __future__ import annotations

import copy
import warnings
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
        curvature: none, diagonal or block, of meta-parameters ``curvature/NAME.MODE``.
        norms: parameters that each step has its own of, ``norms/NAME``.
        proximal: weight of half the squared distance from the start.
        fresh: whether a task begins at 0 instead of the meta-parameters.
        weights: (K,) of the query losses after each step.
    """

    names: Sequence[str]
    steps: int
    rate: float | None
    optimizer: str = "sgd"
    momentum: float = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    curvature: str = "none"
    norms: Sequence[str] = ()
    proximal: float = 0.0
    fresh: bool = False
    weights: Tensor | None = None


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
) -> list[Named]:
    """The module's parameters after each inner step; with ``exact`` the inner gradients are differentiable."""
    params = {name[6:]: value for name, value in meta.items() if name.startswith("model/")}
    if inner.fresh:
        params |= {name: (0 * params[name]).requires_grad_() for name in inner.names}
    start, passed = dict(params), []
    first, second = dict.fromkeys(inner.names, 0.0), dict.fromkeys(inner.names, 0.0)
    for k in range(inner.steps):
        chosen = task["batches"][k] if "batches" in task else slice(None)
        own = {**params, **{name: meta["norms/" + name][k] for name in inner.norms}}
        value = loss(functional_call(module, own, (task["x"][chosen],)), task["y"][chosen])
        value = value + inner.proximal / 2 * sum(((own[name] - start[name]) ** 2).sum() for name in inner.names)
        gradients = torch.autograd.grad(value, [params[name] for name in inner.names], create_graph=exact)
        for name, g in zip(inner.names, gradients, strict=True):
            g = multiplied(g, name, meta, inner.curvature)
            if inner.optimizer == "momentum":
                first[name] = g = inner.momentum * first[name] + g
            elif inner.optimizer == "adam":
                b1, b2 = inner.betas
                first[name] = b1 * first[name] + (1 - b1) * g
                second[name] = b2 * second[name] + (1 - b2) * g**2
                root = (second[name] / (1 - b2 ** (k + 1)) + inner.eps**2) ** 0.5
                g = first[name] / (1 - b1 ** (k + 1)) / root
            rate = inner.rate
            if rate is None:
                learned = meta["rates/" + name]
                rate = learned[k] if inner.norms else learned  # a rate for each step goes with norms for each here
            params = {**params, name: params[name] - rate * g}
        passed.append({**params, **{name: meta["norms/" + name][k] for name in inner.norms}})
    return passed


def multiplied(g: Tensor, name: str, meta: Mapping[str, Tensor], kind: str) -> Tensor:
    """Meta-Curvature's products, by index."""
    if kind == "none":
        return g
    matrices = []
    for mode in range(3):
        factor = meta.get(f"curvature/{name}.{mode}")
        if factor is not None:
            matrices.append(factor if kind == "block" else torch.diag(factor))
    if g.dim() == 1:
        return torch.einsum("ai,i->a", matrices[0], g)
    if g.dim() == 2:
        return torch.einsum("ai,bj,ij->ab", *matrices, g)
    flat = torch.einsum("ai,bj,ck,ijk->abc", *matrices, g.reshape(*g.shape[:2], -1))
    return flat.reshape(g.shape)


def gradient_by_steps(
    module: nn.Module,
    meta: Mapping[str, Tensor],
    task: Mapping[str, Tensor],
    inner: Inner,
    loss: Loss,
    estimator: str,
) -> Named:
    """d query loss / d meta: exact, with constant inner gradients, at a solution; theta - theta_K; or of all data."""
    leaves = {name: value.clone().requires_grad_() for name, value in meta.items()}

    def judged(params: Named) -> Tensor:
        return loss(functional_call(module, params, (task["query_x"],)), task["query_y"])

    if estimator == "joint":
        params = {name[6:]: value for name, value in leaves.items()}
        value = loss(functional_call(module, params, (task["x"],)), task["y"])
        return dict(zip(leaves, torch.autograd.grad(value, list(leaves.values())), strict=True))
    passed = adapted(module, leaves, task, inner, loss, exact=estimator == "exact")
    if estimator == "displacement":
        return {name: (value - passed[-1][name[6:]]).detach() for name, value in leaves.items()}
    if estimator == "implicit":
        return gradient_of_solution(module, leaves, task, inner, loss, passed[-1])
    values = [judged(params) for params in passed]
    value = values[-1] if inner.weights is None else sum(w * v for w, v in zip(inner.weights, values, strict=True))
    found = torch.autograd.grad(value, list(leaves.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(leaves, found, strict=True))


def gradient_of_solution(
    module: nn.Module, leaves: Named, task: Mapping[str, Tensor], inner: Inner, loss: Loss, solution: Named
) -> Named:
    """The implicit function theorem with the dense Hessian of the inner loss, proximal term included."""
    point = {name: solution[name].detach().requires_grad_() for name in inner.names}
    params = {**{name[6:]: value for name, value in leaves.items() if name.startswith("model/")}, **point}
    values, everything = list(point.values()), list(leaves.values())
    outer = loss(functional_call(module, params, (task["query_x"],)), task["query_y"])
    slopes = torch.autograd.grad(outer, values + everything, allow_unused=True, materialize_grads=True)
    start = {name: torch.zeros_like(point[name]) if inner.fresh else leaves["model/" + name] for name in point}
    value = loss(functional_call(module, params, (task["x"],)), task["y"])
    value = value + inner.proximal / 2 * sum(((point[name] - start[name]) ** 2).sum() for name in point)
    flat = torch.cat([each.flatten() for each in torch.autograd.grad(value, values, create_graph=True)])
    rows = [torch.cat([g.flatten() for g in torch.autograd.grad(each, values, retain_graph=True)]) for each in flat]
    right = torch.cat([each.flatten() for each in slopes[: len(values)]])
    found = torch.linalg.solve(torch.stack(rows), right)
    across = torch.autograd.grad(flat @ found, everything, allow_unused=True, materialize_grads=True)
    pairs = zip(leaves, slopes[len(values) :], across, strict=True)
    return {name: direct - along for name, direct, along in pairs}


def prototype_logits(embedded: Tensor, y: Tensor, queries: Tensor, ways: int) -> Tensor:
    """-||f(x) - mean of class k||^2, one pair at a time."""
    means = [embedded[y == k].mean(0) for k in range(ways)]
    return torch.stack([torch.stack([-((q - mean) ** 2).sum() for mean in means]) for q in queries])


def ridge_logits(embedded: Tensor, y: Tensor, queries: Tensor, ways: int, meta: Mapping[str, Tensor]) -> Tensor:
    """s [q, 1] (X'X + lambda I)^-1 X'Y + b, in the primal."""
    n = len(embedded)
    x = torch.cat([embedded, torch.ones(n, 1).double()], 1) / n**0.5
    targets = (torch.eye(ways).double()[y] if y.dtype == torch.int64 else y) / n**0.5
    system = x.T @ x + meta["ridge/log_regularisation"].exp() * torch.eye(x.shape[1]).double()
    weights = torch.linalg.inv(system) @ x.T @ targets
    wide = torch.cat([queries, torch.ones(len(queries), 1).double()], 1)
    return meta["ridge/scale"] * (wide @ weights) + meta["ridge/shift"]


def logistic_logits(
    embedded: Tensor, y: Tensor, queries: Tensor, ways: int, meta: Mapping[str, Tensor], steps: int = 10
) -> Tensor:
    """Newton's method on each class's own loss, in the primal, by its gradient and Hessian."""
    x = torch.cat([embedded, torch.ones(len(embedded), 1).double()], 1)
    wide = torch.cat([queries, torch.ones(len(queries), 1).double()], 1)
    penalty, columns = meta["logistic/log_regularisation"].exp(), []
    for way in range(ways):
        w = torch.zeros(x.shape[1]).double()
        for _ in range(steps):
            mu = torch.sigmoid(x @ w)
            slope = x.T @ (mu - (y == way).double()) + penalty * w
            hessian = x.T @ torch.diag(mu * (1 - mu)) @ x + penalty * torch.eye(len(w)).double()
            w = w - torch.linalg.inv(hessian) @ slope
        columns.append(wide @ w)
    return torch.stack(columns, 1)


def svm_logits(
    embedded: Tensor, y: Tensor, queries: Tensor, ways: int, meta: Mapping[str, Tensor], capacity: float = 0.1
) -> Tensor:
    """The dual's optimality conditions as one dense system, on the free set that scikit-learn's solution has."""
    n = len(embedded)
    kernel, across = embedded @ embedded.T, queries @ embedded.T
    a = oracle_coefficients(kernel.detach(), embedded.detach(), y, ways, capacity)
    labels = torch.eye(ways).double()[y]
    free = a < capacity * labels - 1e-9
    places = free.T.flatten().nonzero().flatten()  # class after class
    fixed = (capacity * labels * ~free).T.flatten()
    big = torch.block_diag(*[kernel + torch.eye(n).double()] * ways)
    sums = torch.eye(n).double().repeat(1, ways)  # (n, n * ways): the sum over classes of an example
    system = torch.cat(
        [
            torch.cat([big[places][:, places], sums[:, places].T], 1),
            torch.cat([sums[:, places], torch.zeros(n, n).double()], 1),
        ]
    )
    right = torch.cat([labels.T.flatten()[places] - big[places] @ fixed, -sums @ fixed])
    solution = torch.linalg.solve(system, right)[: len(places)]
    whole = fixed.index_copy(0, places, solution)
    return meta["svm/scale"] * (across @ whole.view(ways, n).T)


def oracle_coefficients(kernel: Tensor, embedded: Tensor, y: Tensor, ways: int, capacity: float) -> Tensor:
    """The coefficients (n, ways) by scikit-learn, whose machine on [X, I] is the one with K + I."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sklearn.svm import LinearSVC

        rows = torch.cat([embedded, torch.eye(len(embedded)).double()], 1)
        machine = LinearSVC(
            multi_class="crammer_singer", C=capacity, fit_intercept=False, tol=1e-12, max_iter=1_000_000
        )
        machine.fit(rows.numpy(), y.numpy())
    return torch.from_numpy(machine.coef_[:, -len(embedded) :].T.copy()).double()


def matching_logits(embedded: Tensor, y: Tensor, queries: Tensor, ways: int, meta: Mapping[str, Tensor]) -> Tensor:
    """log of the attention that falls on each class, one pair at a time."""
    rows = []
    for q in queries:
        scores = torch.stack([meta["matching/scale"] * torch.cosine_similarity(q, x, 0, 1e-300) for x in embedded])
        attention = scores.exp() / scores.exp().sum()
        rows.append(torch.stack([attention[y == way].sum().log() for way in range(ways)]))
    return torch.stack(rows)


LOGITS: dict[str, Callable[..., Tensor]] = {
    "prototypes": lambda embedded, y, queries, ways, meta: prototype_logits(embedded, y, queries, ways),
    "ridge": ridge_logits,
    "logistic": logistic_logits,
    "svm": svm_logits,
    "matching": matching_logits,
}


def gradient_by_embedding(
    module: nn.Module, meta: Mapping[str, Tensor], task: Mapping[str, Tensor], ways: int, adaptation: str, loss: Loss
) -> Named:
    """d query loss / d meta of an adaptation in closed form."""
    leaves = {name: value.clone().requires_grad_() for name, value in meta.items()}
    params = {name[6:]: value for name, value in leaves.items() if name.startswith("model/")}
    support, query = (functional_call(module, params, (task[name],)) for name in ("x", "query_x"))
    value = loss(LOGITS[adaptation](support, task["y"], query, ways, leaves), task["query_y"])
    return dict(zip(leaves, torch.autograd.grad(value, list(leaves.values())), strict=True))


def gradient_in_context(
    module: nn.Module, meta: Mapping[str, Tensor], task: Mapping[str, Tensor], ways: int, loss: Loss
) -> Named:
    """d query loss / d meta of a network that reads the support set."""
    leaves = {name: value.clone().requires_grad_() for name, value in meta.items()}
    params = {name[6:]: value for name, value in leaves.items()}
    y = task["y"]
    targets = torch.eye(ways).double()[y] if y.dtype == torch.int64 else y
    given = {"x": task["query_x"], "support_x": task["x"], "support_y": targets}
    value = loss(functional_call(module, params, (), given), task["query_y"])
    return dict(zip(leaves, torch.autograd.grad(value, list(leaves.values())), strict=True))


def gradient_of_classifier(module: nn.Module, meta: Mapping[str, Tensor], task: Mapping[str, Tensor]) -> Named:
    """d cross-entropy of all classes / d meta."""
    leaves = {name: value.clone().requires_grad_() for name, value in meta.items()}
    params = {name[6:]: value for name, value in leaves.items() if name.startswith("model/")}
    embedded, weight = functional_call(module, params, (task["x"],)), leaves["classifier/weight"]
    if "classifier/bias" in leaves:
        logits = embedded @ weight.T + leaves["classifier/bias"]
    else:
        logits = 10 * torch.nn.functional.cosine_similarity(embedded.unsqueeze(1), weight.unsqueeze(0), dim=2)
    value = cross_entropy(logits, task["class_id"])
    return dict(zip(leaves, torch.autograd.grad(value, list(leaves.values())), strict=True))
