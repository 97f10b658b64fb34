"""Modules whose outputs no key and no parameters fix, or that write their weights, are refused with the reason."""

from __future__ import annotations

import random
import secrets

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from distmeta.errors import ConfigError
from distmeta.functional.module import FunctionalModule

EXAMPLE = torch.zeros(2, 4)
GENERATOR = random.Random(3)
CALLS = [0]


class Dense(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.head = nn.Linear(6, 3)
        self.kept = self.start()

    def start(self):
        return None

    def forward(self, x):
        return self.head(self.changed(torch.tanh(self.first(x))))

    def changed(self, y):
        return y


class PythonRandom(Dense):
    def changed(self, y):
        return y if random.random() > 1e-6 else 2 * y


class NumpyRandom(Dense):
    def changed(self, y):
        return y if np.random.rand() > 1e-6 else 2 * y


class OwnNumpy(Dense):
    def start(self):
        return {"draws": [np.random.default_rng(0)]}

    def changed(self, y):
        return y if self.kept["draws"][0].random() > 1e-6 else 2 * y


class GlobalRandom(Dense):
    def changed(self, y):
        return y if GENERATOR.random() > 1e-6 else 2 * y


class SystemRandom(Dense):
    def changed(self, y):
        return y if secrets.randbelow(10**6) else 2 * y


class TorchGenerator(Dense):
    def start(self):
        return torch.Generator()

    def changed(self, y):
        return y + 0 * torch.rand((), generator=self.kept)


RANDOM = {
    PythonRandom: "module random",
    NumpyRandom: "numpy.random",
    OwnNumpy: "generator in kept",
    GlobalRandom: "generator in the global GENERATOR",
    SystemRandom: "os.urandom",
    TorchGenerator: "torch.Generator",
}


class EveryTenth(Dense):
    def start(self):
        return 0

    def changed(self, y):
        self.kept += 1
        return 2 * y if self.kept % 10 == 0 else y


class WarmUp(Dense):
    def start(self):
        return {"step": 0}

    def changed(self, y):
        self.kept["step"] += 1
        return y if self.kept["step"] < 2000 else 2 * y


class Schedule:
    def __init__(self):
        self.time = 0

    def __call__(self):
        self.time += 1
        return 1.0 if self.time < 500 else 0.1


class Scheduled(Dense):
    def start(self):
        return Schedule()

    def changed(self, y):
        return y * self.kept()


class Annealed(Dense):
    def start(self):
        return 1.0

    def changed(self, y):
        self.kept *= 0.999
        return y * self.kept


class ClassCounts(Dense):
    count = 0

    def changed(self, y):
        type(self).count += 1
        return 2 * y if self.count % 7 == 0 else y


class GlobalCounts(Dense):
    def changed(self, y):
        CALLS[0] += 1
        return 2 * y if CALLS[0] > 300 else y


def closure():
    count = 0

    class Closure(Dense):
        def changed(self, y):
            nonlocal count
            count += 1
            return 2 * y if count > 300 else y

    return Closure()


class History(Dense):
    def start(self):
        return []

    def changed(self, y):
        self.kept.append(None)
        return 2 * y if len(self.kept) > 40 else y


class Remembers(Dense):
    def changed(self, y):
        state = torch.zeros_like(y) if self.kept is None or len(self.kept) != len(y) else self.kept
        self.kept = torch.tanh(y + state).detach()
        return self.kept + y


class FirstBatch(Dense):
    """Centred by the first batch that it sees: two equal calls at the start give the same."""

    def changed(self, y):
        if self.kept is None:
            self.kept = y.detach().mean(0)
        return y - self.kept


class StaleCache(Dense):
    def start(self):
        return {}

    def changed(self, y):
        if len(y) not in self.kept:
            self.kept[len(y)] = y.detach().mean()
        return y + self.kept[len(y)]


STATEFUL = {
    EveryTenth: "kept",
    WarmUp: "kept.step",
    Scheduled: "kept.time",
    Annealed: "kept",
    ClassCounts: "ClassCounts.count",
    GlobalCounts: "the global CALLS",
    closure: "count of Closure",
    History: "kept",
    Remembers: "kept",
    FirstBatch: "kept",
    StaleCache: "kept",
}


class MaxNorm(Dense):
    def start(self):
        return nn.Embedding(5, 4, max_norm=50.0)

    def forward(self, x):
        return super().forward(self.kept((x * 4).long()).mean(1))


class FunctionalMaxNorm(Dense):
    def start(self):
        return nn.Parameter(torch.randn(5, 4))

    def forward(self, x):
        return super().forward(F.embedding((x * 4).long(), self.kept, max_norm=50.0).mean(1))


class Copies(Dense):
    def changed(self, y):
        weight = self.first.weight
        with torch.no_grad():
            if (weight.norm(dim=1) > 30).any():
                weight.copy_(weight * 0.5)
        return y


class WritesData(Dense):
    def changed(self, y):
        self.first.weight.data.clamp_(-9, 9)
        return y


class WritesAView(Dense):
    def changed(self, y):
        with torch.no_grad():
            self.first.weight[0] *= 1.0
        return y


class AssignsData(Dense):
    def changed(self, y):
        self.first.weight.data = self.first.weight.data.clamp(-9, 9)
        return y


class Replaces(Dense):
    def changed(self, y):
        self.first.weight = nn.Parameter(self.first.weight.detach() * 1.0)
        return y


class MovingAverage(Dense):
    def start(self):
        return nn.Linear(4, 6).requires_grad_(False)

    def changed(self, y):
        with torch.no_grad():
            self.kept.weight.lerp_(self.first.weight, 0.01)
        return y + self.kept.bias


WRITING = {
    MaxNorm: "kept.weight",
    FunctionalMaxNorm: "kept",
    Copies: "first.weight",
    WritesData: "first.weight",
    WritesAView: "first.weight",
    AssignsData: "first.weight",
    Replaces: "first.weight",
    MovingAverage: "kept.weight",
}


class FromATuple(Dense):
    def start(self):
        return (self.first.weight, self.first.bias)

    def forward(self, x):
        return self.head(torch.tanh(F.linear(x, *self.kept)))


class FromAnotherView(Dense):
    def start(self):
        return self.first.weight.detach().t()

    def forward(self, x):
        return self.head(torch.tanh(x @ self.kept + self.first.bias))


class SharesMemory(Dense):
    def start(self):
        other = nn.Linear(4, 6)
        other.weight = nn.Parameter(self.first.weight.data)
        return other


def refuse(build, match):
    torch.manual_seed(0)
    states = random.getstate(), str(np.random.get_state()), torch.get_rng_state()
    with pytest.raises(ConfigError, match=match) as error:
        FunctionalModule(build(), example=EXAMPLE)
    assert "use " in str(error.value) or "let " in str(error.value) or "compute " in str(error.value)
    assert random.getstate() == states[0]
    assert str(np.random.get_state()) == states[1]


@pytest.mark.parametrize("kind", RANDOM, ids=lambda kind: kind.__name__)
def test_randomness(kind):
    refuse(kind, f"random numbers from .*{RANDOM[kind]}")


@pytest.mark.parametrize("kind", STATEFUL, ids=lambda kind: kind.__name__)
def test_what_is_kept_between_calls(kind):
    refuse(kind, f"earlier calls, by what forward keeps in .*{STATEFUL[kind]}")


@pytest.mark.parametrize("kind", WRITING, ids=lambda kind: kind.__name__)
def test_weights_written_in_place(kind):
    refuse(kind, f"writes its parameter '{WRITING[kind]}'")


def test_parameters_read_by_another_way():
    with pytest.raises(ConfigError, match=r"do not follow 'first.weight', 'first.bias'.*nn.ParameterList"):
        FunctionalModule(FromATuple(), example=EXAMPLE)
    with pytest.raises(ConfigError, match=r"kept is another view of the memory of its parameter 'first.weight'"):
        FunctionalModule(FromAnotherView(), example=EXAMPLE)
    with pytest.raises(ConfigError, match=r"parameter 'kept.weight' is another view of the memory .* 'first.weight'"):
        FunctionalModule(SharesMemory(), example=EXAMPLE)


class Writes(Dense):
    """Writes inputs, but only such as the probe does not know."""

    def forward(self, x):
        if x.max() > 100:
            x /= 100
        return super().forward(x)


def test_inputs_of_the_caller_stay():
    network = FunctionalModule(Writes(), example=EXAMPLE)
    inputs = torch.full((3, 4), 200.0)
    outputs = network(network.parameters, inputs)
    assert torch.equal(inputs, torch.full((3, 4), 200.0))
    assert torch.equal(outputs, network(network.parameters, inputs / 100))


class Holds(Dense):
    def start(self):
        return []

    def changed(self, y):
        self.last = y
        self.kept.append(y)
        return y


def test_nothing_of_a_call_is_kept():
    network = FunctionalModule(Holds(), example=EXAMPLE)
    torch.func.vmap(lambda x: network(network.parameters, x))(torch.rand(3, 2, 4))
    module = network._converted.module
    assert module.kept == []
    assert not hasattr(module, "last")


class WritesItsHidden(Dense):
    """Writes in place what it has computed, and a buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(6))

    def changed(self, y):
        self.seen += y.detach().mean(0)
        y = y * 1
        y.mul_(2).add_(self.seen)
        return y


def test_no_call_changes_what_it_is_given():
    torch.manual_seed(0)
    module = WritesItsHidden()
    network = FunctionalModule(module, example=EXAMPLE)
    inputs = torch.rand(3, 4)
    before = {name: value.clone() for name, value in network.parameters.items()}
    first = network(network.parameters, inputs)
    torch.func.grad(lambda parameters: network(parameters, inputs).sum())(network.parameters)
    assert torch.equal(first, network(network.parameters, inputs))
    assert torch.equal(first, module(inputs))
    assert all(torch.equal(value, before[name]) for name, value in network.parameters.items())
    assert not network.state_dict(network.parameters)["seen"].any()
