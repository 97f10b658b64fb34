"""Every row of the table, with its variants: shapes, seeds, settings, derivatives mapped as looped."""

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.func import grad, jvp, vmap
from torch.nn import functional as F

from distmeta.core.records import TensorSpec
from distmeta.errors import ConfigError
from distmeta.functional import building, checks
from distmeta.functional.module import FunctionalModule
from distmeta.models import MODELS, model_options

SMALL_RESNET = {"kind": "resnet12", "widths": [3, 4, 5, 6]}
VARIANTS = {
    "mlp": ({"kind": "mlp", "hidden": [7, 5]}, (3,)),
    "mlp-tanh-images": ({"kind": "mlp", "hidden": [6], "activation": "tanh"}, (1, 4, 4)),
    "mlp-linear": ({"kind": "mlp", "hidden": []}, (3,)),
    "conv4-batch": ({"kind": "conv4", "filters": 4}, (1, 28, 28)),
    "conv4-flatten": ({"kind": "conv4", "filters": 4, "readout": "flatten"}, (2, 20, 33)),
    "conv4-group-pool": ({"kind": "conv4", "filters": 6, "norm": "group", "downsample": "pool"}, (3, 16, 35)),
    "conv4-layer": ({"kind": "conv4", "filters": 4, "norm": "layer"}, (1, 9, 9)),
    "conv4-none-pool": ({"kind": "conv4", "filters": 4, "norm": "none", "downsample": "pool"}, (1, 17, 17)),
    "conv4-batch-pool-mean": (
        {"kind": "conv4", "filters": 4, "downsample": "pool", "readout": "mean"},
        (1, 16, 16),
    ),
    "resnet12-batch": (SMALL_RESNET, (1, 28, 28)),
    "resnet12-group-dropout": ({**SMALL_RESNET, "norm": "group", "dropout": 0.2}, (1, 16, 16)),
    "resnet12-layer": ({**SMALL_RESNET, "norm": "layer"}, (3, 16, 16)),
    "resnet12-none": ({**SMALL_RESNET, "norm": "none"}, (3, 16, 16)),
}
WAYS, TASKS, SUPPORT, QUERY = 3, 2, 4, 5


def build(options, shape, outputs, seed=0):
    return building.build(options, TensorSpec(tuple(shape)), outputs, seed)


def check_outputs(module, options, shape, outputs):
    checks.check_outputs(module, options, torch.zeros(2, *shape), outputs)


@pytest.fixture(params=VARIANTS, name="variant")
def _variant(request):
    values, shape = VARIANTS[request.param]
    return model_options(values).model_validate(values), shape


def tasks(shape, seed=0):
    """x, y of the support and of the query, each with a leading task dimension."""
    generator = torch.Generator().manual_seed(seed)
    batch = []
    for examples in (SUPPORT, QUERY):
        batch.append(torch.randn(TASKS, examples, *shape, generator=generator, dtype=torch.float64))
        batch.append(torch.randint(WAYS, (TASKS, examples), generator=generator))
    return tuple(batch)


def test_variants_cover_the_table():
    # Others: test_token_models.py, and test_recurrent.py of the programs.
    of_one_input = {
        kind for kind, model in MODELS.items() if not (model.named_inputs or MODELS.options[kind].sequential)
    }
    assert {values["kind"] for values, _ in VARIANTS.values()} == of_one_input


def test_outputs_and_embedding_have_the_right_shape(variant):
    options, shape = variant
    module = build(options, shape, 5, seed=0)
    check_outputs(module, options, shape, 5)
    assert module(torch.randn(3, *shape)).shape == (3, 5)
    if getattr(options, "hidden", True):
        embedding = build(options, shape, None, seed=0)
        check_outputs(embedding, options, shape, None)
        assert embedding.head is None
        assert not any(name.startswith("head") for name, _ in embedding.named_parameters())
        assert embedding(torch.randn(3, *shape)).dim() == 2


def test_seed_fixes_the_parameters_and_leaves_the_random_state(variant):
    options, shape = variant
    before = torch.get_rng_state()
    first, again, other = (build(options, shape, WAYS, seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_head_is_the_last_layer(variant):
    options, shape = variant
    network = FunctionalModule(build(options, shape, WAYS, 0), torch.rand(2, *shape))
    assert set(network.head) == {"head.weight", "head.bias"}


def test_outputs_are_those_of_the_plain_module_in_training_mode(variant):
    options, shape = variant
    module = build(options, shape, WAYS, 0)
    network = FunctionalModule(module)
    inputs = torch.randn(4, *shape)
    running = {name: value.clone() for name, value in module.named_buffers()}
    outputs = network(network.parameters, inputs)
    assert all(torch.equal(value, running[name]) for name, value in module.named_buffers())
    for layer in module.modules():
        if isinstance(layer, nn.Dropout):
            layer.eval()
    torch.testing.assert_close(outputs, module(inputs), rtol=0, atol=0)


def test_derivatives_mapped_are_those_of_plain_autograd_one_task_at_a_time(variant):
    """First order, and second order through one inner step of gradient descent."""
    options, shape = variant
    module = build(options, shape, WAYS, 0).double()
    network = FunctionalModule(module)
    batch = tasks(shape)

    def loss(parameters, x, y):
        return F.cross_entropy(network(parameters, x), y)

    def adapted_loss(parameters, x, y, query_x, query_y):
        gradient = grad(loss)(parameters, x, y)
        stepped = {name: value - 0.1 * gradient[name] for name, value in parameters.items()}
        return loss(stepped, query_x, query_y)

    mapped = vmap(grad(adapted_loss), in_dims=(None, 0, 0, 0, 0))(network.parameters, *batch)
    mapped_first = vmap(grad(loss), in_dims=(None, 0, 0))(network.parameters, *batch[:2])
    for task in range(TASKS):
        x, y, query_x, query_y = (tensor[task] for tensor in batch)
        first, second = plain_gradients(module, x, y, query_x, query_y)
        for name in network.parameters:
            torch.testing.assert_close(mapped_first[name][task], first[name], rtol=1e-9, atol=1e-11)
            torch.testing.assert_close(mapped[name][task], second[name], rtol=1e-9, atol=1e-11)


def plain_gradients(module, x, y, query_x, query_y):
    """Of the support loss, and of the query loss after one step, by torch.autograd on the module itself."""
    for layer in module.modules():
        if isinstance(layer, nn.Dropout):
            layer.eval()
    parameters = dict(module.named_parameters())
    gradient = torch.autograd.grad(F.cross_entropy(module(x), y), list(parameters.values()), create_graph=True)
    stepped = {name: value - 0.1 * part for (name, value), part in zip(parameters.items(), gradient, strict=True)}
    outputs = torch.func.functional_call(module, stepped, (query_x,))
    second = torch.autograd.grad(F.cross_entropy(outputs, query_y), list(parameters.values()))
    return dict(zip(parameters, gradient, strict=True)), dict(zip(parameters, second, strict=True))


def test_hessian_products_forward_over_reverse_agree_with_reverse_over_reverse(variant):
    options, shape = variant
    network = FunctionalModule(build(options, shape, WAYS, 0)).to(dtype=torch.float64)
    x, y, _, _ = tasks(shape)
    generator = torch.Generator().manual_seed(1)
    direction = {
        name: torch.randn(value.shape, generator=generator, dtype=torch.float64)
        for name, value in network.parameters.items()
    }

    def forward(x, y):
        gradient = grad(lambda parameters: F.cross_entropy(network(parameters, x), y))
        return jvp(gradient, (network.parameters,), (direction,))[1]

    def reverse(x, y):
        gradient = grad(lambda parameters: F.cross_entropy(network(parameters, x), y))
        return grad(
            lambda parameters: sum((part * direction[name]).sum() for name, part in gradient(parameters).items())
        )(network.parameters)

    expected = vmap(reverse)(x, y)
    for name, value in vmap(forward)(x, y).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-9, atol=1e-10)


def test_resnet12_takes_both_usual_image_sizes():
    options = MODELS["resnet12"].Options(widths=(2, 3, 4, 5))
    for shape in ((1, 28, 28), (3, 84, 84)):
        check_outputs(build(options, shape, 5, 0), options, shape, 5)


def test_default_networks_have_the_sizes_of_the_literature():
    def count(kind, shape, outputs, **values):
        options = MODELS[kind].Options(**values)
        return sum(value.numel() for value in build(options, shape, outputs, 0).parameters())

    assert count("mlp", (1,), 1) == 1761
    # Convolutions before batch norm have no bias.
    assert count("conv4", (1, 28, 28), 5) == 64 * 9 + 3 * 64 * 64 * 9 + 4 * 2 * 64 + 64 * 5 + 5
    pool = build(MODELS["conv4"].Options(filters=32, downsample="pool"), (3, 84, 84), 5, 0)
    assert pool.head.in_features == 800
    assert 12e6 < count("resnet12", (3, 84, 84), None) < 13e6


def test_settings_are_checked():
    conv4 = MODELS["conv4"].Options
    assert (conv4().readout, conv4(downsample="pool").readout) == ("mean", "flatten")
    assert conv4(downsample="pool", readout="mean").readout == "mean"
    assert conv4.model_validate(conv4(downsample="pool").model_dump(mode="json")).readout == "flatten"
    for kind, values in (
        ("conv4", {"filters": 0}),
        ("conv4", {"norm": "instance"}),
        ("mlp", {"hidden": [0]}),
        ("mlp", {"width": 3}),
        ("resnet12", {"widths": [1, 2, 3]}),
        ("resnet12", {"dropout": 1.0}),
    ):
        with pytest.raises(ValidationError):
            MODELS[kind].Options(**values)


@pytest.mark.parametrize(
    ("kind", "values", "shape", "message"),
    [
        ("conv4", {}, (3,), "takes images"),
        ("conv4", {"downsample": "pool"}, (1, 15, 28), "at least 16"),
        ("resnet12", {}, (1, 28, 15), "at least 16"),
        ("resnet12", {}, (28, 28), "takes images"),
    ],
)
def test_unsuitable_inputs_are_refused(kind, values, shape, message):
    with pytest.raises(ConfigError, match=message):
        build(MODELS[kind].Options(**values), shape, 5, 0)


def test_an_embedding_needs_a_hidden_layer():
    with pytest.raises(ConfigError, match=r"model\.hidden"):
        build(MODELS["mlp"].Options(hidden=()), (3,), None, 0)


@pytest.mark.parametrize(("kind", "message"), [(None, "required"), ("conv", "did you mean 'conv4'"), (3, "got 3")])
def test_unknown_kinds_are_refused(kind, message):
    with pytest.raises(ValueError, match=message) as error:
        model_options({} if kind is None else {"kind": kind})
    assert "module:" in str(error.value)
