"""Recordings without their chains of views repeat what was recorded, to the bit."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap

from distmeta.programs.engine.recording import Recording

Function = Callable[..., Tensor]


def layers(x: Tensor, weight: Tensor) -> Tensor:
    def loss(weight: Tensor, x: Tensor) -> Tensor:
        return (torch.tanh(x @ weight) @ weight.t()).square().mean()

    return vmap(lambda x: weight - 0.1 * grad(loss)(weight, x))(x)


def convolved(x: Tensor, weight: Tensor) -> Tensor:
    kernels = weight.reshape(-1, 1, 1, 3)[:4]

    def loss(kernels: Tensor, x: Tensor) -> Tensor:
        return torch.nn.functional.conv2d(x[None, None], kernels).relu().amax()

    return vmap(grad(loss), in_dims=(None, 0))(kernels, x)


def of_parts(x: Tensor, weight: Tensor) -> Tensor:
    """Views that begin in the middle of what they look at, and ones of no, and of one, element."""
    left, right = x[1:].transpose(1, 2).split([2, x.shape[2] - 2], 1)
    return (left.unsqueeze(0).expand(3, -1, -1, -1).sum() + right[:, :0].sum() + weight[:1, :1].squeeze()).view(1)


def views_alone(x: Tensor, weight: Tensor) -> Tensor:
    return x.transpose(0, 1).unsqueeze(0)


def written(x: Tensor, weight: Tensor) -> Tensor:
    """One view is written to between looks at another one."""
    sums = x.sum(0)
    seen = sums.t().reshape(-1).clone()
    sums.view(-1).add_(1.0)
    return seen + sums.t().reshape(-1)


FUNCTIONS = (layers, convolved, of_parts, views_alone, written)


def given(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(4, 5, 6, generator=generator).to(dtype), torch.randn(6, 6, generator=generator).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_same_bits(function: Function, dtype: torch.dtype) -> None:
    x, weight = given(dtype)
    recording = Recording.of(function, (x, weight))
    loaded = Recording.load(recording.dump())
    for call in (recording.on_trees(), loaded.on_trees()):
        assert torch.equal(call(x, weight), function(x, weight))
        assert torch.equal(call(2 * x, weight - x[0, 0]), function(2 * x, weight - x[0, 0]))
    assert call(x, weight).stride() == function(x, weight).stride()


@pytest.mark.parametrize("function", FUNCTIONS)
def test_arguments_of_other_strides(function: Function) -> None:
    """What was recorded holds for these too; one look at memory would see other numbers."""
    x, weight = given(torch.float64)
    call = Recording.of(function, (x, weight)).on_trees()
    x, weight = x.permute(2, 1, 0).contiguous().permute(2, 1, 0), weight.t()
    torch.testing.assert_close(call(x, weight), function(x, weight), rtol=1e-12, atol=1e-12)


def test_arguments_that_begin_elsewhere() -> None:
    x, weight = given(torch.float32)
    call = Recording.of(layers, (x, weight)).on_trees()
    more = torch.stack([weight, 2 * weight])
    assert torch.equal(call(x, more[1]), layers(x, more[1]))


def test_views_are_few() -> None:
    recording = Recording.of(layers, given(torch.float32))
    assert recording.graph is not None
    before, after = recording.graph.code, recording.code
    views = ("view", "expand", "permute", "transpose", "unsqueeze", "t")
    assert sum(before.count(f"aten.{view}.") for view in views) > 10
    assert not any(f"aten.{view}." in after for view in views)
    assert after.count("torch.as_strided(") <= 10
