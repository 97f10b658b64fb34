"""What a recording would compute twice it computes once, to the bit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap

from distmeta.adaptations.gradients import curvature_product, transforms
from distmeta.programs.engine.recording import Recording

Function = Callable[..., tuple[Tensor, ...]]


def network(weights: dict[str, Tensor], x: Tensor) -> Tensor:
    return torch.tanh(torch.tanh(x @ weights["a"]) @ weights["b"])


def adapted(weights: dict[str, Tensor], x: Tensor) -> Tensor:
    """A network's outputs after an inner step."""
    found = grad(lambda w: network(w, x).square().mean())(weights)
    return network({name: value - 0.1 * found[name] for name, value in weights.items()}, x + 1)


def curved(x: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
    weights = {"a": a, "b": b}

    def one(x: Tensor) -> dict[str, Tensor]:
        return curvature_product(lambda w: adapted(w, x), weights, weights, lambda outputs, tangent: tangent * outputs)

    with transforms(True):
        return tuple(vmap(one)(x).values())


def parts(x: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
    """Results of operations with several results, other views of one thing, and other arguments of one operation."""
    first, second = x.split([2, x.shape[1] - 2], 1)
    again, other = x.split([2, x.shape[1] - 2], 1)
    square = a[:4, :4]
    numbers = square.exp() @ square.t().exp(), square.exp() @ square.exp(), a.sum(0, keepdim=True), a.sum(1)
    return (first.sum() + again.sum(), second.mul(2.0).sum(), other.mul(-0.0).sum(), *numbers)


FUNCTIONS = (curved, parts)


def given() -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((4, 5, 6), (6, 7), (7, 3))
    return tuple(torch.randn(shape, generator=generator) for shape in shapes)


def operations(recording: Recording) -> Counter[str]:
    assert recording.graph is not None
    return Counter(str(node.target) for node in recording.graph.graph.nodes if node.op == "call_function")


@pytest.mark.parametrize("function", FUNCTIONS)
def test_same_bits(function: Function) -> None:
    arguments = given()
    expected = function(*arguments)
    for sparing in (False, True):
        recording = Recording.of(function, arguments, sparing=sparing)
        for call in (recording.on_trees(), Recording.load(recording.dump()).on_trees()):
            for value, wanted in zip(call(*arguments), expected, strict=True):
                assert torch.equal(value, wanted)
                assert value.stride() == wanted.stride()


def test_a_curvature_product_goes_forward_once() -> None:
    """Over the support set and over the query set, each time through two layers."""
    assert operations(Recording.of(curved, given()))["aten.tanh.default"] == 4
    assert operations(Recording.of(curved, given(), sparing=True))["aten.tanh.default"] == 12


def test_only_what_is_alike_is_one() -> None:
    found = operations(Recording.of(parts, given()))
    assert found["aten.split_with_sizes.default"] + found["aten.split.Tensor"] == 1
    assert found["aten.exp.default"] == 2  # of a view, and of the same numbers in another order
    assert found["aten.mm.default"] == 2
    assert found["aten.mul.Tensor"] == 2
    assert found["aten.sum.dim_IntList"] == 2


@pytest.mark.parametrize(
    "part", [lambda x: x, lambda x: x[1:], lambda x: x.split(2)[0], lambda x: x[:, :2].t(), lambda x: x.unbind()[1]]
)
def test_results_have_memory_of_their_own(part: Callable[[Tensor], Tensor]) -> None:
    def twice(x: Tensor) -> tuple[Tensor, Tensor]:
        return part(x.exp()), part(x.exp())

    x = given()[1]
    first, second = Recording.of(twice, (x,)).on_trees()(x)
    first.zero_()
    assert torch.equal(second, part(x.exp()))


def test_drawn_numbers_stay_apart() -> None:
    def noise(x: Tensor) -> Tensor:
        return torch.rand_like(x) - torch.rand_like(x)

    x = given()[0]
    assert Recording.of(noise, (x,)).on_trees()(x).any()


def test_memory_that_is_written_to_stays_apart() -> None:
    def summed(x: Tensor) -> Tensor:
        one, other = x + 1, x + 1
        one.mul_(3.0)
        return one * 2 + other * 5

    x = given()[0]
    assert torch.equal(Recording.of(summed, (x,)).on_trees()(x), summed(x))
