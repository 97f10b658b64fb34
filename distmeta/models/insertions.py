"""Layers that adaptations put into a network that somebody else wrote: warps, modulations, adapters, context."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from distmeta.errors import ConfigError

CONTEXT = "task_context"
"""Attribute that holds the context of a task; the name of its parameter ends with it."""

WARP = "task_warp"
"""Attribute that holds what stands behind a warped layer."""

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm)


def matches(name: str, patterns: str | Sequence[str]) -> bool:
    """Whether a name is one of these, in which ``*`` matches anything.

    >>> matches("body.0.weight", ["head.*", "*.weight"])
    True
    """
    return any(fnmatchcase(name, pattern) for pattern in ([patterns] if isinstance(patterns, str) else patterns))


def chosen_layers(
    module: nn.Module, patterns: str | Sequence[str], types: tuple[type[nn.Module], ...], key: str
) -> list[str]:
    """Paths of the submodules of exactly these types whose names match.

    Raises:
        ConfigError: there is none; ``key`` is the setting that names them.
    """
    paths = [path for path, layer in module.named_modules() if path and type(layer) in types]
    found = [path for path in paths if matches(path, patterns)]
    if not found:
        wanted = ", ".join(each.__name__ for each in types)
        raise ConfigError(
            f"{key} = {patterns!r} matches no layer ({wanted}) of the model; there are {', '.join(paths) or 'none'}"
        )
    return found


def exchange(module: nn.Module, path: str, layer: nn.Module) -> None:
    """Put another layer at a path."""
    parent, _, name = path.rpartition(".")
    setattr(module.get_submodule(parent), name, layer)


class Warped(nn.Module):
    """A layer with a linear layer behind it that is the identity at first.

    A convolution of 3 (3 x 3, ...) behind a convolution, a matrix behind a linear layer.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer
        if isinstance(layer, nn.Linear):
            warp: Any = nn.Linear(layer.out_features, layer.out_features, bias=False)
            nn.init.eye_(warp.weight)
        else:
            channels = layer.out_channels
            warp = type(layer)(channels, channels, 3, padding=1, bias=False)
            nn.init.dirac_(warp.weight)
        setattr(self, WARP, warp.to(layer.weight))

    def forward(self, inputs: Tensor) -> Tensor:
        """The layer, then the warp."""
        outputs: Tensor = getattr(self, WARP)(self.layer(inputs))
        return outputs


def warp(module: nn.Module, patterns: str | Sequence[str]) -> nn.Module:
    """Put warps behind all layers of these names."""
    for path in chosen_layers(module, patterns, (nn.Linear, *_CONVOLUTIONS), "algorithm.warp"):
        exchange(module, path, Warped(module.get_submodule(path)))
    return module


class Modulated(nn.Module):
    """A layer whose channels a context scales and shifts: ``(1 + gamma) h + beta``, ``(gamma, beta) = A c + b``.

    Perez et al., "FiLM", AAAI 2018. At the context 0, and with b = 0 at first, it is the layer alone.
    """

    def __init__(self, layer: Any, channels: int, context: nn.Parameter) -> None:
        super().__init__()
        self.layer = layer
        self.film = nn.Linear(len(context), 2 * channels)
        nn.init.zeros_(self.film.bias)
        setattr(self, CONTEXT, context)

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, C, ...) to the layer's outputs, modulated."""
        outputs: Tensor = self.layer(inputs)
        # Channels come second, but those of a matrix last.
        places = () if isinstance(self.layer, nn.Linear) else outputs.shape[2:]
        scale, shift = self.film(getattr(self, CONTEXT)).view(2, -1, *(1 for _ in places))
        modulated: Tensor = outputs * (1 + scale) + shift
        return modulated


class Contextual(nn.Module):
    """A network whose inputs are vectors (N, D), with a context (C,) behind each of them: (N, D + C)."""

    def __init__(self, network: nn.Module, size: int) -> None:
        super().__init__()
        self.network = network
        setattr(self, CONTEXT, nn.Parameter(torch.zeros(size)))

    def forward(self, inputs: Tensor) -> Tensor:
        """The network's outputs."""
        context = getattr(self, CONTEXT).expand(len(inputs), -1)
        outputs: Tensor = self.network(torch.cat([inputs, context], 1))
        return outputs


def modulate(module: nn.Module, patterns: str | Sequence[str], size: int) -> nn.Module:
    """Let one context of this size modulate all layers of these names."""
    context = nn.Parameter(torch.zeros(size))
    types = (nn.Linear, *_CONVOLUTIONS, *_NORMS)
    for path in chosen_layers(module, patterns, types, "algorithm.film"):
        layer = module.get_submodule(path)
        exchange(module, path, Modulated(layer, _channels(layer), context))
    return module


def _channels(layer: Any) -> int:
    names = ("out_features", "out_channels", "num_features", "num_channels")
    return next(int(getattr(layer, name)) for name in names if hasattr(layer, name))


class LowRank(nn.Module):
    """A layer with a product of low rank added to its weight: ``W x + alpha / r B A x``, where B = 0 at first.

    A is a convolution of the layer's own kind to r channels where that is one. Hu et al., "LoRA", ICLR 2022.
    """

    def __init__(self, layer: Any, rank: int, alpha: float) -> None:
        super().__init__()
        self.layer = layer
        self.share = alpha / rank
        if isinstance(layer, nn.Linear):
            self.down: Any = nn.Linear(layer.in_features, rank, bias=False)
            self.up: Any = nn.Linear(rank, layer.out_features, bias=False)
        else:
            own: Any = type(layer)
            settings = {name: getattr(layer, name) for name in ("stride", "padding", "dilation", "padding_mode")}
            self.down = own(layer.in_channels, rank, layer.kernel_size, bias=False, **settings)
            self.up = own(rank, layer.out_channels, 1, bias=False)
        nn.init.zeros_(self.up.weight)
        self.to(layer.weight)

    def forward(self, inputs: Tensor) -> Tensor:
        """The layer's outputs and the adapter's share."""
        outputs: Tensor = self.layer(inputs) + self.share * self.up(self.down(inputs))
        return outputs


def add_adapters(
    module: nn.Module, patterns: str | Sequence[str], trained: str | Sequence[str], rank: int, alpha: float
) -> nn.Module:
    """Freeze a module but for what ``trained`` names, and give adapters to its frozen layers of these names."""
    for pattern in [trained] if isinstance(trained, str) else trained:
        if not any(matches(name, pattern) for name, _ in module.named_parameters()):
            names = ", ".join(name for name, _ in module.named_parameters())
            raise ConfigError(
                f"algorithm.trained = {pattern!r} matches no parameter of the model; there are {names} (or null: none)"
            )
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(matches(name, trained) and parameter.requires_grad)
    types = (nn.Linear, *_CONVOLUTIONS)
    paths = [
        path
        for path in chosen_layers(module, patterns, types, "algorithm.layers")
        if not any(parameter.requires_grad for parameter in module.get_submodule(path).parameters())
    ]
    if not paths:
        raise ConfigError(
            f"algorithm.layers = {patterns!r} matches layers that algorithm.trained = {trained!r} trains as a whole, "
            "and no other; name layers that stay frozen"
        )
    for path in paths:
        exchange(module, path, LowRank(module.get_submodule(path), rank, alpha))
    return module


def warps(names: Sequence[str]) -> Iterator[str]:
    """Those of these parameters that belong to warps."""
    return (name for name in names if WARP in name.split("."))


def contexts(names: Sequence[str]) -> tuple[str, ...]:
    """Those of these parameters that are contexts of tasks."""
    return tuple(name for name in names if name.split(".")[-1] == CONTEXT)
