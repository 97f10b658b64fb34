"""Modules of many kinds: their meta-gradients, mapped and by every implementation, are those of plain autograd."""

from __future__ import annotations

import copy
import functools
import pickle

import pytest
import torch
from torch import nn
from torch.func import grad, vmap
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from distmeta.errors import ConfigError
from distmeta.functional.kernels import build
from distmeta.functional.module import FunctionalModule

RATE, WAYS, SHAPE = 0.1, 3, (1, 8, 8)
FORMS = [None, "products", *([] if build.unavailable() else ["native"])]


class HalfNorm(nn.BatchNorm2d):
    def forward(self, x):
        return 0.5 * super().forward(x) + 0.5 * x


class GatedNorm(nn.BatchNorm2d):
    def __init__(self, channels):
        super().__init__(channels)
        self.gate = nn.Parameter(torch.full((channels,), 0.5))

    def forward(self, x):
        return super().forward(x) * torch.sigmoid(self.gate).view(1, -1, 1, 1)


class GhostNorm(nn.BatchNorm2d):
    """Statistics of halves of the batch: two calls of the base class in one."""

    def forward(self, x):
        return torch.cat([super(GhostNorm, self).forward(half) for half in x.chunk(2)])


class CountingNorm(nn.BatchNorm2d):
    """Counts itself, as older code does."""

    def forward(self, x):
        if self.training:
            self.num_batches_tracked += 1
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, self.training)


class StandardConv(nn.Conv2d):
    def _conv_forward(self, x, weight, bias):
        flat = weight.view(len(weight), -1)
        flat = (flat - flat.mean(1, keepdim=True)) / (flat.std(1, keepdim=True) + 1e-5)
        return super()._conv_forward(x, flat.view(weight.shape), bias)


class DoubleConv(nn.Conv2d):
    def doubled(self, x):
        return 2 * self(x)


class After(nn.Module):
    """A convolution, something after it, a linear layer."""

    def __init__(self, after, conv=None, size=36):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, stride=2, padding=0) if conv is None else conv
        self.after = after if isinstance(after, nn.Module) else None
        self.function = after
        self.head = nn.Linear(size, WAYS)

    def forward(self, x):
        y = self.conv(x) if self.function is None else self.function(self.conv(x))
        return self.head(torch.tanh(y).flatten(1))


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.filters = nn.Parameter(0.3 * torch.randn(4, 1, 3, 3))
        self.scale = nn.Parameter(torch.ones(4))
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("variance", torch.ones(4))
        self.head = nn.Linear(36, WAYS)

    def forward(self, x):
        y = F.conv2d(x, self.filters, stride=2) + self.filters.view(4, -1).mean()
        y = F.batch_norm(y, self.mean, self.variance, self.scale, None, self.training)
        return self.head(F.leaky_relu(y).view(len(y), -1))


class AsksClasses(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(1, 4, 3, stride=2), nn.BatchNorm2d(4), nn.GroupNorm(2, 4)])
        self.head = nn.Linear(36, WAYS)

    def forward(self, x):
        for layer in self.layers:
            x = torch.tanh(layer(x)) if type(layer) is nn.BatchNorm2d else layer(x)
        return self.head(nn.BatchNorm2d.forward(self.layers[1], x).flatten(1))


class Calls(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = DoubleConv(1, 4, 3, stride=2)
        self.head = nn.Linear(36, WAYS)

    def forward(self, x):
        return self.head(torch.tanh(self.conv.doubled(x)).flatten(1))


class Dense(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(64, 6)
        self.head = nn.Linear(6, WAYS)

    def hidden(self, x):
        return torch.tanh(self.first(x.flatten(1)))

    def forward(self, x):
        return self.head(self.hidden(x))


class Half(nn.Module):
    def __init__(self, shared):
        super().__init__()
        self.embed = shared
        self.mix = nn.Linear(6, 6)

    def forward(self, x):
        return torch.tanh(self.mix(self.embed(x)))


class TiedUnderManyNames(nn.Module):
    """As T5: a module under three names, whose parameter another layer shares."""

    def __init__(self):
        super().__init__()
        self.shared = nn.Linear(64, 6, bias=False)
        self.encoder, self.decoder = Half(self.shared), Half(self.shared)
        self.out = nn.Linear(64, 6, bias=False)
        self.out.weight = self.shared.weight
        self.head = nn.Linear(6, WAYS)

    def forward(self, x):
        x = x.flatten(1)
        return self.head(self.encoder(x) + self.decoder(x) * self.out(x))


class TiedInOneModule(Dense):
    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.linspace(0.5, 1.5, 6))
        self.b = self.a
        self.lists = nn.ParameterList([self.a, nn.Parameter(torch.full((6,), 0.3)), self.b])
        self.names = nn.ParameterDict({"x": self.lists[1]})
        self.repeated = nn.ModuleList([self.head, self.head])
        self.register_buffer("c", torch.full((6,), 2.0))
        self.register_buffer("d", self.c)
        self.frozen = nn.Linear(6, WAYS).requires_grad_(False)
        self.frozen_too = nn.Linear(6, WAYS).requires_grad_(False)
        self.frozen_too.weight = self.frozen.weight

    def forward(self, x):
        y = self.hidden(x) * self.a * self.b * self.lists[2] * self.names["x"] * self.c * self.d
        return self.repeated[1](y) + self.repeated[0](y * y) + self.frozen_too(y)


class ReadsItselfByFunctions(Dense):
    """A lambda, a hook and a partial that hold the module, which ``copy.deepcopy`` would leave with the original."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.full((6,), 0.7))
        self.act = lambda x: torch.tanh(x * self.scale)
        self.last = functools.partial(lambda layer, x: layer(x), self.head)
        self.first.register_forward_hook(lambda layer, inputs, outputs: outputs * self.scale)

    def forward(self, x):
        return self.last(self.act(self.first(x.flatten(1))))


class WritesInputs(Dense):
    def forward(self, x):
        x -= x.mean()
        return super().forward(x)


class KeepsResults(Dense):
    """What it keeps changes no output: its last attention, a counter, a mask by length, a buffer made late."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.calls, self.last, self.masks = 0, None, {}

    def forward(self, x):
        self.calls += 1
        y = self.hidden(x).unsqueeze(1) * torch.linspace(0.5, 1, 3).view(1, 3, 1)
        if 3 not in self.masks:
            self.masks[3] = torch.ones(3, 3, dtype=torch.bool).triu(1)
        if "late" not in self._buffers:
            self.register_buffer("late", torch.linspace(0, 1, 6), persistent=False)
        y, self.last = self.attention(y, y, y, attn_mask=self.masks[3])
        return self.head(y.mean(1) + self.late)


class ReadsStatistics(nn.Module):
    """Its outputs depend on what its batch norm has written before."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(64, momentum=0.5)
        self.head = nn.Linear(64, WAYS)

    def forward(self, x):
        y = self.norm(x.flatten(1))
        return self.head(y) + self.norm.running_mean.sum() + self.norm.num_batches_tracked


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.cells = kind(8, 5, batch_first=True)
        self.head = nn.Linear(5, WAYS)

    def forward(self, x):
        return self.head(self.cells(x[:, 0])[0][:, -1])


def convolutional(*layers, conv=None):
    conv = nn.Conv2d(1, 4, 3, stride=2) if conv is None else conv
    return nn.Sequential(conv, *layers, nn.Tanh(), nn.Flatten(), nn.Linear(36, WAYS))


def evaluating():
    norm = nn.BatchNorm2d(4).eval()
    norm.running_mean += 0.3
    return convolutional(norm)


def hooked():
    module = convolutional(nn.BatchNorm2d(4), nn.ReLU())
    module[1].register_forward_hook(lambda layer, inputs, outputs: outputs + 0.5)
    return module


def materialised():
    module = nn.Sequential(nn.LazyConv2d(4, 3, stride=2), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(WAYS))
    module.eval()(torch.zeros(2, *SHAPE))
    return module.train()


def repeated():
    layer = nn.Linear(6, 6)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 6), layer, nn.Tanh(), layer, nn.Linear(6, WAYS))


NETWORKS = {
    "half-norm": lambda: convolutional(HalfNorm(4)),
    "gated-norm": lambda: convolutional(GatedNorm(4)),
    "ghost-norm": lambda: convolutional(GhostNorm(4)),
    "counting-norm": lambda: convolutional(CountingNorm(4), nn.ReLU()),
    "norm-without-bias": lambda: convolutional(nn.BatchNorm2d(4, bias=False), nn.LeakyReLU(0.2)),
    "norm-without-affine": lambda: convolutional(nn.BatchNorm2d(4, affine=False, momentum=None), nn.ReLU()),
    "norm-in-evaluation": evaluating,
    "norm-with-hook": hooked,
    "sync-norm": lambda: convolutional(nn.SyncBatchNorm(4), nn.ReLU()),
    "instance-norm": lambda: convolutional(nn.InstanceNorm2d(4, affine=True, track_running_stats=True)),
    "standard-conv": lambda: convolutional(conv=StandardConv(1, 4, 3, stride=2)),
    "weight-norm": lambda: convolutional(conv=parametrizations.weight_norm(nn.Conv2d(1, 4, 3, stride=2))),
    "old-weight-norm": lambda: convolutional(conv=nn.utils.weight_norm(nn.Conv2d(1, 4, 3, stride=2))),
    "spectral-norm": lambda: convolutional(conv=parametrizations.spectral_norm(nn.Conv2d(1, 4, 3, stride=2))),
    "old-spectral-norm": lambda: convolutional(conv=nn.utils.spectral_norm(nn.Conv2d(1, 4, 3, stride=2))),
    "calls-own-method": Calls,
    "asks-classes": AsksClasses,
    "functional": Functional,
    "group-norm": lambda: After(lambda y: F.group_norm(y, 2)),
    "functional-instance-norm": lambda: After(F.instance_norm),
    "max-pool": lambda: After(lambda y: F.max_pool2d(y, 2), size=4),
    "view": lambda: After(lambda y: y.view(y.size(0), -1) * y.view_as(y).view(len(y), -1)),
    "looks-at-strides": lambda: After(lambda y: y * float(y.stride(1))),
    "writes-by-a-view": lambda: After(lambda y: (y.view(len(y), -1).mul_(3.0), y)[1]),
    "lazy": materialised,
    "tied-names": TiedUnderManyNames,
    "tied-in-one": TiedInOneModule,
    "repeated": repeated,
    "functions": ReadsItselfByFunctions,
    "keeps-results": KeepsResults,
    "writes-inputs": WritesInputs,
    "reads-statistics": ReadsStatistics,
    "lstm": lambda: Recurrent(nn.LSTM),
    "gru": lambda: Recurrent(nn.GRU),
}
LOOPED = {"spectral-norm", "old-spectral-norm", "lstm", "gru", "reads-statistics"}


def fresh(name):
    torch.manual_seed(0)
    return NETWORKS[name]().double()


def tasks(count=2):
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(count, 2, 6, *SHAPE, generator=generator, dtype=torch.float64)
    return x, torch.randint(WAYS, (count, 2, 6), generator=generator)


def plain(name, x, y):
    """The meta-gradient of one step: ``(1 - rate * Hessian) gradient``, each on a module that has just been built."""
    module = fresh(name)
    parameters = {n: p for n, p in module.named_parameters() if p.requires_grad}
    loss = F.cross_entropy(module(x[0].clone()), y[0])
    first = torch.autograd.grad(loss, list(parameters.values()), create_graph=True)
    stepped = fresh(name)
    moved = {n: p for n, p in stepped.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for (n, p), g in zip(parameters.items(), first, strict=True):
            moved[n].copy_(p - RATE * g)
    query = torch.autograd.grad(F.cross_entropy(stepped(x[1].clone()), y[1]), list(moved.values()))
    product = torch.autograd.grad(
        sum((g * q).sum() for g, q in zip(first, query, strict=True)),
        list(parameters.values()),
        materialize_grads=True,
    )
    return {n: q - RATE * h for n, q, h in zip(parameters, query, product, strict=True)}


def meta_gradient(network):
    def loss(parameters, x, y):
        return F.cross_entropy(network(parameters, x), y)

    def adapted(parameters, x, y):
        gradient = grad(loss)(parameters, x[0], y[0])
        stepped = {name: value - RATE * gradient[name] for name, value in parameters.items()}
        return loss(stepped, x[1], y[1])

    return lambda x, y: grad(adapted)(network.parameters, x, y)


@pytest.mark.parametrize("name", NETWORKS)
def test_meta_gradients_are_those_of_plain_autograd(name):
    module = fresh(name)
    network = FunctionalModule(module, example=torch.zeros(2, *SHAPE, dtype=torch.float64))
    classes = [type(layer) for layer in module.modules()]
    x, y = tasks()
    before = x.clone()
    expected = [plain(name, x[t], y[t]) for t in range(2)]
    for form in FORMS if network.has_task_layers else [None]:
        network.use(form)
        one = meta_gradient(network)
        each = [one(x[t], y[t]) for t in range(2)]
        if name not in LOOPED:
            mapped = vmap(one)(x, y)
            each += [{n: value[t] for n, value in mapped.items()} for t in range(2)]
        for number, gradient in enumerate(each):
            for n, value in expected[number % 2].items():
                torch.testing.assert_close(gradient[n], value, rtol=1e-8, atol=1e-10)
    assert torch.equal(x, before)
    assert [type(layer) for layer in module.modules()] == classes
    assert list(network.state_dict(network.parameters)) == list(module.state_dict())
    fresh(name).load_state_dict(network.state_dict(network.parameters), strict=True)


@pytest.mark.parametrize("name", ["half-norm", "ghost-norm", "functional", "group-norm", "norm-without-bias", "view"])
def test_inductive_predictions_see_one_query_example_at_a_time(name):
    network = FunctionalModule(fresh(name), example=torch.zeros(2, *SHAPE, dtype=torch.float64))
    x, _ = tasks()
    expected = None
    for form in FORMS if network.has_task_layers else [None]:
        network.use(form)

        def predict(support, query):
            return network.with_support_statistics(network.parameters, support, query)

        with torch.no_grad():
            mapped = vmap(predict)(x[:, 0], x[:, 1])
            for task in range(2):
                torch.testing.assert_close(mapped[task], predict(x[task, 0], x[task, 1]))
            if name != "ghost-norm":
                torch.testing.assert_close(mapped[0][:1], predict(x[0, 0], x[0, 1, :1]))
            expected = mapped if expected is None else expected
        torch.testing.assert_close(mapped, expected)
    if network.uses_batch_statistics:
        assert not torch.allclose(expected[0], network(network.parameters, x[0, 1]))


def test_batch_statistics_are_found_by_running():
    example = torch.zeros(2, *SHAPE, dtype=torch.float64)
    uses = {name: FunctionalModule(fresh(name), example=example).uses_batch_statistics for name in NETWORKS}
    assert {name for name in uses if uses[name]} == {
        *("half-norm", "gated-norm", "ghost-norm", "counting-norm", "norm-without-bias", "norm-without-affine"),
        *("norm-with-hook", "sync-norm", "asks-classes", "functional", "lazy", "reads-statistics"),
    }


def test_layouts_that_forward_looks_at_keep_torchs_own_layers():
    example = torch.zeros(2, *SHAPE, dtype=torch.float64)
    for name, there in (("view", True), ("looks-at-strides", False), ("writes-by-a-view", False)):
        assert FunctionalModule(fresh(name), example=example).has_task_layers is there


def test_one_value_a_channel_is_refused_for_functional_norms_too():
    network = FunctionalModule(fresh("functional"), example=torch.zeros(2, *SHAPE, dtype=torch.float64))
    with pytest.raises(ConfigError, match=r"of 'mean' needs more than one value per channel"):
        network(network.parameters, torch.zeros(1, 1, 3, 3, dtype=torch.float64))


@pytest.mark.parametrize("name", ["functions", "keeps-results", "norm-without-bias", "old-weight-norm", "tied-names"])
def test_a_copy_of_the_network_has_nothing_in_common_with_it(name):
    network = FunctionalModule(fresh(name), example=torch.zeros(2, *SHAPE, dtype=torch.float64))
    other = copy.deepcopy(network)
    x, y = tasks()
    for value in other.parameters.values():
        value.mul_(0.5)
    expected = plain(name, x[0], y[0])
    halved = meta_gradient(other)(x[0], y[0])
    for n, value in meta_gradient(network)(x[0], y[0]).items():
        torch.testing.assert_close(value, expected[n], rtol=1e-8, atol=1e-10)
    assert any(not torch.allclose(halved[n], value) for n, value in expected.items())


def test_what_can_be_pickled_stays_so():
    network = FunctionalModule(fresh("half-norm"), example=torch.zeros(2, *SHAPE, dtype=torch.float64))
    again = pickle.loads(pickle.dumps(network))
    x, _ = tasks()
    assert torch.equal(again(again.parameters, x[0, 0]), network(network.parameters, x[0, 0]))
