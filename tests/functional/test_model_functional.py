"""A user's module run functionally: its semantics, names, state and statistics."""

import pytest
import torch
from torch import nn
from torch.func import grad, vmap
from torch.nn import functional as F

from distmeta.errors import ConfigError
from distmeta.functional.module import FunctionalModule

NORMS = {
    "batch": lambda: nn.BatchNorm1d(6),
    "batch-plain": lambda: nn.BatchNorm1d(6, affine=False),
    "batch-cumulative": lambda: nn.BatchNorm1d(6, momentum=None),
    "batch-untracked": lambda: nn.BatchNorm1d(6, track_running_stats=False),
    "batch-untracked-eval": lambda: nn.BatchNorm1d(6, track_running_stats=False).eval(),
    "instance": lambda: nn.InstanceNorm1d(6, affine=True, track_running_stats=True),
    "instance-eval": lambda: nn.InstanceNorm1d(6, track_running_stats=True).eval(),
    "batch-eval": lambda: _with_statistics(nn.BatchNorm1d(6)).eval(),
    "sync": lambda: nn.SyncBatchNorm(6).eval(),
}


def _with_statistics(norm):
    norm.running_mean.copy_(torch.linspace(-1, 1, 6))
    norm.running_var.copy_(torch.linspace(0.5, 2, 6))
    return norm


def normed(norm):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 12), nn.Unflatten(1, (6, 2)), NORMS[norm](), nn.Flatten(), nn.Linear(12, 3))


@pytest.mark.parametrize("norm", NORMS)
def test_norms_under_second_derivatives_are_the_plain_ones(norm):
    module = normed(norm).double()
    network = FunctionalModule(module)
    inputs = torch.randn(2, 5, 4, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 0, 1])

    def loss(parameters, x):
        return F.cross_entropy(network(parameters, x), labels)

    def adapted_loss(parameters, x):
        gradient = grad(loss)(parameters, x)
        return loss({name: value - 0.1 * gradient[name] for name, value in parameters.items()}, x)

    mapped = vmap(grad(adapted_loss), in_dims=(None, 0))(network.parameters, inputs)
    before = {name: value.clone() for name, value in network.state_dict(network.parameters).items()}
    for task in range(2):
        parameters = dict(module.named_parameters())
        gradient = torch.autograd.grad(
            F.cross_entropy(module(inputs[task]), labels), list(parameters.values()), create_graph=True
        )
        stepped = {name: value - 0.1 * part for (name, value), part in zip(parameters.items(), gradient, strict=True)}
        outputs = torch.func.functional_call(module, stepped, (inputs[task],))
        expected = torch.autograd.grad(F.cross_entropy(outputs, labels), list(parameters.values()))
        for name, value in zip(parameters, expected, strict=True):
            torch.testing.assert_close(mapped[name][task], value, rtol=1e-9, atol=1e-11)
    after = network.state_dict(network.parameters)
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize(
    ("norm", "uses"),
    [("batch", True), ("batch-untracked-eval", True), ("batch-eval", False), ("instance", False)],
)
def test_batch_statistics_are_reported(norm, uses):
    assert FunctionalModule(normed(norm)).uses_batch_statistics is uses


def test_norm_in_evaluation_mode_uses_its_running_statistics_one_example_alone_too():
    norm = _with_statistics(nn.BatchNorm1d(6)).eval()
    network = FunctionalModule(norm)
    inputs = torch.randn(1, 6)
    expected = (inputs - norm.running_mean) / torch.sqrt(norm.running_var + norm.eps)
    torch.testing.assert_close(network(network.parameters, inputs), expected)


def test_one_value_a_channel_is_refused_by_name():
    network = FunctionalModule(normed("batch"))
    network(network.parameters, torch.randn(1, 4))
    flat = FunctionalModule(nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6)))
    with pytest.raises(ConfigError, match=r"'1' needs more than one value per channel.*shots or queries"):
        vmap(lambda x: flat(flat.parameters, x))(torch.randn(3, 1, 4))


def test_inductive_prediction_by_hand():
    torch.manual_seed(0)
    module = nn.Sequential(nn.BatchNorm1d(3), nn.ReLU(), nn.BatchNorm1d(3)).double()
    for norm in (module[0], module[2]):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    network = FunctionalModule(module)
    support, query = torch.randn(2, 5, 3, dtype=torch.float64), torch.randn(2, 4, 3, dtype=torch.float64)

    def by_hand(support, query):
        for norm in (module[0], module[2]):
            mean, variance = support.mean(0), support.var(0, correction=0)
            support, query = (
                (x - mean) / torch.sqrt(variance + norm.eps) * norm.weight + norm.bias for x in (support, query)
            )
            if norm is module[0]:
                support, query = support.relu(), query.relu()
        return query.detach()

    def predict(support, query):
        return network.with_support_statistics(network.parameters, support, query)

    mapped = vmap(predict)(support, query)
    for task in range(2):
        expected = by_hand(support[task], query[task])
        torch.testing.assert_close(mapped[task], expected)
        torch.testing.assert_close(predict(support[task], query[task]), expected)
        torch.testing.assert_close(predict(support[task], query[task][:1]), expected[:1])
    transductive = network(network.parameters, query[0])
    assert not torch.allclose(transductive, mapped[0])


def test_inductive_prediction_has_derivatives():
    network = FunctionalModule(normed("batch").double())
    support, query = torch.randn(2, 5, 4, dtype=torch.float64)

    def total(weight):
        parameters = {**network.parameters, "0.weight": weight}
        return network.with_support_statistics(parameters, support, query)

    weight = network.parameters["0.weight"].clone().requires_grad_()
    assert torch.autograd.gradcheck(total, (weight,))


class Shared(nn.Module):
    """One batch norm, called several times in a forward."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x):
        return self.norm(2 * self.norm(x) + 1)


def test_a_layer_called_twice_has_statistics_for_each_call():
    network = FunctionalModule(Shared())
    inputs = torch.randn(5, 3)
    outputs = network.with_support_statistics(network.parameters, inputs, inputs)
    torch.testing.assert_close(outputs, network(network.parameters, inputs))


class CallsMore(Shared):
    """Calls its norm once more for larger inputs."""

    def forward(self, x):
        x = self.norm(x)
        return self.norm(x) if len(x) > 5 else x


def test_statistics_are_forgotten_after_an_error():
    network = FunctionalModule(CallsMore())
    support, query = torch.randn(5, 3), torch.randn(6, 3)
    with pytest.raises(ConfigError, match="'norm' more often"):
        vmap(lambda s, q: network.with_support_statistics(network.parameters, s, q))(support[None], query[None])
    module = CallsMore()
    torch.testing.assert_close(network(network.parameters, query), module(query))


def test_without_batch_statistics_inductive_is_the_plain_prediction():
    network = FunctionalModule(nn.Linear(3, 2))
    query = torch.randn(4, 3)
    outputs = network.with_support_statistics(network.parameters, torch.randn(5, 3), query)
    assert torch.equal(outputs, network(network.parameters, query))


class Tied(nn.Module):
    """Embedding and output layer share their weight; a frozen scale; a buffer; a batch norm."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.norm = nn.BatchNorm1d(4)
        self.out = nn.Linear(4, 7)
        self.out.weight = self.embed.weight
        self.scale = nn.Parameter(torch.tensor(3.0), requires_grad=False)
        self.register_buffer("offset", torch.arange(7.0))
        self.register_buffer("scratch", torch.zeros(2), persistent=False)

    def forward(self, tokens):
        return self.out(self.norm(self.embed(tokens))) * self.scale + self.offset


def test_tied_and_frozen_parameters():
    module = Tied()
    network = FunctionalModule(module)
    assert set(network.parameters) == {"embed.weight", "norm.weight", "norm.bias", "out.bias"}
    assert network.frozen == ("scale",)
    assert network.tied == {"out.weight": "embed.weight"}
    tokens = torch.tensor([0, 3, 6, 2])
    parameters = {name: value + 0.5 for name, value in network.parameters.items()}
    with torch.no_grad():
        module.embed.weight += 0.5
        module.norm.weight += 0.5
        module.norm.bias += 0.5
        module.out.bias += 0.5
        torch.testing.assert_close(network(parameters, tokens), module(tokens))


def test_gradients_of_tied_parameters_are_sums():
    module = Tied()
    network = FunctionalModule(module)
    tokens = torch.tensor([0, 3, 6, 2])
    gradient = grad(lambda parameters: network(parameters, tokens).square().sum())(network.parameters)
    module(tokens).square().sum().backward()
    torch.testing.assert_close(gradient["embed.weight"], module.embed.weight.grad)


def test_state_loads_strictly_into_the_original():
    module = Tied()
    module.norm.running_mean += 2
    network = FunctionalModule(module)
    tokens = torch.tensor([0, 3, 6, 2])
    parameters = {name: value + 0.5 for name, value in network.parameters.items()}
    state = network.state_dict(parameters)
    assert list(state) == list(module.state_dict())
    assert state["out.weight"].data_ptr() != state["embed.weight"].data_ptr()
    assert torch.equal(state["norm.running_mean"], torch.full((4,), 2.0))
    fresh = Tied()
    fresh.load_state_dict(state, strict=True)
    assert torch.equal(fresh(tokens), network(parameters, tokens))


def test_frozen_tied_parameters_are_constants_under_each_name():
    module = Tied()
    module.embed.weight.requires_grad_(False)
    network = FunctionalModule(module)
    assert network.frozen == ("scale", "embed.weight")
    state = network.state_dict(network.parameters)
    assert torch.equal(state["out.weight"], module.embed.weight)
    fresh = Tied()
    fresh.load_state_dict(state, strict=True)


def test_parameters_are_the_users_no_more():
    module = nn.Linear(2, 1)
    network = FunctionalModule(module)
    before = network.parameters["weight"].clone()
    with torch.no_grad():
        module.weight += 1
    assert torch.equal(network.parameters["weight"], before)
    assert not network.parameters["weight"].requires_grad


def test_missing_parameters_are_refused():
    network = FunctionalModule(nn.Linear(2, 1))
    with pytest.raises(ValueError, match="bias"):
        network({"weight": network.parameters["weight"]}, torch.ones(3, 2))


class Counting(nn.Module):
    """Writes a buffer in place, and replaces another."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        self.seen = self.seen + x.sum()
        return x * self.weight * self.calls


def test_buffers_that_the_module_updates_stay_constant():
    network = FunctionalModule(Counting(), example=torch.ones(2, 1))
    for _ in range(3):
        assert torch.equal(network(network.parameters, torch.ones(2, 1)), torch.ones(2, 1))
    vmap(lambda x: network(network.parameters, x))(torch.ones(4, 2, 1))
    assert not network.state_dict(network.parameters)["seen"].any()


def test_moved_to_another_type():
    network = FunctionalModule(normed("batch-eval")).to(dtype=torch.float64)
    assert all(value.dtype == torch.float64 for value in network.parameters.values())
    assert network(network.parameters, torch.randn(2, 4, dtype=torch.float64)).dtype == torch.float64


class GivesPair(nn.Linear):
    def forward(self, x):
        return super().forward(x), x


class HoldsResult(nn.Linear):
    def __init__(self):
        super().__init__(2, 1)
        self.result = self.weight * 2

    def forward(self, x):
        return super().forward(x) + x @ self.result.t()


def test_modules_that_cannot_be_used_are_refused():
    pair = FunctionalModule(GivesPair(2, 1))
    with pytest.raises(ConfigError, match="returns tuple"):
        pair(pair.parameters, torch.ones(3, 2))
    with pytest.raises(ConfigError, match=r"reads result, which was computed .*compute it in forward"):
        FunctionalModule(HoldsResult(), example=torch.ones(3, 2))
    with pytest.raises(ConfigError, match="lazy"):
        FunctionalModule(nn.LazyLinear(3))


class Renames(nn.Module):
    """Saves its layer under another name, as wrappers do, and something that is no tensor."""

    def __init__(self):
        super().__init__()
        self.wrapped = nn.Linear(2, 1)
        self.register_state_dict_post_hook(
            lambda own, state, prefix, _: state.update(weight=state.pop("wrapped.weight"))
        )

    def get_extra_state(self):
        return {"version": 3}

    def set_extra_state(self, state):
        pass

    def forward(self, x):
        return self.wrapped(x)


def test_parameters_are_saved_under_whatever_names_the_state_dict_has():
    network = FunctionalModule(Renames())
    moved = {name: value + 1 for name, value in network.parameters.items()}
    saved = network.state_dict(moved)
    assert saved.keys() == {"weight", "wrapped.bias"}
    assert torch.equal(saved["weight"], moved["wrapped.weight"])
    assert network.unsaved == ("_extra_state",)
