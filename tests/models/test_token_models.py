"""Networks of tokens: what they compute, padding, derivatives mapped as looped, what they refuse."""

import pytest
import torch
from pydantic import ValidationError
from torch.func import functional_call, grad, jvp, vmap
from torch.nn import functional as F

from distmeta.core.records import TensorSpec, zeros_of
from distmeta.errors import ConfigError
from distmeta.functional.building import build
from distmeta.functional.checks import check_outputs
from distmeta.functional.module import FunctionalModule
from distmeta.models import MODELS, model_options

LENGTH, VOCABULARY, WAYS, TASKS, EXAMPLES = 5, 11, 3, 2, 4
IDF = tuple(1.0 + 0.25 * token for token in range(VOCABULARY))
TOKENS = TensorSpec((LENGTH,), "int64", values=VOCABULARY, weights=IDF)
TEXTS = {"tokens": TOKENS, "mask": TensorSpec((LENGTH,))}
TRANSFORMER = {"kind": "transformer", "width": 8, "heads": 2, "depth": 2}
VARIANTS = {
    "bag": {"kind": "bag", "features": 6},
    "bag-mean": {"kind": "bag", "features": 6, "pooling": "mean"},
    "bag-scale-dropout": {"kind": "bag", "features": 6, "scale": 4.0, "dropout": 0.3},
    "transformer": TRANSFORMER,
    "transformer-weights-scale": {**TRANSFORMER, "pooling": "weights", "scale": 2.0, "depth": 1, "feedforward": 7},
    "transformer-dropout": {**TRANSFORMER, "dropout": 0.2, "depth": 1},
}


def made(values, outputs=WAYS, inputs=TEXTS, seed=0):
    return build(model_options(values).model_validate(values), inputs, outputs, seed)


@pytest.fixture(params=VARIANTS, name="values")
def _values(request):
    return VARIANTS[request.param]


def texts(*sizes, seed=0, dtype=torch.float64):
    """Tokens and a mask, (*sizes, LENGTH): every text has one token at least."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(VOCABULARY, (*sizes, LENGTH), generator=generator)
    counts = torch.randint(1, LENGTH + 1, (*sizes, 1), generator=generator)
    mask = (torch.arange(LENGTH) < counts).to(dtype)
    return {"tokens": tokens * mask.long(), "mask": mask}


def labels(*sizes, seed=1):
    return torch.randint(WAYS, sizes, generator=torch.Generator().manual_seed(seed))


def without_dropout(module):
    return module.eval()  # there are no batch norms


def test_variants_cover_the_table():
    assert {values["kind"] for values in VARIANTS.values()} == {
        k for k, m in MODELS.items() if m.named_inputs and not m.Options.in_context
    }


def test_shapes_seeds_and_the_head(values):
    options = model_options(values).model_validate(values)
    module, again, other = (made(values, seed=seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(module[name], again[name]) for name in module)
    assert any(not torch.equal(module[name], other[name]) for name in module)
    for outputs in (WAYS, None):
        check_outputs(made(values, outputs), options, zeros_of(TEXTS, 2), outputs)
    network = FunctionalModule(made(values), zeros_of(TEXTS, 2))
    assert set(network.head) == {"head.weight", "head.bias"}
    assert network.uses_dropout == (options.dropout > 0)
    assert not network.uses_batch_statistics


def test_padding_changes_nothing(values):
    """Whatever stands where the mask is 0, and the longest mask is that of no mask at all."""
    module = without_dropout(made(values).double())
    given = texts(EXAMPLES)
    other = {**given, "tokens": torch.where(given["mask"] > 0, given["tokens"], VOCABULARY - 1)}
    assert torch.equal(module(**given), module(**other))
    full = {"tokens": other["tokens"], "mask": torch.ones(EXAMPLES, LENGTH, dtype=torch.float64)}
    assert torch.equal(module(**full), module(tokens=other["tokens"]))
    assert not torch.allclose(module(**full), module(**given))


def test_a_text_without_tokens_has_finite_outputs_and_derivatives(values):
    network = FunctionalModule(without_dropout(made(values).double()))
    nothing = {"tokens": torch.zeros(2, LENGTH, dtype=torch.int64), "mask": torch.zeros(2, LENGTH).double()}

    def loss(parameters):
        return network(parameters, nothing).square().sum()

    def curved(parameters):
        return sum(part.square().sum() for part in grad(loss)(parameters).values())

    assert network(network.parameters, nothing).isfinite().all()
    for found in (grad(loss)(network.parameters), grad(curved)(network.parameters)):
        assert all(part.isfinite().all() for part in found.values())


def test_derivatives_mapped_are_those_of_plain_autograd_one_task_at_a_time(values):
    """First order, and second order through one inner step of gradient descent."""
    module = without_dropout(made(values).double())
    network = FunctionalModule(module)
    x, query_x = texts(TASKS, EXAMPLES), texts(TASKS, EXAMPLES, seed=2)
    y, query_y = labels(TASKS, EXAMPLES), labels(TASKS, EXAMPLES, seed=3)

    def loss(parameters, x, y):
        return F.cross_entropy(network(parameters, x), y)

    def adapted_loss(parameters, x, y, query_x, query_y):
        gradient = grad(loss)(parameters, x, y)
        stepped = {name: value - 0.1 * gradient[name] for name, value in parameters.items()}
        return loss(stepped, query_x, query_y)

    first = vmap(grad(loss), in_dims=(None, 0, 0))(network.parameters, x, y)
    second = vmap(grad(adapted_loss), in_dims=(None, 0, 0, 0, 0))(network.parameters, x, y, query_x, query_y)
    own = dict(module.named_parameters())
    for task in range(TASKS):
        support, query = ({name: value[task] for name, value in part.items()} for part in (x, query_x))
        plain = torch.autograd.grad(F.cross_entropy(module(**support), y[task]), [*own.values()], create_graph=True)
        stepped = {name: value - 0.1 * part for (name, value), part in zip(own.items(), plain, strict=True)}
        outputs = functional_call(module, stepped, (), query)
        through = torch.autograd.grad(F.cross_entropy(outputs, query_y[task]), [*own.values()])
        for name, one, two in zip(own, plain, through, strict=True):
            torch.testing.assert_close(first[name][task], one, rtol=1e-9, atol=1e-11)
            torch.testing.assert_close(second[name][task], two, rtol=1e-9, atol=1e-11)


def test_hessian_products_forward_over_reverse_agree_with_reverse_over_reverse(values):
    network = FunctionalModule(without_dropout(made(values).double()))
    x, y = texts(TASKS, EXAMPLES), labels(TASKS, EXAMPLES)
    direction = {name: torch.randn_like(value) for name, value in network.parameters.items()}

    def gradient(parameters, x, y):
        return grad(lambda values: F.cross_entropy(network(values, x), y))(parameters)

    def forward(x, y):
        return jvp(lambda parameters: gradient(parameters, x, y), (network.parameters,), (direction,))[1]

    def reverse(x, y):
        return grad(lambda p: sum((g * direction[name]).sum() for name, g in gradient(p, x, y).items()))(
            network.parameters
        )

    expected = vmap(reverse)(x, y)
    for name, value in vmap(forward)(x, y).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-9, atol=1e-10)


def test_a_bag_is_the_weighted_mean_of_its_embeddings():
    module = made({"kind": "bag", "features": 6}, outputs=None).double()
    given = texts(EXAMPLES)
    table = module.embedding.weight
    for row in range(EXAMPLES):
        there = [int(token) for token, here in zip(given["tokens"][row], given["mask"][row], strict=True) if here]
        weighted = sum(IDF[token] * table[token] for token in there) / sum(IDF[token] for token in there)
        torch.testing.assert_close(module(**given)[row], weighted, rtol=1e-6, atol=1e-7)  # weights begin in float32
    mean = made({"kind": "bag", "features": 6, "pooling": "mean"}, outputs=None).double()
    assert "pooling.log_weights" not in mean.state_dict()
    torch.testing.assert_close(mean(tokens=torch.tensor([[2, 2, 2, 2, 2]]))[0], mean.embedding.weight[2])


def test_an_untrained_bag_has_the_angles_of_counts():
    """Embeddings in random directions are a random projection."""
    inputs = {"tokens": TensorSpec((40,), "int64", values=300)}
    module = made({"kind": "bag", "features": 4096, "pooling": "mean"}, outputs=None, inputs=inputs)
    tokens = torch.randint(30, (20, 40), generator=torch.Generator().manual_seed(0))
    counts = F.one_hot(tokens, 300).sum(1).float()
    with torch.no_grad():
        found = F.normalize(module(tokens=tokens), dim=1)
    expected = F.normalize(counts, dim=1)
    torch.testing.assert_close(found @ found.T, expected @ expected.T, atol=0.08, rtol=0)


def test_a_scale_is_the_length_of_embeddings():
    for kind in ({"kind": "bag", "features": 6}, TRANSFORMER):
        module = made({**kind, "scale": 3.0}, outputs=None).double()
        lengths = module(**texts(EXAMPLES)).norm(dim=1)
        torch.testing.assert_close(lengths, torch.full_like(lengths, 3.0), rtol=1e-2, atol=0)
        assert "pooling.log_scale" in dict(module.named_parameters())


def test_dropout_leaves_out_whole_tokens():
    """A bag of one and the same token is that token's embedding, whichever of them are left."""
    network = FunctionalModule(made({"kind": "bag", "features": 6, "dropout": 0.5}, outputs=None))
    tokens = torch.arange(LENGTH).repeat(64, 1)
    same = torch.full((64, LENGTH), 3)
    key = torch.tensor([1, 2])
    dropped = network(network.parameters, {"tokens": tokens}, key=key)
    assert not torch.equal(dropped, network(network.parameters, {"tokens": tokens}))
    alike = network(network.parameters, {"tokens": same}, key=key)
    left = alike.abs().sum(1) > 0  # of 64 texts two or so have lost all of their tokens
    expected = network.parameters["embedding.weight"][3].expand(int(left.sum()), -1)
    torch.testing.assert_close(alike[left], expected)
    assert 40 < left.sum() <= 64


def test_outputs_of_tokens():
    module = made({**TRANSFORMER, "readout": "tokens"})
    assert module(**texts(EXAMPLES, dtype=torch.float32)).shape == (EXAMPLES, LENGTH, WAYS)
    options = model_options(TRANSFORMER).model_validate({**TRANSFORMER, "readout": "tokens"})
    check_outputs(module, options, zeros_of(TEXTS, 2), WAYS)
    with pytest.raises(ConfigError, match=r"model\.readout = tokens .* use model\.readout = pooled"):
        made({**TRANSFORMER, "readout": "tokens"}, outputs=None)


def test_the_vocabulary_is_what_the_tasks_say_or_what_is_set():
    unknown = {"tokens": TensorSpec((LENGTH,), "int64")}
    assert made({"kind": "bag"}).embedding.num_embeddings == VOCABULARY
    larger = made({"kind": "bag", "vocabulary": 20})
    assert larger.embedding.num_embeddings == 20
    weights = larger.pooling.log_weights.exp()
    torch.testing.assert_close(weights, torch.tensor([*IDF, *[1.0] * 9]))
    assert made({"kind": "bag", "vocabulary": 20}, inputs=unknown).embedding.num_embeddings == 20
    with pytest.raises(ConfigError, match=r"model\.vocabulary is not set"):
        made({"kind": "bag"}, inputs=unknown)
    with pytest.raises(ConfigError, match=r"model\.vocabulary = 10, but the tasks have 11 tokens"):
        made({"kind": "bag", "vocabulary": 10})


@pytest.mark.parametrize(
    "inputs",
    [
        TensorSpec((1, 28, 28)),
        {"tokens": TensorSpec((LENGTH,))},
        {"tokens": TensorSpec((2, LENGTH), "int64")},
        {**TEXTS, "positions": TOKENS},
    ],
)
@pytest.mark.parametrize("kind", ["bag", "transformer"])
def test_other_inputs_are_refused(kind, inputs):
    with pytest.raises(ConfigError, match=rf"model\.kind = {kind} takes texts: .* use tasks\.kind = text"):
        made({"kind": kind}, inputs=inputs)


def test_networks_of_one_input_refuse_texts():
    with pytest.raises(ConfigError, match=r"model\.kind = mlp takes one input, .* tokens, mask; for texts use"):
        made({"kind": "mlp"})


@pytest.mark.parametrize(
    "values",
    [
        {"kind": "transformer", "width": 10, "heads": 4},
        {"kind": "transformer", "readout": "first"},
        {"kind": "bag", "pooling": "max"},
        {"kind": "bag", "dropout": 1.0},
        {"kind": "bag", "scale": 0},
        {"kind": "bag", "width": 8},
    ],
)
def test_settings_are_checked(values):
    with pytest.raises(ValidationError):
        model_options(values).model_validate(values)
