"""Networks of the kinds that people bring, each a factory: what has to be computed exactly as plain PyTorch does.

Glyphs of shape (1, 28, 28) go in. Activations are smooth where it is a matter of choice, so that float32 and float64
agree, which they need not at a rectifier's corner.
"""

from __future__ import annotations

import math
import random
import threading
import weakref
from collections import OrderedDict
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune


def flat(outputs: int, *body: nn.Module, width: int = 8) -> nn.Module:
    """A body of (N, 8) between an input and an output layer."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 8), nn.Tanh(), *body, nn.Linear(width, outputs))


def maps(outputs: int, *body: nn.Module, channels: int = 4) -> nn.Module:
    """A body of (N, 4, 7, 7) between a convolution and an output layer."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 4, stride=4),
        nn.Tanh(),
        *body,
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * channels, outputs),
    )


def tokens_of(x: Tensor, every: int = 28) -> Tensor:
    """(N, T) integers 0..15 made of the strokes."""
    return (x.flatten(1)[:, ::every] * 15).long()


def rows(x: Tensor) -> Tensor:
    """(N, 7, 28): every fourth row of an image as a step of a sequence."""
    return x[:, 0, ::4]


# Plain layers -------------------------------------------------------------------------------------------------------


def linear(outputs: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, outputs))


def named_layers(outputs: int) -> nn.Module:
    layers = OrderedDict(flat=nn.Flatten(), first=nn.Linear(784, 8), act=nn.GELU(), last=nn.Linear(8, outputs))
    return nn.Sequential(layers)


def activations(outputs: int) -> nn.Module:
    return flat(outputs, nn.SiLU(), nn.Softplus(), nn.ELU(), nn.Mish(), nn.Softsign(), nn.LogSigmoid())


def prelu(outputs: int) -> nn.Module:
    return flat(outputs, nn.Linear(8, 8), nn.PReLU(8), nn.Linear(8, 8), nn.GLU(), width=4)


def bilinear(outputs: int) -> nn.Module:
    class Pairs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pairs = nn.Bilinear(8, 8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.pairs(x, x.flip(1))  # type: ignore[no-any-return]

    return flat(outputs, Pairs())


def convolutions(outputs: int) -> nn.Module:
    """Every argument of a convolution."""
    return maps(
        outputs,
        nn.Conv2d(4, 4, 3, padding=1, groups=4),
        nn.Conv2d(4, 8, 3, padding="same", padding_mode="reflect"),
        nn.Conv2d(8, 8, 3, padding=2, dilation=2, bias=False),
        nn.Conv2d(8, 4, (1, 3), stride=(1, 2), padding=(0, 1), padding_mode="circular"),
        nn.ConvTranspose2d(4, 4, 3, stride=2, padding=1, output_padding=1),
    )


def sequences(outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(2),
        nn.Conv1d(1, 4, 8, stride=8),
        nn.BatchNorm1d(4),
        nn.Tanh(),
        nn.AvgPool1d(7),
        nn.Flatten(),
        nn.Linear(56, outputs),
    )


def volumes(outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(2, (7, 4)),
        nn.Conv3d(1, 4, (3, 2, 4), stride=(2, 2, 4)),
        nn.BatchNorm3d(4),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(168, outputs),
    )


def pools(outputs: int) -> nn.Module:
    return maps(
        outputs,
        nn.MaxPool2d(2, ceil_mode=True),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.LPPool2d(2, 2),
        nn.Upsample(scale_factor=2, mode="bilinear"),
    )


class Residual(nn.Module):
    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 4, stride=4, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.conv1, self.conv2 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.head = nn.Linear(4, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.norm2(self.conv2(F.silu(self.norm1(self.conv1(x)))))
        return self.head(F.silu(x).mean((2, 3)))  # type: ignore[no-any-return]


class Dense(nn.Module):
    """Concatenations, as in DenseNet, written into in place."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8 * n, 8) for n in (1, 2, 3))
        self.inputs, self.head = nn.Linear(784, 8), nn.Linear(32, outputs)

    def forward(self, x: Tensor) -> Tensor:
        features = self.inputs(x.flatten(1)).tanh_()
        for layer in self.layers:
            new = layer(features)
            new *= 0.5
            new.sigmoid_()
            features = torch.cat([features, new], 1)
        return self.head(features)  # type: ignore[no-any-return]


class Excitation(nn.Module):
    """Squeeze and excitation, and the same through einsum."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 4, stride=4)
        self.down, self.up = nn.Linear(4, 2), nn.Linear(2, 4)
        self.mix = nn.Parameter(torch.randn(4, 4) / 2)
        self.head = nn.Linear(4, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x = x * torch.sigmoid(self.up(torch.tanh(self.down(x.mean((2, 3))))))[:, :, None, None]
        x = torch.einsum("nchw,cd->ndhw", x, self.mix)
        return self.head(torch.tanh(x).amax((2, 3)))  # type: ignore[no-any-return]


# Normalisations -----------------------------------------------------------------------------------------------------


def batch_norm_without_bias(outputs: int) -> nn.Module:
    return maps(outputs, nn.BatchNorm2d(4, bias=False), nn.Tanh())


def batch_norm_without_affine(outputs: int) -> nn.Module:
    return maps(outputs, nn.BatchNorm2d(4, affine=False), nn.ReLU())


def batch_norm_without_tracking(outputs: int) -> nn.Module:
    return maps(outputs, nn.BatchNorm2d(4, track_running_stats=False, eps=1e-3), nn.LeakyReLU(0.5))


def batch_norm_cumulative(outputs: int) -> nn.Module:
    return maps(outputs, nn.BatchNorm2d(4, momentum=None), nn.Tanh())


def batch_norm_frozen(outputs: int) -> nn.Module:
    """In evaluation mode, with running statistics of its own."""
    norm = nn.BatchNorm2d(4)
    norm.running_mean, norm.running_var = torch.linspace(-1, 1, 4), torch.linspace(0.5, 2, 4)
    return maps(outputs, norm.eval(), nn.Tanh())


def batch_norm_twice(outputs: int) -> nn.Module:
    norm = nn.BatchNorm1d(8)
    return flat(outputs, norm, nn.Tanh(), nn.Linear(8, 8), norm)


def instance_norms(outputs: int) -> nn.Module:
    return maps(
        outputs,
        nn.InstanceNorm2d(4, affine=True),
        nn.Conv2d(4, 4, 3),
        nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
        nn.Tanh(),
    )


def other_norms(outputs: int) -> nn.Module:
    return maps(
        outputs,
        nn.GroupNorm(2, 4),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.LayerNorm((4, 7, 7)),
        nn.LocalResponseNorm(2),
        nn.RMSNorm(7, eps=1e-5),
    )


class FunctionalNorms(nn.Module):
    """Functions right after a convolution, with statistics and scales of its own."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 4, 4, stride=4), nn.Linear(4 * 49, outputs)
        self.scale, self.shift = nn.Parameter(torch.rand(4) + 0.5), nn.Parameter(torch.zeros(4))
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("variance", torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        x = F.group_norm(self.conv(x), 2, self.scale, self.shift)
        x = F.batch_norm(x, self.mean, self.variance, self.scale, self.shift, self.training, 0.1)  # type: ignore[arg-type]
        x = F.instance_norm(torch.tanh(x), weight=self.scale)
        x = F.layer_norm(x, (7, 7))
        return self.head(F.normalize(x.view(len(x), -1), dim=1))  # type: ignore[no-any-return]


class HalfBatchNorm(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * super().forward(x) + 0.5 * x


class ScaledBatchNorm(nn.BatchNorm2d):
    """Another scale than its parent's, and a parameter of its own."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.gate = nn.Parameter(torch.full((channels,), 0.3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(super().forward(x) * self.gate[:, None, None])


class CentredGroupNorm(nn.GroupNorm):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - x.mean((2, 3), keepdim=True)) + 0.1


class StandardisedConv(nn.Conv2d):
    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        weight = weight - weight.mean((1, 2, 3), keepdim=True)
        return super()._conv_forward(x, weight / (weight.std((1, 2, 3), keepdim=True) + 1e-5), bias)


class PaddedConv(nn.Conv2d):
    """Overrides ``forward`` and pads otherwise."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (1, 1, 1, 1), mode="replicate"))


class ShiftedPool(nn.MaxPool2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) - super().forward(-x)


class Doubling(nn.Sequential):
    """A sequence that does something between its layers."""

    def forward(self, x: Tensor) -> Tensor:
        for layer in self:
            x = 2 * layer(x) if isinstance(layer, nn.Conv2d) else layer(x)
        return x


def half_batch_norm(outputs: int) -> nn.Module:
    return maps(outputs, HalfBatchNorm(4), nn.ReLU())


def scaled_batch_norm(outputs: int) -> nn.Module:
    return maps(outputs, ScaledBatchNorm(4))


def subclasses(outputs: int) -> nn.Module:
    return maps(
        outputs,
        CentredGroupNorm(2, 4),
        StandardisedConv(4, 4, 3),
        PaddedConv(4, 4, 3),
        nn.Tanh(),
        Doubling(nn.Conv2d(4, 4, 1), ShiftedPool(2)),
    )


class ByClass(nn.Module):
    """Looks at the classes of its layers."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [nn.Conv2d(1, 4, 4, stride=4), nn.BatchNorm2d(4), nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))]
        )
        self.head = nn.Linear(4, outputs)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            if type(layer) is nn.BatchNorm2d:
                x = torch.tanh(layer(x)) * 2
            elif type(layer) in (nn.Conv2d, nn.Sequential) and isinstance(
                layer, (nn.modules.conv._ConvNd, nn.Sequential)
            ):
                x = layer(x)
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


class CallsTheClass(nn.Module):
    """Calls a layer's ``forward`` and its class's."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(1, 4, 4, stride=4), nn.BatchNorm2d(4), nn.Linear(196, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.BatchNorm2d.forward(self.norm, self.conv.forward(x))
        return self.head(torch.tanh(x).view(len(x), -1))  # type: ignore[no-any-return]


def weight_norm(outputs: int) -> nn.Module:
    return maps(outputs, parametrizations.weight_norm(nn.Conv2d(4, 4, 3)), nn.Tanh())


def old_weight_norm(outputs: int) -> nn.Module:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return maps(outputs, nn.utils.weight_norm(nn.Conv2d(4, 4, 3)), nn.Tanh())


def orthogonal(outputs: int) -> nn.Module:
    return flat(outputs, parametrizations.orthogonal(nn.Linear(8, 8), orthogonal_map="cayley"))


class Symmetric(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.triu() + x.triu(1).transpose(-1, -2)


def symmetric(outputs: int) -> nn.Module:
    layer = nn.Linear(8, 8)
    parametrize.register_parametrization(layer, "weight", Symmetric())
    return flat(outputs, layer)


def doubled(layer: nn.Module, given: Any, outputs: Tensor) -> Tensor:
    return 2 * outputs + 1


def hooked(outputs: int) -> nn.Module:
    norm, conv = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3)
    norm.register_forward_hook(doubled)
    conv.register_forward_pre_hook(lambda layer, given: (given[0].sin(),))
    return maps(outputs, norm, nn.ReLU(), conv)


def own_forward(outputs: int) -> nn.Module:
    """A layer whose ``forward`` is replaced on the instance."""
    conv = nn.Conv2d(4, 4, 3)
    conv.forward = lambda x: torch.tanh(F.conv2d(x, conv.weight, None, 2))  # type: ignore[method-assign]
    return maps(outputs, conv)


# Tied parameters ----------------------------------------------------------------------------------------------------


class Autoencoder(nn.Module):
    """Encoder and decoder share their weight."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.encode, self.decode, self.head = nn.Linear(784, 8), nn.Linear(8, 784, bias=False), nn.Linear(784, outputs)
        self.decode.weight = nn.Parameter(self.encode.weight.detach().T.clone())
        self.copy = nn.Linear(784, 8)
        self.copy.weight = self.encode.weight

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        return self.head(self.decode(torch.tanh(self.encode(x) + self.copy(x))))  # type: ignore[no-any-return]


class Part(nn.Module):
    def __init__(self, embedding: nn.Module) -> None:
        super().__init__()
        self.embedding, self.mix = embedding, nn.Linear(8, 8)

    def forward(self, tokens: Tensor) -> Tensor:
        return torch.tanh(self.mix(self.embedding(tokens)))


class SharedEmbedding(nn.Module):
    """One embedding under three names, its weight in the output layer as well, as in T5 and BART."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.shared = nn.Embedding(16, 8)
        self.encoder, self.decoder = Part(self.shared), Part(self.shared)
        self.lm_head = nn.Linear(8, 16, bias=False)
        self.lm_head.weight = self.shared.weight
        self.head = nn.Linear(16, outputs)

    def forward(self, x: Tensor) -> Tensor:
        tokens = tokens_of(x)
        return self.head(self.lm_head(self.decoder(tokens) + self.encoder(tokens)).mean(1))  # type: ignore[no-any-return]


class Repeated(nn.Module):
    """Lists that repeat a layer, and a parameter that stands in two places of one layer and in a list."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        layer, norm = nn.Linear(8, 8), nn.BatchNorm1d(8)
        self.first = nn.Linear(784, 8)
        self.layers = nn.ModuleList([layer, norm, layer, norm, layer])
        self.again = self.layers[0]
        self.scale = nn.Parameter(torch.rand(8))
        self.shift = self.scale
        self.extra = nn.ParameterList([self.scale, nn.Parameter(torch.rand(8)), layer.bias])
        self.head = nn.Linear(8, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x.flatten(1))
        for layer in self.layers:
            x = torch.tanh(layer(x)) * self.scale + self.shift
        for value in self.extra:
            x = x + value
        return self.head(self.again(x))  # type: ignore[no-any-return]


class FrozenTied(nn.Module):
    """A frozen matrix under two names, a frozen bias, and a batch norm whose scale is frozen."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.first, self.second, self.norm = nn.Linear(8, 8), nn.Linear(8, 8), nn.BatchNorm1d(8)
        self.inputs, self.head = nn.Linear(784, 8), nn.Linear(8, outputs)
        self.second.weight = self.first.weight
        self.first.weight.requires_grad_(False)
        self.inputs.bias.requires_grad_(False)
        self.norm.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.norm(torch.tanh(self.first(self.inputs(x.flatten(1)))))))  # type: ignore[no-any-return]


# Parameters, buffers, modes -----------------------------------------------------------------------------------------


class Dictionaries(nn.Module):
    """Parameters in lists and dictionaries, a constant buffer, one that is not kept, and a scalar."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.weights = nn.ParameterDict({"in": torch.randn(784, 8) / 28, "out": torch.randn(8, outputs) / 3})
        self.shifts = nn.ParameterList([torch.zeros(8), torch.zeros(8)])
        self.temperature = nn.Parameter(torch.tensor(1.3))
        self.register_buffer("position", torch.linspace(0, 1, 784))
        self.register_buffer("mask", torch.arange(8) % 2 == 0, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh((x.flatten(1) + self.position) @ self.weights["in"] + self.shifts[0])
        x = torch.where(self.mask, x, x.square()) + self.shifts[1]  # type: ignore[arg-type]
        return x @ self.weights["out"] / self.temperature.exp()


class Unused(nn.Module):
    """A parameter that ``forward`` does not use, and a layer that it uses in evaluation alone."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.f, self.extra, self.h = nn.Linear(784, 8), nn.Linear(8, 5), nn.Linear(8, outputs)
        self.unused = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.f(x.flatten(1)))
        return self.h(x if self.training else self.extra(x)[:, :8])  # type: ignore[no-any-return]


class Running(nn.Module):
    """Buffers that ``forward`` updates and does not use."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.f, self.h = nn.Linear(784, 8), nn.Linear(8, outputs)
        self.register_buffer("mean", torch.zeros(8))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.f(x.flatten(1)))
        self.mean.mul_(0.9).add_(0.1 * x.mean(0).detach())  # type: ignore[operator]
        self.calls += 1
        return self.h(x)  # type: ignore[no-any-return]


class KeepsAttention(nn.Module):
    """Keeps what it computed last as attributes, as people do to look at attention, and counts its calls."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.f, self.h = nn.Linear(28, 8), nn.Linear(8, outputs)
        self.last: Tensor | None = None
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        x = torch.tanh(self.f(rows(x)))
        self.last = (x @ x.transpose(1, 2)).softmax(-1)
        return self.h((self.last @ x).mean(1))  # type: ignore[no-any-return]


class WritesInputs(nn.Module):
    """Changes its inputs in place."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.f, self.h = nn.Linear(784, 8), nn.Linear(8, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x -= x.mean()
        x.mul_(2)
        return self.h(torch.tanh(self.f(x.flatten(1))))  # type: ignore[no-any-return]


class Inner64(nn.Module):
    """A part of it computes in float64."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.f, self.h = nn.Linear(784, 8), nn.Linear(8, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.f(x.flatten(1))
        return self.h((x.double() - x.double().logsumexp(1, keepdim=True)).to(x.dtype))  # type: ignore[no-any-return]


class Hyper(nn.Module):
    """The weights of one layer are made by another one; a solve and a Fourier transform."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.f, self.maker, self.h = nn.Linear(784, 8), nn.Linear(8, 64), nn.Linear(8, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.f(x.flatten(1)))
        made = self.maker(x.mean(0)).view(8, 8)
        x = torch.linalg.solve(made @ made.T + 2 * torch.eye(8, dtype=x.dtype), x.T).T
        spectrum = torch.fft.rfft(x)
        return self.h(torch.fft.irfft(spectrum * torch.exp(-spectrum.abs()), n=8))  # type: ignore[no-any-return]


class Fixpoint(nn.Module):
    """Ten iterations of one layer, with a branch on the shape."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.f, self.g, self.h = nn.Linear(784, 8), nn.Linear(8, 8), nn.Linear(8, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.f(x.flatten(1))
        z = torch.zeros_like(x)
        for step in range(10 if x.shape[1] == 8 else 1):
            z = torch.tanh(self.g(z) / (1 + step) + x)
        return self.h(z)  # type: ignore[no-any-return]


class Experts(nn.Module):
    """A mixture of experts: soft weights of the two best."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.f, self.gate, self.h = nn.Linear(784, 8), nn.Linear(8, 4), nn.Linear(8, outputs)
        self.experts = nn.Parameter(torch.randn(4, 8, 8) / 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.f(x.flatten(1)))
        best, index = self.gate(x).topk(2, dim=-1)
        weights = torch.zeros_like(self.gate(x)).scatter(1, index, best.softmax(-1))
        mixed = torch.einsum("nd,edk,ne->nk", x, self.experts, weights)
        return self.h(torch.tanh(mixed))  # type: ignore[no-any-return]


class Branches(nn.Module):
    """A branch on data, which no map over tasks can take."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.f, self.g, self.h = nn.Linear(784, 8), nn.Linear(8, 8), nn.Linear(8, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.f(x.flatten(1)))
        if x.mean().item() > 0:
            x = torch.tanh(self.g(x))
        return self.h(x)  # type: ignore[no-any-return]


class HeadFirst(nn.Module):
    """The output layer is registered before the body."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(8, outputs)
        self.features = nn.Sequential(nn.Flatten(), nn.Linear(784, 8), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))  # type: ignore[no-any-return]


class PartlyEvaluated(nn.Module):
    """A frozen body in evaluation mode, whatever mode the whole is in."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 4, stride=4), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten()).eval()
        self.body.requires_grad_(False)
        self.norm, self.head = nn.BatchNorm1d(196), nn.Linear(196, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.norm(self.body(x))))  # type: ignore[no-any-return]


# Sequences and attention --------------------------------------------------------------------------------------------


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], outputs: int, **settings: Any) -> None:
        super().__init__()
        self.cells = kind(28, 6, batch_first=True, **settings)
        self.head = nn.Linear(6 * (1 + self.cells.bidirectional), outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cells(rows(x))[0][:, -1])  # type: ignore[no-any-return]


def rnn(outputs: int) -> nn.Module:
    return Recurrent(nn.RNN, outputs)


def gru(outputs: int) -> nn.Module:
    return Recurrent(nn.GRU, outputs, bidirectional=True)


def lstm(outputs: int) -> nn.Module:
    return Recurrent(nn.LSTM, outputs, num_layers=2)


class Cells(nn.Module):
    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.gru, self.lstm, self.head = nn.GRUCell(28, 6), nn.LSTMCell(28, 6), nn.Linear(12, outputs)

    def forward(self, x: Tensor) -> Tensor:
        a = b = c = torch.zeros(len(x), 6, dtype=x.dtype)
        for row in rows(x).unbind(1):
            a = self.gru(row, a)
            b, c = self.lstm(row, (b, c))
        return self.head(torch.cat([a, b], 1))  # type: ignore[no-any-return]


class Transformer(nn.Module):
    """With a class token, positions, and dropout that has nothing to drop."""

    def __init__(self, outputs: int, dropout: float = 0.0, **settings: Any) -> None:
        super().__init__()
        self.inputs, self.head = nn.Linear(28, 8), nn.Linear(8, outputs)
        self.token, self.positions = nn.Parameter(torch.zeros(1, 1, 8)), nn.Parameter(torch.randn(8, 8) / 9)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout, activation="gelu", batch_first=True, **settings)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(len(x), -1, -1), self.inputs(rows(x))], 1) + self.positions
        return self.head(self.layer(x)[:, 0])  # type: ignore[no-any-return]


def transformer(outputs: int) -> nn.Module:
    return Transformer(outputs)


def transformer_norm_first(outputs: int) -> nn.Module:
    return Transformer(outputs, norm_first=True)


def transformer_dropout(outputs: int) -> nn.Module:
    return Transformer(outputs, dropout=0.2)


class Decoder(nn.Module):
    """Self-attention and cross-attention with a causal mask, through ``nn.TransformerDecoder``."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.inputs, self.head = nn.Linear(28, 8), nn.Linear(8, outputs)
        self.decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(8, 2, 16, 0.0, "gelu", batch_first=True), 2)
        self.memory = nn.Parameter(torch.randn(3, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = self.inputs(rows(x))
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1], dtype=x.dtype)
        x = self.decoder(x, self.memory.expand(len(x), -1, -1), tgt_mask=mask, tgt_is_causal=True)
        return self.head(x[:, -1])  # type: ignore[no-any-return]


class CausalAttention(nn.Module):
    """A language model's block on tokens, with the fused attention function."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.embedding, self.qkv, self.head = (
            nn.Embedding(16, 8, padding_idx=0),
            nn.Linear(8, 24),
            nn.Linear(8, outputs),
        )
        self.norm = nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.embedding(tokens_of(x)))
        q, k, v = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        x = x + F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        return self.head(x.mean(1))  # type: ignore[no-any-return]


class OwnAttention(nn.Module):
    """Attention by hand, with rotary positions."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.qkv, self.head = nn.Linear(28, 24, bias=False), nn.Linear(8, outputs)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(rows(x)).chunk(3, -1)
        angle = torch.arange(7, dtype=x.dtype)[:, None] / 10 ** torch.arange(4, dtype=x.dtype)
        q, k = (
            torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1)
            for a, b in (q.chunk(2, -1), k.chunk(2, -1))
        )
        scores = (q @ k.transpose(1, 2)) / math.sqrt(8)
        scores.masked_fill_(torch.ones(7, 7, dtype=torch.bool).triu(1), -math.inf)
        return self.head((scores.softmax(-1) @ v).mean(1))  # type: ignore[no-any-return]


# Dropout ------------------------------------------------------------------------------------------------------------


def dropout(outputs: int) -> nn.Module:
    return flat(outputs, nn.Dropout(0.3), nn.Linear(8, 8), nn.AlphaDropout(0.2))


def feature_dropout(outputs: int) -> nn.Module:
    return maps(outputs, nn.Dropout2d(0.4), nn.Conv2d(4, 4, 3), nn.FeatureAlphaDropout(0.2))


# What torch.func cannot run -----------------------------------------------------------------------------------------


class _Clip(torch.autograd.Function):
    """In the style of nearly all published functions: ``forward`` takes ``ctx``; its derivative is its own idea."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(-1, 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradient * (1 - torch.tanh(x) ** 2)


class _Reverse(torch.autograd.Function):
    """Gradient reversal, as in domain adaptation."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return -ctx.factor * gradient, None


class _Ternary(torch.autograd.Function):
    """A straight-through estimator in the newer style, with a rule for torch.func."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return torch.sign(x) * (x.abs() > 0.3).to(x.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class Apply(nn.Module):
    def __init__(self, function: type[torch.autograd.Function], *arguments: Any) -> None:
        super().__init__()
        self.function, self.arguments = function, arguments

    def forward(self, x: Tensor) -> Tensor:
        return self.function.apply(x, *self.arguments)  # type: ignore[no-any-return, no-untyped-call]


def classic_function(outputs: int) -> nn.Module:
    return flat(outputs, nn.Linear(8, 8), Apply(_Clip))


def gradient_reversal(outputs: int) -> nn.Module:
    return flat(outputs, Apply(_Reverse, 0.5), nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Tanh())


def straight_through(outputs: int) -> nn.Module:
    return flat(outputs, nn.Linear(8, 8), Apply(_Ternary))


class Checkpointed(nn.Module):
    def __init__(self, outputs: int, reentrant: bool) -> None:
        super().__init__()
        self.f, self.body, self.head = (
            nn.Linear(784, 8),
            nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Tanh()),
            nn.Linear(8, outputs),
        )
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        from torch.utils.checkpoint import checkpoint, checkpoint_sequential

        x = checkpoint(self.body, torch.tanh(self.f(x.flatten(1))), use_reentrant=self.reentrant)
        return self.head(checkpoint_sequential(self.body, 2, x, use_reentrant=self.reentrant))  # type: ignore[no-any-return]


def checkpointed(outputs: int) -> nn.Module:
    return Checkpointed(outputs, reentrant=False)


def checkpointed_reentrant(outputs: int) -> nn.Module:
    return Checkpointed(outputs, reentrant=True)


class Energy(nn.Module):
    """The derivative of an energy by its input, as in force fields."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.energy, self.h = nn.Sequential(nn.Linear(784, 8), nn.Tanh(), nn.Linear(8, 1)), nn.Linear(784, outputs)

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.flatten(1).detach().requires_grad_()
            (force,) = torch.autograd.grad(self.energy(x).sum(), x, create_graph=True)
        return self.h(force)  # type: ignore[no-any-return]


class Detached(nn.Module):
    """Stops gradients in part, in both ways that there are."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.f, self.g, self.h = nn.Linear(784, 8), nn.Linear(8, 8), nn.Linear(8, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.f(x.flatten(1)))
        with torch.no_grad():
            scale = self.g(x).norm(dim=1, keepdim=True)
        return self.h(torch.tanh(self.g(x)) / (1 + scale) + x.detach())  # type: ignore[no-any-return]


class ThroughNumpy(nn.Module):
    """A constant of each call is computed by NumPy."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.f, self.h = nn.Linear(784, 8), nn.Linear(8, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.f(x.flatten(1)))
        return self.h(x + torch.from_numpy(np.tanh(x.detach().numpy())))  # type: ignore[no-any-return]


class HookedTensor(nn.Module):
    """A hook on an intermediate tensor that changes its gradient."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.f, self.h = nn.Linear(784, 8), nn.Linear(8, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.f(x.flatten(1)))
        if x.requires_grad:
            x.register_hook(lambda gradient: gradient * 0.5)
        return self.h(x)  # type: ignore[no-any-return]


# What a module's objects and functions lead to ----------------------------------------------------------------------


class Holder:
    """Calls the function that it holds."""

    def __init__(self, function: Any) -> None:
        self.function = function

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)


class FunctionInObject(nn.Module):
    """Functions in objects and namespaces read parameters."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.f, self.h, self.scale = nn.Linear(784, 8), nn.Linear(8, outputs), nn.Parameter(torch.linspace(0.5, 1.5, 8))
        self.gate = Holder(lambda x: x * self.scale)
        self.operations = SimpleNamespace(act=[lambda x: torch.tanh(self.gate(x))])

    def forward(self, x: Tensor) -> Tensor:
        return self.h(self.operations.act[0](self.f(x.flatten(1))))  # type: ignore[no-any-return]


def wrapped_forward(outputs: int) -> nn.Module:
    """The method ``forward`` is replaced by an object around the old one, as mixed-precision wrappers do."""
    module = flat(outputs)
    forward = module.forward
    module.forward = Holder(lambda x: 2 * forward(x))  # type: ignore[method-assign]
    return module


class Child(nn.Module):
    """Uses a parameter of the layer that it is in."""

    def __init__(self, parent: nn.Module) -> None:
        super().__init__()
        self.parent, self.lock, self.layer = weakref.ref(parent), threading.Lock(), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        with self.lock:
            return torch.tanh(self.layer(x)) * self.parent().scale  # type: ignore[union-attr, operator, return-value]


class WeakParent(nn.Module):
    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.f, self.h, self.scale = nn.Linear(784, 8), nn.Linear(8, outputs), nn.Parameter(torch.linspace(0.5, 1.5, 8))
        self.child = Child(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.h(self.child(self.f(x.flatten(1))))  # type: ignore[no-any-return]


class Unregistered(nn.Module):
    """A fixed random projection that is no submodule, and is moved to its inputs' type in ``forward``."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.f, self.h, self.fixed = nn.Linear(784, 8), nn.Linear(8, outputs), [nn.Linear(8, 8)]

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.f(x.flatten(1)))
        return self.h(torch.tanh(self.fixed[0].to(x)(x)))  # type: ignore[no-any-return]


class Bookkeeping(nn.Module):
    """Counts its calls and lists what it saw, and never looks at it."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.f, self.h = nn.Linear(784, 8), nn.Linear(8, outputs)
        self.calls, self.shapes, self.last = 0, [()], {}  # type: ignore[var-annotated]

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.shapes.append(tuple(x.shape))  # type: ignore[arg-type]
        self.last["hidden"] = x = torch.tanh(self.f(x.flatten(1)))
        return self.h(x)  # type: ignore[no-any-return]


class SeededProjection(nn.Module):
    """Random constants, drawn anew from the same seeds in every call."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.f, self.h = nn.Linear(784, 8), nn.Linear(8, outputs)

    def forward(self, x: Tensor) -> Tensor:
        noise = torch.randn(8, 8, generator=torch.Generator().manual_seed(0)).to(x)
        return self.h(torch.tanh(self.f(x.flatten(1))) @ noise * random.Random(3).random())  # type: ignore[no-any-return]


def pruned(outputs: int) -> nn.Module:
    """The pruned weight is an attribute that was computed before the first call."""
    layer = prune.ln_structured(nn.Linear(8, 8), "weight", 0.3, n=2, dim=0)
    return flat(outputs, prune.l1_unstructured(layer, "weight", 0.3))


class InnerStep(nn.Module):
    """A gradient step of its own on one of its weights in every call, as in test-time training."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.f, self.h, self.layer = nn.Linear(784, 8), nn.Linear(8, outputs), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x, weight = torch.tanh(self.f(x.flatten(1))), self.layer.weight
        with torch.enable_grad():
            loss = (F.linear(x, weight) - x).square().mean()
            (gradient,) = torch.autograd.grad(loss, weight, create_graph=True)
        return self.h(torch.tanh(F.linear(x, weight - 0.5 * gradient)))  # type: ignore[no-any-return]


def traced(outputs: int) -> nn.Module:
    """A part of it is TorchScript."""
    part = nn.Sequential(nn.Linear(8, 8), nn.Tanh())
    return flat(outputs, torch.jit.trace(part, torch.zeros(2, 8)))
