"""The layer that makes a network's outputs: found by running it, wherever it is registered."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from distmeta.errors import ConfigError
from distmeta.functional.module import FunctionalModule


class Two(nn.Module):
    """A body and an output layer, registered in either order and under any names."""

    def __init__(self, output: nn.Module, body: nn.Module, first: str = "a", second: str = "b") -> None:
        super().__init__()
        self.add_module(first, output)
        self.add_module(second, body)
        self.names = first, second

    def forward(self, x: Tensor) -> Tensor:
        output, body = (self.get_submodule(name) for name in self.names)
        return output(torch.tanh(body(x)))  # type: ignore[no-any-return]


class Ensemble(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.left(x) + self.right(x)  # type: ignore[no-any-return]


class Scaled(nn.Module):
    """A learned temperature after the output layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.temperature = nn.Linear(4, 3), nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) / self.temperature  # type: ignore[no-any-return]


class Language(nn.Module):
    """The output layer shares its weight with the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.out = nn.Embedding(7, 4), nn.Linear(4, 4), nn.Linear(4, 7)
        self.out.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.mix(self.embed(x.abs().long() % 7)).mean(1))  # type: ignore[no-any-return]


def linear(outputs: int = 3) -> nn.Module:
    return nn.Linear(4, outputs)


@pytest.mark.parametrize(
    ("module", "head"),
    [
        (linear(), ("weight", "bias")),
        (
            nn.Sequential(linear(), nn.ReLU(), nn.Linear(3, 2, bias=False), nn.Softmax(-1), nn.Unflatten(1, (2, 1))),
            ("2.weight",),
        ),
        (Two(linear(), linear(4)), ("a.weight", "a.bias")),
        (Two(linear(), linear(4), "output", "head"), ("output.weight", "output.bias")),
        (
            Two(nn.Sequential(linear(2), nn.Tanh(), nn.Linear(2, 3)), linear(4), "head"),
            ("head.0.weight", "head.0.bias", "head.2.weight", "head.2.bias"),
        ),
        (
            Two(parametrizations.weight_norm(linear()), linear(4)),
            ("a.bias", "a.parametrizations.weight.original0", "a.parametrizations.weight.original1"),
        ),
        (
            nn.Sequential(nn.Unflatten(1, (1, 4)), nn.Conv1d(1, 3, 2), nn.AdaptiveAvgPool1d(1), nn.Flatten()),
            ("1.weight", "1.bias"),
        ),
        (nn.Sequential(linear(), nn.LayerNorm(3).requires_grad_(False)), ("0.weight", "0.bias")),
        (nn.Sequential(linear(), nn.BatchNorm1d(3, affine=False)), ("0.weight", "0.bias")),
        (Language(), ("embed.weight", "out.bias")),
        # Not one trainable layer:
        (nn.Sequential(linear(), nn.BatchNorm1d(3)), ()),
        (Ensemble(), ()),
        (Scaled(), ()),
        (Two(linear().requires_grad_(False), linear(4)), ()),
    ],
)
def test_head(module: nn.Module, head: tuple[str, ...]) -> None:
    network = FunctionalModule(module, torch.randn(5, 4))
    assert set(network.head) == set(head)


def test_named_submodules() -> None:
    network = FunctionalModule(Language(), torch.randn(5, 4))
    assert network.names_below("out") == ("embed.weight", "out.bias")
    assert network.names_below("out.bias") == ("out.bias",)
    assert network.names_below("ou") == ()
    assert set(network.names_below("")) == set(network.parameters)


def test_a_network_that_cannot_run_with_gradients_is_refused() -> None:
    class Leaves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = linear()

        def forward(self, x: Tensor) -> Tensor:
            return torch.from_numpy(self.layer(x).numpy())

    with pytest.raises(ConfigError, match="NumPy"):
        _ = FunctionalModule(Leaves(), torch.randn(5, 4)).head
