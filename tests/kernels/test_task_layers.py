"""Task-batched convolution and batch norm, every form against torch's own layers, one task at a time."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F
from torch.nn.grad import conv2d_input, conv2d_weight

from distmeta.kernels import build, native, products
from distmeta.kernels.functions import batch_norm, conv2d
from distmeta.kernels.geometry import Geometry
from distmeta.models import FunctionalModule

FORMS = {"native": native.OPERATORS, "products": products}
GEOMETRIES = {
    "conv4": (1, 64, Geometry((3, 3), (2, 2), (1, 1), (1, 1))),
    "many-inputs": (64, 64, Geometry((3, 3), (2, 2), (1, 1), (1, 1))),
    "odd-channels": (5, 7, Geometry((3, 3), (1, 1), (1, 1), (1, 1))),
    "uneven": (20, 33, Geometry((2, 3), (1, 2), (0, 1), (2, 1))),
    "one-tap": (16, 80, Geometry((1, 1), (1, 1), (0, 0), (1, 1))),
    "strided-tap": (16, 16, Geometry((1, 1), (2, 2), (0, 0), (1, 1))),
    "all-padding": (3, 4, Geometry((3, 3), (1, 1), (2, 2), (1, 1))),
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
        return [y, dx, dw, *native.OPERATORS.norm(y.flatten(1, 3), scale[tasks], shift[tasks], 1e-5, 0.0)]

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
