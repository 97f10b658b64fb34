"""Dropout by key: repeatable, different by task, mapped as looped; attention under vmap."""

import copy

import pytest
import torch
from torch import nn
from torch.func import grad, jvp, vmap
from torch.nn import functional as F

from distmeta.errors import ConfigError
from distmeta.functional.module import FunctionalModule

KEYS = torch.tensor([[1, 2], [3, 4], [2**32 - 1, 5]])


class Wrapped(nn.Module):
    """One parameter, so that any function can stand as a model."""

    def __init__(self, function):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.function = function

    def forward(self, inputs):
        return self.function(inputs * self.scale)


def run(function, inputs, **options):
    network = FunctionalModule(Wrapped(function), example=inputs)
    return network(network.parameters, inputs, **options)


def test_same_key_and_draw_same_mask_others_differ():
    inputs = torch.ones(4, 50)
    first = run(nn.Dropout(0.5), inputs, key=KEYS[0], draw=1)
    assert torch.equal(first, run(nn.Dropout(0.5), inputs, key=KEYS[0], draw=1))
    assert not torch.equal(first, run(nn.Dropout(0.5), inputs, key=KEYS[1], draw=1))
    assert not torch.equal(first, run(nn.Dropout(0.5), inputs, key=KEYS[0], draw=2))


def test_calls_within_a_forward_differ():
    outputs = run(lambda x: torch.stack([F.dropout(x, 0.5), F.dropout(x, 0.5)]), torch.ones(100), key=KEYS[0])
    assert not torch.equal(*outputs)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_share_of_zeros_and_scale(p):
    outputs = run(nn.Dropout(p), torch.ones(100, 400), key=KEYS[0])
    zeros = outputs == 0
    assert abs(zeros.double().mean() - p) < 4 * (p * (1 - p) / 40_000) ** 0.5
    torch.testing.assert_close(outputs[~zeros], torch.full_like(outputs[~zeros], 1 / (1 - p)))


def test_no_key_no_dropout_and_the_random_state_is_untouched():
    inputs = torch.randn(4, 50)
    before = torch.get_rng_state()
    assert torch.equal(run(nn.Dropout(0.5), inputs), inputs)
    run(nn.Dropout(0.5), inputs, key=KEYS[0])
    assert torch.equal(torch.get_rng_state(), before)


def test_probability_of_one_and_of_zero():
    inputs = torch.randn(4, 50)
    assert not run(nn.Dropout(1.0), inputs, key=KEYS[0]).any()
    assert not run(nn.AlphaDropout(1.0), inputs, key=KEYS[0]).any()
    assert torch.equal(run(nn.Dropout(0.0), inputs, key=KEYS[0]), inputs)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Dropout1d, (6, 10, 5)),
        (nn.Dropout2d, (6, 10, 5, 4)),
        (nn.Dropout3d, (6, 10, 3, 2, 4)),
        (nn.Dropout1d, (60, 5)),
        (nn.Dropout3d, (60, 3, 2, 4)),
        (nn.FeatureAlphaDropout, (6, 10, 5, 4)),
    ],
)
def test_whole_channels_are_dropped(layer, shape):
    outputs = run(layer(0.5), torch.ones(shape), key=KEYS[0])
    channels = outputs.reshape(60, -1)
    assert outputs.shape == shape
    assert (channels == channels[:, :1]).all()
    assert 15 < (channels[:, 0] == channels[:, 0].max()).sum() < 45


def test_alpha_dropout_keeps_mean_and_variance():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(200, 500, generator=generator, dtype=torch.float64)
    outputs = run(nn.AlphaDropout(0.3), inputs, key=KEYS[0])
    assert abs(outputs.mean()) < 0.02
    assert abs(outputs.var() - 1) < 0.03
    assert not torch.equal(outputs, inputs)


def test_inplace_dropout_writes_its_input():
    def discarded_result(x):
        y = x + 1
        F.dropout(y, 0.5, inplace=True)
        return y

    outputs = run(discarded_result, torch.zeros(100), key=KEYS[0])
    assert set(outputs.tolist()) == {0.0, 2.0}


def test_layers_in_evaluation_mode_stay_off():
    network = FunctionalModule(nn.Sequential(nn.Linear(3, 20), nn.Dropout(0.5).eval(), nn.Linear(20, 2)))
    inputs = torch.randn(4, 3)
    assert not network.uses_dropout
    outputs = network(network.parameters, inputs, key=KEYS[0])
    assert torch.equal(outputs, network(network.parameters, inputs))


def small_encoder(**options):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, **options)
    return nn.Sequential(nn.Unflatten(1, (3, 8)), layer, nn.Flatten(), nn.Linear(24, 2))


NETWORKS = {
    "mlp": (lambda: nn.Sequential(nn.Linear(24, 16), nn.ReLU(), nn.Dropout(0.4), nn.Linear(16, 2))),
    "conv": (
        lambda: nn.Sequential(
            nn.Unflatten(1, (1, 4, 6)),
            nn.Conv2d(1, 6, 3),
            nn.BatchNorm2d(6),
            nn.Dropout2d(0.4, inplace=True),
            nn.ReLU(inplace=True),
            nn.Flatten(),
            nn.Linear(48, 2),
        )
    ),
    "encoder": lambda: small_encoder(dropout=0.3),
    "encoder-norm-first": lambda: small_encoder(dropout=0.3, norm_first=True),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_mapped_masks_are_looped_masks(name):
    """With derivatives: a wrong mask in either order of differentiation would show."""
    network = FunctionalModule(NETWORKS[name]()).to(dtype=torch.float64)
    assert network.uses_dropout
    inputs = torch.randn(3, 5, 24, dtype=torch.float64)
    labels = torch.tensor([0, 1, 0, 1, 1])

    def loss(parameters, x, key, draw):
        return F.cross_entropy(network(parameters, x, key=key, draw=draw), labels)

    def adapted_loss(parameters, x, key):
        gradient = grad(loss)(parameters, x, key, 0)
        stepped = {name: value - 0.1 * gradient[name] for name, value in parameters.items()}
        return loss(stepped, x, key, 1)

    def hessian_product(parameters, x, key):
        return jvp(lambda values: grad(loss)(values, x, key, 0), (parameters,), (parameters,))[1]

    for function in (adapted_loss, grad(adapted_loss), hessian_product):
        mapped = vmap(function, in_dims=(None, 0, 0))(network.parameters, inputs, KEYS)
        for task in range(3):
            single = function(network.parameters, inputs[task], KEYS[task])
            selected = torch.utils._pytree.tree_map(lambda value, task=task: value[task], mapped)
            torch.testing.assert_close(selected, single, rtol=1e-9, atol=1e-12)


def test_mapped_dropout_equals_looped_bit_for_bit():
    inputs = torch.randn(3, 5, 24)
    for layer in (nn.Dropout(0.3), nn.AlphaDropout(0.3), nn.Dropout1d(0.3)):
        network = FunctionalModule(Wrapped(layer), example=inputs)

        def call(x, key, network=network):
            return network(network.parameters, x, key=key)

        mapped = vmap(call)(inputs[:, None], KEYS)
        assert torch.equal(mapped, torch.stack([call(x[None], key) for x, key in zip(inputs, KEYS, strict=True)]))


@pytest.mark.parametrize("training", [True, False])
def test_encoder_without_key_is_the_plain_encoder(training):
    module = small_encoder(dropout=0.0 if training else 0.3).train(training)
    network = FunctionalModule(module)
    inputs = torch.randn(2, 5, 24)
    with torch.no_grad():
        mapped = vmap(lambda x: network(network.parameters, x))(inputs)
        for task in range(2):
            torch.testing.assert_close(mapped[task], module(inputs[task]), rtol=1e-5, atol=1e-5)


def test_attention_with_weights_drops_by_key():
    class Attend(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, dropout=0.5, batch_first=True)

        def forward(self, x):
            return self.attention(x, x, x, need_weights=True)[1]

    network = FunctionalModule(Attend())
    inputs = torch.randn(2, 10, 8)
    dropped = network(network.parameters, inputs, key=KEYS[0])
    assert torch.equal(dropped, network(network.parameters, inputs, key=KEYS[0]))
    plain = network(network.parameters, inputs)
    torch.testing.assert_close(plain.sum(-1), torch.ones(2, 10))
    assert (dropped == 0).any()
    assert not (plain == 0).any()


@pytest.mark.parametrize("mask", ["none", "causal", "bool", "float", "grouped"])
def test_functional_attention_with_dropout_has_the_mean_of_plain_attention(mask):
    torch.manual_seed(0)
    query = torch.randn(2, 4, 5, 8, dtype=torch.float64)
    heads = 2 if mask == "grouped" else 4
    key, value = torch.randn(2, 2, heads, 5, 8, dtype=torch.float64)
    options = {
        "none": {},
        "causal": {"is_causal": True},
        "bool": {"attn_mask": torch.rand(5, 5) > 0.3},
        "float": {"attn_mask": torch.randn(5, 5, dtype=torch.float64)},
        "grouped": {"enable_gqa": True, "scale": 0.2},
    }[mask]

    def attend(x, p):
        return F.scaled_dot_product_attention(x, key, value, dropout_p=p, **options)

    network = FunctionalModule(Wrapped(lambda x: attend(x, 0.2)), example=query).to(dtype=torch.float64)
    assert network.uses_dropout
    plain = network(network.parameters, query)
    torch.testing.assert_close(plain, attend(query, 0.0))
    keys = torch.stack([torch.arange(4000), torch.zeros(4000, dtype=torch.int64)], -1)
    dropped = vmap(lambda key: network(network.parameters, query, key=key))(keys)
    error = (dropped.mean(0) - plain).abs() / (dropped.std(0) / 4000**0.5 + 1e-12)
    assert error.max() < 5
    assert not torch.allclose(dropped[0], plain)


def test_functional_attention_under_vmap_has_second_derivatives():
    network = FunctionalModule(
        Wrapped(lambda x: F.scaled_dot_product_attention(x, x, x)), example=torch.randn(1, 2, 5, 8)
    )

    def loss(parameters, x):
        return network(parameters, x).square().sum()

    inputs = torch.randn(3, 1, 2, 5, 8)
    second = grad(lambda parameters, x: grad(loss)(parameters, x)["scale"])
    mapped = vmap(second, in_dims=(None, 0))(network.parameters, inputs)["scale"]
    single = torch.stack([second(network.parameters, x)["scale"] for x in inputs])
    torch.testing.assert_close(mapped, single)


def test_functional_dropout_is_found_by_an_example():
    module = Wrapped(lambda x: F.dropout(x, 0.5))
    assert FunctionalModule(module, example=torch.ones(2, 3)).uses_dropout
    assert not FunctionalModule(Wrapped(torch.tanh), example=torch.ones(2, 3)).uses_dropout


def test_randomness_that_no_key_controls_is_refused():
    before = torch.get_rng_state()
    with pytest.raises(ConfigError, match="random numbers"):
        FunctionalModule(Wrapped(lambda x: x + torch.rand_like(x)), example=torch.ones(2, 3))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_module_itself_is_not_changed():
    module = NETWORKS["conv"]()
    state = copy.deepcopy(module.state_dict())
    network = FunctionalModule(module, example=torch.randn(5, 24))
    network(network.parameters, torch.randn(5, 24), key=KEYS[0])
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
    assert isinstance(module[2], nn.BatchNorm2d)
