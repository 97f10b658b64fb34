"""A convolution with its batch norm and rectifier in one, against the three of them, and where it is taken."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call, grad, vmap

from distmeta.functional.kernels import build, native
from distmeta.functional.kernels.blocks import conv_norm
from distmeta.functional.kernels.books import book
from distmeta.functional.kernels.functions import batch_norm, conv2d
from distmeta.functional.kernels.geometry import Geometry
from distmeta.functional.module import FunctionalModule

pytestmark = pytest.mark.skipif(bool(build.unavailable()), reason=str(build.unavailable()))

CASES = {
    "few-inputs": (1, 16, Geometry((3, 3), (2, 2), (1, 1), (1, 1))),
    "odd-inputs": (11, 16, Geometry((3, 3), (1, 1), (1, 1), (1, 1))),
    "whole": (16, 32, Geometry((3, 3), (2, 2), (1, 1), (1, 1))),
    "one-tap": (16, 16, Geometry((1, 1), (1, 1), (0, 0), (1, 1))),
    "minimal": (20, 16, Geometry((3, 3), (1, 1), (1, 1), (1, 1))),
}
IMAGES, SIZE, TASKS = 5, (6, 5), 3
Tensors = tuple[Tensor, ...]


def test_cases_take_the_ways_that_there_are() -> None:
    taken = {name: book(tuple(shape.encode()), IMAGES, SIZE, n).structure for name, (n, _, shape) in CASES.items()}
    assert {name for name, structure in taken.items() if structure.few} == {"few-inputs"}
    assert {name for name, structure in taken.items() if structure.minimal} == {"odd-inputs", "minimal"}


def in_one(x: Tensor, w: Tensor, scale: Tensor, shift: Tensor, shape: Geometry, slope: float) -> Tensor:
    return conv_norm(x, w, scale, shift, shape, 1e-5, slope)


def in_parts(x: Tensor, w: Tensor, scale: Tensor, shift: Tensor, shape: Geometry, slope: float) -> Tensor:
    return batch_norm(conv2d(x, w, shape, "native"), scale, shift, 1e-5, slope, "native")


def tensors(name: str, dtype: torch.dtype = torch.float64, tasks: int | None = None) -> Tensors:
    inputs, outputs, shape = CASES[name]
    torch.manual_seed(0)
    x = torch.randn(*([] if tasks is None else [tasks]), IMAGES, inputs, *SIZE, dtype=dtype)
    return (
        x,
        torch.randn(outputs, inputs, *shape.kernel, dtype=dtype) / inputs**0.5,
        *(torch.rand(outputs, dtype=dtype) for _ in range(2)),
    )


@pytest.mark.parametrize("slope", [0.0, 1.0])
@pytest.mark.parametrize("name", list(CASES))
def test_differentiates_twice(name: str, slope: float) -> None:
    function = partial(in_one, shape=CASES[name][2], slope=slope)
    given = tuple(each.requires_grad_() for each in tensors(name))
    assert gradcheck(function, given, fast_mode=True)
    assert gradgradcheck(function, given, fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("wanted", ["parameters", "images"])
@pytest.mark.parametrize("name", list(CASES))
def test_a_meta_gradient_is_that_of_the_parts(name: str, wanted: str, dtype: torch.dtype) -> None:
    """Of tasks that share the parameters before the inner step, and have their own after it."""
    x, *parameters = tensors(name, dtype, TASKS)
    shape = CASES[name][2]
    target = torch.randn(TASKS, IMAGES, len(parameters[0]), *shape.output(SIZE), dtype=dtype)

    def outer(layer: Any, parameters: Tensors, x: Tensor, target: Tensor) -> Tensor:
        def inner(parameters: Tensors) -> Tensor:
            return (layer(x, *parameters, shape, 0.0) * target).square().mean()

        stepped = tuple(p - 0.3 * g for p, g in zip(parameters, grad(inner)(parameters), strict=True))
        return (layer(x, *stepped, shape, 0.0) * target).tanh().sum()

    def gradients(layer: Any) -> Any:
        function = grad(partial(outer, layer), argnums=int(wanted == "images"))
        return vmap(function, in_dims=(None, 0, 0))(tuple(parameters), x, target)

    ours, expected = gradients(in_one), gradients(in_parts)
    pairs = zip(ours, expected, strict=True) if wanted == "parameters" else [(ours, expected)]
    for one, parts in pairs:
        assert (one - parts).norm() <= (1e-6 if dtype == torch.float32 else 1e-14) * parts.norm()


def test_layers_before_it_learn_through_a_step_of_its_own() -> None:
    """What the inner loop does not differentiate by, the outer loop still may."""
    x, w, scale, shift = tensors("whole")
    shape = CASES["whole"][2]

    def outer(layer: Any, before: Tensor) -> Tensor:
        inputs = x * before
        step = grad(lambda w: layer(inputs, w, scale, shift, shape, 0.0).square().mean())(w)
        return layer(inputs, w - step, scale, shift, shape, 0.0).tanh().sum()

    before = torch.rand(16, 1, 1, dtype=torch.float64)
    ours, expected = (grad(partial(outer, layer))(before) for layer in (in_one, in_parts))
    assert (ours - expected).norm() <= 1e-12 * expected.norm()


def test_there_is_no_third_derivative() -> None:
    x, w, scale, shift = tensors("few-inputs")
    shape = CASES["few-inputs"][2]

    def value(w: Tensor) -> Tensor:
        return in_one(x, w, scale, shift, shape, 0.0).pow(3).sum()

    def slope(derivative: Any) -> Any:
        return lambda w: derivative(w).pow(2).sum()

    second = grad(slope(grad(value)))
    assert second(w).isfinite().all()
    with pytest.raises(RuntimeError, match="no third derivative"):
        grad(slope(second))(w)


def test_a_task_has_the_same_bits_in_any_company_and_with_any_threads() -> None:
    torch.manual_seed(0)
    shape = CASES["whole"][2]
    x, w = torch.randn(5, 2, 14, 14, 64), torch.randn(5, 3, 3, 64, 64)
    vectors, cotangents = torch.rand(2, 5, 64), torch.randn(3, 5, 2, 7, 7, 64)
    threads = torch.get_num_threads()

    def derivatives(tasks: slice) -> list[Tensor]:
        o, encoded = native.OPERATORS, shape.encode()
        scale, shift = (each[tasks] for each in vectors)
        dz, b, c = cotangents[0][tasks], scale + 1, shift - 1
        z, y, mean, rate = o.block(x[tasks], w[tasks], scale, shift, encoded, 1e-5, 0.0)
        given = (x[tasks], w[tasks], y, mean, rate, scale, shift, dz)
        first = o.block_backward(*given, y + 1, encoded, 0.0, True)
        second = o.block_double(*given, first[0], x[tasks] + 1, w[tasks] - 1, b, c, encoded, 0.0, True)
        return [z, y, mean, rate, *first, *second]

    try:
        torch.set_num_threads(1)
        together = derivatives(slice(0, 5))
        for t in range(5):
            for alone, whole in zip(derivatives(slice(t, t + 1)), together, strict=True):
                assert torch.equal(alone[0], whole[t])
        torch.set_num_threads(3)
        for threaded, whole in zip(derivatives(slice(0, 5)), together, strict=True):
            assert torch.equal(threaded, whole)
    finally:
        torch.set_num_threads(threads)


def recorded(compute: Callable[[], Tensor]) -> tuple[Tensor, list[str]]:
    """What is computed, and the names of the kernels that did it."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        outputs = compute()
    events = [event.name for event in profile.events() or []]
    return outputs, [name.removeprefix("distmeta::") for name in events if name.startswith("distmeta::")]


def by_kernels(module: nn.Module) -> FunctionalModule:
    network = FunctionalModule(module)
    network.use("native")
    return network


def layers(*, bias: bool = False, after: nn.Module | None = None, **settings: Any) -> nn.Sequential:
    norm = nn.BatchNorm2d(16, **settings)
    return nn.Sequential(nn.Conv2d(2, 16, 3, bias=bias), norm, *([] if after is None else [after]), nn.Flatten())


@pytest.mark.parametrize(
    ("module", "kernels"),
    [
        (layers(after=nn.ReLU()), ["block"]),
        (layers(after=nn.LeakyReLU(0.2)), ["block"]),
        (layers(), ["block"]),
        (layers(after=nn.Tanh()), ["block"]),
        (layers(after=nn.ReLU(), track_running_stats=False), ["block"]),
        (layers(bias=True, after=nn.ReLU()), ["conv", "norm"]),
        (layers(affine=False, after=nn.ReLU()), ["conv"]),
        (nn.Sequential(nn.Conv2d(2, 12, 3, bias=False), nn.BatchNorm2d(12), nn.ReLU()), ["conv", "norm"]),
        (nn.Sequential(nn.Conv2d(2, 16, 3, padding="same", bias=False), nn.BatchNorm2d(16)), ["norm"]),
        (nn.Sequential(nn.Conv2d(2, 16, 3, groups=2, bias=False), nn.BatchNorm2d(16), nn.ReLU()), ["norm"]),
        (layers(after=nn.ReLU()).eval(), ["conv"]),
    ],
    ids=["relu", "leaky", "none", "tanh", "untracked", "bias", "plain-norm", "odd", "same", "groups", "evaluation"],
)
def test_where_it_is_taken(module: nn.Module, kernels: list[str]) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 2, 7, 6)
    expected = functional_call(module, {}, (x,))
    network = by_kernels(module)
    outputs, found = recorded(lambda: network(network.parameters, x))
    assert [name for name in found if name in ("block", "conv", "norm")] == kernels
    assert (outputs - expected).norm() <= 2e-6 * expected.norm()


def test_a_hook_between_its_layers_is_called() -> None:
    for place in range(3):
        module = layers(after=nn.ReLU())
        module[place].register_forward_hook(lambda layer, inputs, output: output + 1)
        x = torch.randn(3, 2, 7, 6)
        network = by_kernels(module)
        outputs, found = recorded(partial(network, network.parameters, x))
        assert "block" not in found or place == 2
        assert (outputs - module(x)).norm() <= 2e-6 * outputs.norm()


def test_support_statistics_come_from_the_layers() -> None:
    module, x = layers(after=nn.ReLU()), torch.randn(3, 2, 7, 6)
    network = by_kernels(module)
    outputs, found = recorded(lambda: network.with_support_statistics(network.parameters, x, x))
    assert "block" not in found
    assert (outputs - module(x)).norm() <= 2e-6 * outputs.norm()
