"""Derivatives of one task's functions: by ``torch.func``, or by plain autograd where it cannot run a module.

Adaptations and estimators take every derivative from here, so that each of them runs in all ways of
:data:`~distmeta.core.plan.Running`. Plain autograd can run what transforms cannot: custom functions in the old style,
derivatives with respect to inputs inside ``forward``, hooks on saved tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

_TRANSFORMS: ContextVar[bool] = ContextVar("transforms", default=False)


@contextmanager
def transforms(wanted: bool) -> Iterator[None]:
    """Within the block, in this thread, derivatives are taken by ``torch.func``, or by plain autograd.

    Without such a block they are plain autograd's, which can run every module.
    """
    token = _TRANSFORMS.set(wanted)
    try:
        yield
    finally:
        _TRANSFORMS.reset(token)


def gradient(
    function: Callable[..., tuple[Tensor, Any]], *primals: Any, argnums: int | tuple[int, ...] = 0
) -> tuple[Any, tuple[Tensor, Any]]:
    """``(d value / d primals, (value, auxiliary))`` of ``value, auxiliary = function(*primals)``.

    Nested calls give derivatives of derivatives, as far as the outer call's primals reach the inner one through its
    primals. Second derivatives are prepared only there: a plain gradient asks no operator for its second one.

    Args:
        function: to a scalar and any tree of tensors.
        primals: trees of tensors; other leaves are passed on.
        argnums: which of them to differentiate by. Where the value does not depend on a tensor, its gradient is zero.

    >>> (d, (value, _)) = gradient(lambda x: (gradient(lambda y: (y**3, None), x)[0], None), torch.tensor(2.0))
    >>> value.item(), d.item()
    (12.0, 12.0)
    """
    if _TRANSFORMS.get():
        by_transform = torch.func.grad_and_value(function, argnums, has_aux=True)
        return cast("tuple[Any, tuple[Tensor, Any]]", by_transform(*primals))
    nested = _followed(primals)
    chosen = (argnums,) if isinstance(argnums, int) else argnums
    with torch.enable_grad():
        given, inputs = _inputs(primals, chosen, nested)
        value, auxiliary = function(*given)
    gradients = _differentiate([value], [None], inputs, nested)
    trees = _as_trees(gradients, [primals[place] for place in chosen])
    results = trees[0] if isinstance(argnums, int) else tuple(trees)
    return results, (value, auxiliary) if nested else _detach((value, auxiliary))


def pullback(function: Callable[..., Any], *primals: Any) -> tuple[Any, Callable[[Any], tuple[Any, ...]]]:
    """``function(*primals)``, and the map from a cotangent of it to those of the primals; it is called once.

    >>> value, pull = pullback(torch.sin, torch.tensor(0.0))
    >>> pull(torch.tensor(2.0))
    (tensor(2.),)
    """
    if _TRANSFORMS.get():
        value, pull, *_ = torch.func.vjp(function, *primals)
        return value, pull
    with torch.enable_grad():
        given, inputs = _inputs(primals, range(len(primals)), nested=False)
        value = function(*given)

    def pull_plainly(cotangent: Any) -> tuple[Any, ...]:
        gradients = _differentiate(tree_leaves(value), tree_leaves(cotangent), inputs, nested=False)
        return tuple(_as_trees(gradients, primals))

    return _detach(value), pull_plainly


def curvature_product(
    function: Callable[[Any], Tensor],
    primal: Mapping[str, Tensor],
    direction: Mapping[str, Tensor],
    curvature: Callable[[Tensor, Tensor], Tensor],
) -> dict[str, Tensor]:
    r"""``J^T C J d``, where J is the derivative of ``function`` at ``primal``.

    J d is the derivative of ``J^T u`` by u along d, so that reverse mode is enough, which every module has. In a
    recording the three passes through ``function`` share what they compute alike.

    Args:
        function: from named tensors to a tensor.
        primal: where.
        direction: d, named and shaped like ``primal``.
        curvature: C times a tangent, from the function's value and the tangent.

    >>> point, along = {"x": torch.tensor([1.0, 2.0])}, {"x": torch.tensor([1.0, 0.0])}
    >>> curvature_product(lambda named: named["x"] ** 2, point, along, lambda outputs, tangent: tangent)
    {'x': tensor([4., 0.])}
    """

    def weighted(named: Mapping[str, Tensor], weights: Tensor) -> tuple[Tensor, Tensor]:
        outputs = function(named)
        return (outputs * weights).sum(), outputs

    def back(weights: Tensor) -> dict[str, Tensor]:
        return dict(gradient(weighted, primal, weights)[0])

    outputs = function(primal).detach()
    _, pull = pullback(back, torch.zeros_like(outputs))
    (forward,) = pull({name: direction[name] for name in primal})
    return back(curvature(outputs, forward))


def _followed(primals: tuple[Any, ...]) -> bool:
    """Whether a derivative is being taken outside, which goes through the primals."""
    return torch.is_grad_enabled() and any(leaf.requires_grad for leaf in _tensors(primals))


def _inputs(primals: tuple[Any, ...], chosen: tuple[int, ...] | range, nested: bool) -> tuple[list[Any], list[Tensor]]:
    """The primals as tensors of this call's own, and those of them to differentiate by.

    A module may change what it is given, for example by ``requires_grad_``: it gets other tensors of the same memory.
    """

    def own(leaf: Any, differentiated: bool) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        if nested and leaf.requires_grad:
            return leaf.view_as(leaf) if differentiated else leaf
        return leaf.detach().requires_grad_(differentiated)

    given = [tree_map(lambda leaf, d=place in chosen: own(leaf, d), tree) for place, tree in enumerate(primals)]
    return given, [leaf for place in chosen for leaf in _tensors(given[place])]


def _differentiate(
    values: list[Tensor], cotangents: list[Tensor | None], inputs: list[Tensor], nested: bool
) -> list[Tensor]:
    pairs = [pair for pair in zip(values, cotangents, strict=True) if pair[0].requires_grad]
    try:
        if not pairs:
            return [torch.zeros_like(value) for value in inputs]
        return list(
            torch.autograd.grad(
                [value for value, _ in pairs],
                inputs,
                [cotangent for _, cotangent in pairs],
                create_graph=nested,
                allow_unused=True,
                materialize_grads=True,
            )
        )
    finally:
        for value in inputs:
            if value.is_leaf:
                # A backward() inside the module leaves gradients here, whose graphs hold on to the tensor itself.
                value.grad = None


def _as_trees(gradients: list[Tensor], like: Any) -> list[Any]:
    leaves, structure = tree_flatten(list(like))
    remaining = iter(gradients)
    filled = [next(remaining) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
    return cast("list[Any]", tree_unflatten(filled, structure))


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _detach(tree: Any) -> Any:
    return tree_map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, tree)
