"""Task-batched convolution, batch norm and max-pool, every form against torch's own layers, one task at a time."""

from __future__ import annotations

from functools import partial
from math import inf, nan
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F
from torch.nn.grad import conv2d_input, conv2d_weight

from distmeta.functional.kernels import build, native, products
from distmeta.functional.kernels.books import book
from distmeta.functional.kernels.functions import batch_norm, conv2d
from distmeta.functional.kernels.geometry import Geometry
from distmeta.functional.module import FunctionalModule
from distmeta.functional.pooling import task_max_pool2d, task_windows

FORMS = {"native": native.OPERATORS, "products": products}
GEOMETRIES = {
    "conv4": (1, 64, Geometry((3, 3), (2, 2), (1, 1), (1, 1))),
    "many-inputs": (64, 64, Geometry((3, 3), (2, 2), (1, 1), (1, 1))),
    "odd-channels": (5, 7, Geometry((3, 3), (1, 1), (1, 1), (1, 1))),
    "uneven": (20, 33, Geometry((2, 3), (1, 2), (0, 1), (2, 1))),
    "one-tap": (16, 80, Geometry((1, 1), (1, 1), (0, 0), (1, 1))),
    "strided-tap": (16, 16, Geometry((1, 1), (2, 2), (0, 0), (1, 1))),
    "all-padding": (3, 4, Geometry((3, 3), (1, 1), (2, 2), (1, 1))),
    "minimal": (20, 33, Geometry((3, 3), (1, 1), (1, 1), (1, 1))),
    "minimal-inside": (64, 16, Geometry((3, 3), (1, 1), (0, 0), (1, 1))),
    "minimal-all-padding": (16, 80, Geometry((3, 3), (1, 1), (2, 2), (1, 1))),
    "minimal-uneven-padding": (8, 32, Geometry((3, 3), (1, 1), (0, 2), (1, 1))),
}
SIZE, IMAGES, TASKS = (9, 8), 2, 3
TOLERANCE = {torch.float64: 1e-13, torch.float32: 2e-6}


@pytest.fixture(params=list(FORMS))
def form(request: pytest.FixtureRequest) -> Any:
    if request.param == "native" and build.unavailable():
        pytest.skip(str(build.unavailable()))
    return request.param


def near(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    assert actual.shape == expected.shape
    assert (actual - expected).norm() <= tolerance * expected.norm()


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("shared", ["none", "first", "second"])
@pytest.mark.parametrize("name", list(GEOMETRIES))
def test_convolution_and_its_gradients(form: str, name: str, shared: str, dtype: torch.dtype) -> None:
    inputs, outputs, shape = GEOMETRIES[name]
    torch.manual_seed(0)
    draw = partial(torch.randn, dtype=dtype)
    counts = {"none": (TASKS, TASKS), "first": (1, TASKS), "second": (TASKS, 1)}[shared]
    x, w = draw(counts[0], IMAGES, *SIZE, inputs), draw(counts[1], *shape.kernel, inputs, outputs)
    out = (IMAGES, *shape.output(SIZE), outputs)
    geometry, operations = shape.encode(), FORMS[form]
    settings = (shape.stride, shape.padding, shape.dilation)

    def stacked(function: Any) -> Tensor:
        return torch.stack([function(t) for t in range(TASKS)])

    def image(value: Tensor, t: int) -> Tensor:
        return value[t % len(value)].permute(0, 3, 1, 2)

    def weight(value: Tensor, t: int) -> Tensor:
        return value[t % len(value)].permute(3, 2, 0, 1)

    y = stacked(lambda t: F.conv2d(image(x, t), weight(w, t), None, *settings).permute(0, 2, 3, 1))
    near(operations.conv(x, w, geometry), y, TOLERANCE[dtype])

    dy = draw(counts[0], *out)
    one = (IMAGES, inputs, *SIZE)
    dx = stacked(lambda t: conv2d_input(one, weight(w, t), image(dy, t), *settings).permute(0, 2, 3, 1))
    near(operations.conv_input(dy, w, geometry, list(SIZE)), dx, TOLERANCE[dtype])

    dy = draw(counts[1], *out)
    one = (outputs, inputs, *shape.kernel)
    dw = stacked(lambda t: conv2d_weight(image(x, t), one, image(dy, t), *settings).permute(2, 3, 1, 0))
    near(operations.conv_weight(x, dy, geometry), dw, TOLERANCE[dtype])


@pytest.mark.parametrize("name", list(GEOMETRIES))
def test_minimal_filtering_is_for_filters_of_three_by_three_that_move_by_one(name: str) -> None:
    inputs, _, shape = GEOMETRIES[name]
    minimal = bool(book(tuple(shape.encode()), IMAGES, SIZE, inputs).structure.minimal)
    assert minimal == name.startswith("minimal")
    assert not book(tuple(shape.encode()), 1, (2, 2) if min(shape.output((2, 2))) else (3, 3), inputs).structure.minimal


@pytest.mark.parametrize("name", list(GEOMETRIES))
def test_convolution_differentiates_twice(form: str, name: str) -> None:
    _, _, shape = GEOMETRIES[name]
    torch.manual_seed(0)
    x = torch.randn(1, 2, 5, 4, dtype=torch.float64, requires_grad=True)
    w = torch.randn(3, 2, *shape.kernel, dtype=torch.float64, requires_grad=True)
    function = partial(conv2d, geometry=shape, form=form)
    assert gradcheck(function, (x, w))
    assert gradgradcheck(function, (x, w))


@pytest.mark.parametrize("slope", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 2, 2), (5, 18)], ids=str)
def test_batch_norm_differentiates_twice(form: str, shape: tuple[int, ...], slope: float) -> None:
    torch.manual_seed(0)
    x = (torch.randn(shape, dtype=torch.float64) + 1).requires_grad_()
    scale, shift = (torch.randn(shape[1], dtype=torch.float64).requires_grad_() for _ in range(2))
    function = partial(batch_norm, eps=1e-5, slope=slope, form=form)
    expected = F.leaky_relu(F.batch_norm(x, None, None, scale, shift, True), slope)
    near(function(x, scale, shift), expected, 1e-13)
    assert gradcheck(function, (x, scale, shift))
    assert gradgradcheck(function, (x, scale, shift))


def test_batch_norm_has_no_third_derivative(form: str) -> None:
    x, one, zero = torch.randn(4, 3, dtype=torch.float64), torch.ones(3).double(), torch.zeros(3).double()

    def value(x: Tensor) -> Tensor:
        return batch_norm(x, one, zero, 1e-5, 0.0, form).pow(3).sum()

    def slope(derivative: Any) -> Any:
        return lambda x: derivative(x).pow(2).sum()

    second = grad(slope(grad(value)))
    assert second(x).isfinite().all()
    with pytest.raises(RuntimeError, match="no third derivative"):
        grad(slope(second))(x)


def pooled(x: Tensor, form: Any, *settings: Any) -> Tensor:
    windows = task_windows(x, *settings, form)
    assert windows is not None, settings
    return task_max_pool2d(x, windows, form)


POOLS = {
    "plain": (2, None, 0, 1, False),
    "overlapping": (3, 2, 1, 1, False),
    "dense": ((2, 3), 1, (1, 1), 1, False),
    "ceil": (2, 2, 0, 1, True),
    "ceil-padded": (3, (2, 3), 1, 1, True),
    "dilated": (2, 1, 0, (2, 3), False),
    "apart": ((1, 2), (2, 3), 0, 1, True),
    "global": ((9, 8), 1, 0, 1, False),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("channels", [1, 5, 16, 37])
@pytest.mark.parametrize("name", list(POOLS))
def test_max_pool_is_torchs_with_ties_and_nan(form: str, name: str, channels: int, dtype: torch.dtype) -> None:
    """The same values and the same choice, which the gradient shows: among equal ones, of NaN and of -inf."""
    torch.manual_seed(0)
    x = (2 * torch.randn(3, channels, *SIZE, dtype=dtype)).round()
    x.view(-1)[::17] = nan
    x[0, :, :3, :3] = -inf
    ours, torchs = x.clone().requires_grad_(), x.clone().requires_grad_()
    y, expected = pooled(ours, form, *POOLS[name]), F.max_pool2d(torchs, *POOLS[name])
    torch.testing.assert_close(y, expected, rtol=0, atol=0, equal_nan=True)
    dy = torch.randn_like(y)
    (dx,), (expected,) = torch.autograd.grad(y, ours, dy), torch.autograd.grad(expected, torchs, dy)
    torch.testing.assert_close(dx, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["plain", "overlapping", "ceil-padded", "dilated"])
def test_max_pool_differentiates_twice(form: str, name: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 6, 5, dtype=torch.float64, requires_grad=True)

    def squared(x: Tensor) -> Tensor:
        return pooled(x * x, form, *POOLS[name])  # a second derivative of its own

    assert gradcheck(squared, (x,))
    assert gradgradcheck(squared, (x,))


@pytest.mark.parametrize("dim", [0, 1, 3, None], ids=str)
def test_max_pool_mapped_over_any_dimension(form: str, dim: int | None) -> None:
    """With a cotangent a task, so that tasks share what is pooled where ``dim`` is None."""
    torch.manual_seed(0)
    one = (2, 3, 6, 5)
    x = torch.randn(one if dim is None else (*one[:dim], TASKS, *one[dim:]), dtype=torch.float64)
    weight = torch.randn(TASKS, 2, 3, 3, 2, dtype=torch.float64)

    def derivative(pool: Any, x: Tensor, weight: Tensor) -> Tensor:
        inner = grad(lambda x: (pool(x * x) ** 2 * weight).sum())
        return grad(lambda x: (inner(x) * x).sum())(x)

    mapped = vmap(partial(derivative, lambda x: pooled(x, form, 2, None, 0, 1, False)), in_dims=(dim, 0))(x, weight)
    for t in range(TASKS):
        own = x if dim is None else x.select(dim, t)
        near(mapped[t], derivative(lambda x: F.max_pool2d(x, 2), own, weight[t]), 1e-13)


def test_what_torchs_own_max_pool_computes() -> None:
    """Windows for which there is no task-batched form, and those that torch is to refuse."""
    x = torch.ones(1, 2, 20, 20)
    for settings in ((17, 1), (2, 1, 1, 21), (2, 0), (2, 1, 2), ((2, 2, 2),), (21,)):
        kernel, stride, padding, dilation = (*settings, *(None, 0, 1)[len(settings) - 1 :])
        assert task_windows(x, kernel, stride, padding, dilation, False, "products") is None, settings
    assert task_windows(x[0], 2, None, 0, 1, False, "products") is None
    assert task_windows(x.long(), 2, None, 0, 1, False, "products") is None
    assert task_windows(x.half(), 2, None, 0, 1, False, "native") is None


class Pools(nn.Module):
    """Every way to call a max-pool; some have no task-batched form."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 5, 3, bias=False), nn.BatchNorm2d(5), nn.MaxPool2d(3, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        x = torch.max_pool2d(x, [2, 2], [1, 1], [1, 1])
        values, indices = F.max_pool2d(x, 2, stride=1, return_indices=True)
        one = torch.stack([F.max_pool2d(image, kernel_size=2, stride=1) for image in values])
        return (
            F.max_pool2d(F.max_unpool2d(values, indices, 2, 1, output_size=x.shape[2:]) + x, 2).flatten(1) + one.sum()
        )


def test_a_users_pools_compute_what_they_did(form: str) -> None:
    torch.manual_seed(0)
    module, x = Pools().double(), torch.randn(3, 1, 10, 9, dtype=torch.float64)
    network = FunctionalModule(module)
    network.use(form)

    parameters = {name: value.detach() for name, value in module.named_parameters()}
    near(network(parameters, x), module(x), 1e-12)
    expected = torch.autograd.grad(module(x).pow(2).sum(), list(module.parameters()))
    found = grad(lambda p: network(p, x).pow(2).sum())(parameters)
    for slope, name in zip(expected, parameters, strict=True):
        near(found[name], slope, 1e-9)


@pytest.mark.parametrize("dims", [(0, 0), (0, None), (None, 0), (1, 2)], ids=str)
def test_mapped_over_any_dimension_is_one_by_one(form: str, dims: tuple[int | None, int | None]) -> None:
    shape = GEOMETRIES["conv4"][2]
    torch.manual_seed(0)
    one_x, one_w = (2, 3, 6, 5), (4, 3, 3, 3)

    def draw(one: tuple[int, ...], dim: int | None) -> Tensor:
        return torch.randn(one if dim is None else (*one[:dim], TASKS, *one[dim:]), dtype=torch.float64)

    x, w = draw(one_x, dims[0]), draw(one_w, dims[1])
    mapped = vmap(lambda x, w: conv2d(x, w, shape, form), in_dims=dims)(x, w)
    for t in range(TASKS):
        xs, ws = (v if d is None else v.select(d, t) for v, d in zip((x, w), dims, strict=True))
        near(mapped[t], F.conv2d(xs, ws, None, *shape[1:]), 1e-13)


def test_a_task_has_the_same_bits_in_any_company_and_with_any_threads() -> None:
    if build.unavailable():
        pytest.skip(str(build.unavailable()))
    torch.manual_seed(0)
    shape = GEOMETRIES["many-inputs"][2].encode()
    x, w = torch.randn(5, 2, 14, 14, 64), torch.randn(5, 3, 3, 64, 64)
    scale, shift = torch.rand(2, 5, 64)
    before = torch.get_num_threads()

    def layers(tasks: slice) -> list[Tensor]:
        y = native.OPERATORS.conv(x[tasks], w[tasks], shape)
        dx = native.OPERATORS.conv_input(y, w[tasks], shape, [14, 14])
        dw = native.OPERATORS.conv_weight(x[tasks], y, shape)
        pool = Geometry((3, 3), (2, 2), (1, 1), (1, 1)).encode()
        largest, index = native.OPERATORS.max_pool(x[tasks], pool, [7, 7])
        down = native.OPERATORS.pool_scatter(largest, index, pool, [14, 14])
        pools = [largest, index, down, native.OPERATORS.pool_gather(down, index, pool)]
        return [y, dx, dw, *pools, *native.OPERATORS.norm(y.flatten(1, 3), scale[tasks], shift[tasks], 1e-5, 0.0)]

    try:
        torch.set_num_threads(1)
        together = layers(slice(0, 5))
        for t in range(5):
            for alone, whole in zip(layers(slice(t, t + 1)), together, strict=True):
                assert torch.equal(alone[0], whole[t])
        torch.set_num_threads(3)
        for threaded, whole in zip(layers(slice(0, 5)), together, strict=True):
            assert torch.equal(threaded, whole)
    finally:
        torch.set_num_threads(before)


class Blocks(nn.Module):
    """Layers as users write them: functional activations, pools, a shared rectifier, a norm used twice, groups."""

    def __init__(self) -> None:
        super().__init__()
        relu = nn.ReLU()
        self.first = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), relu, nn.MaxPool2d(2))
        self.second = nn.Sequential(nn.Conv2d(6, 6, 3, groups=3), nn.GroupNorm(2, 6), nn.LeakyReLU(0.2))
        self.third = nn.Conv2d(6, 6, 1, padding="same")
        self.twice = nn.Sequential(nn.BatchNorm2d(6), relu)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(x))
        x = self.twice(F.elu(self.third(x)))
        x = x + torch.sigmoid(self.twice[0](x))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


def test_a_users_module_computes_what_it_did(form: str) -> None:
    torch.manual_seed(0)
    module = Blocks().double()
    x = torch.randn(4, 2, 10, 10, dtype=torch.float64)
    network = FunctionalModule(module)
    expected = functional_call(module, {}, (x,))
    near(network(network.parameters, x), expected, 1e-12)
    network.use(form)
    near(network(network.parameters, x), expected, 1e-12)
    near(network(network.arrange(network.parameters), x), expected, 1e-12)
    assert list(network.state_dict(network.parameters)) == list(module.state_dict())


def test_a_rectifier_with_a_hook_stays(form: str) -> None:
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
    module[2].register_forward_hook(lambda layer, inputs, output: output + 1)
    x = torch.randn(3, 1, 5, 5)
    network = FunctionalModule(module)
    network.use(form)
    near(network(network.parameters, x), module(x), 1e-5)


def test_support_statistics_without_derivatives_are_those_with(form: str) -> None:
    """Where nothing is differentiated, the kernels of batch norms give the moments too."""
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 4)
    )
    module = FunctionalModule(layers.double(), torch.zeros(2, 3, 6, 6, dtype=torch.float64))
    module.use(form)
    names = {name: torch.randn(3, *value.shape).double() for name, value in module.parameters.items()}
    support, query = torch.randn(3, 5, 3, 6, 6).double(), torch.randn(3, 1, 3, 6, 6).double()
    function = vmap(module.with_support_statistics)
    differentiated = function(names, support, query)
    with torch.no_grad():
        near(function(names, support, query), differentiated, 1e-13)
    module.use(None)
    near(function(names, support, query), differentiated, 1e-12)
