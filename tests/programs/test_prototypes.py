"""Prototypes: logits by hand, symmetry in the classes, any number of ways, inductive prediction, dropout."""

from __future__ import annotations

from typing import Any

import torch
from numerics_cases import network
from numerics_reference import plain, prototype_logits
from torch import Tensor, nn

from distmeta.adaptations import Batch, Prototypes, Support
from distmeta.core.layout import MODEL
from distmeta.functional.module import FunctionalModule
from distmeta.objectives import CrossEntropy

Parts = tuple[Prototypes, dict[str, Tensor]]


def prototypes(module: nn.Module) -> Parts:
    functional = FunctionalModule(module)
    options: Any = Prototypes.Options()
    meta = {MODEL + name: value for name, value in functional.parameters.items()}
    return Prototypes(options, functional, CrossEntropy()), meta


def doubling() -> nn.Module:
    """f(x) = 2 x in two dimensions."""
    module = nn.Linear(2, 2, bias=False).double()
    with torch.no_grad():
        module.weight.copy_(2 * torch.eye(2))
    return module


def random_support(ways: int, shots: int = 2, shape: tuple[int, ...] = (1, 9, 9), seed: int = 0) -> Support:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(ways * shots, *shape, generator=generator, dtype=torch.float64)
    return Support({"x": x, "y": torch.arange(ways).repeat_interleave(shots)}, ways)


def test_logits_by_hand() -> None:
    """f(x) = 2x. Class 0: (0, 0) and (1, 0), embedded (0, 0), (2, 0), mean (1, 0). Class 1: (0, 2), embedded (0, 4).

    Query (1, 1) is embedded as (2, 2): distances (2-1)^2 + 2^2 = 5 and 2^2 + (2-4)^2 = 8, so logits -5 and -8.
    Query (0, 0): -1 and -16.
    """
    parts, meta = prototypes(doubling())
    x = torch.tensor([[0.0, 0.0], [0.0, 2.0], [1.0, 0.0]]).double()
    means = parts.adapt(meta, Support({"x": x, "y": torch.tensor([0, 1, 0])}, ways=2), None)
    assert means.tolist() == [[1.0, 0.0], [0.0, 4.0]]
    logits = parts.predict(meta, means, Batch({"x": torch.tensor([[1.0, 1.0], [0.0, 0.0]]).double()}))
    assert logits.tolist() == [[-5.0, -8.0], [-1.0, -16.0]]


def test_renaming_classes_renames_the_logits() -> None:
    """Support example of class k renamed to p(k): the column p(k) of the new logits is the column k of the old."""
    parts, meta = prototypes(network({"kind": "conv4", "filters": 3}, (1, 9, 9), None))
    support, query = random_support(4), Batch({"x": random_support(3, seed=1).data["x"]})
    permutation = torch.tensor([2, 0, 3, 1])
    renamed = Support({"x": support.data["x"], "y": permutation[support.data["y"]]}, 4)
    old, new = (parts.predict(meta, parts.adapt(meta, s, None), query) for s in (support, renamed))
    torch.testing.assert_close(new[:, permutation], old, rtol=1e-12, atol=1e-12)


def test_the_order_of_support_examples_is_nothing() -> None:
    parts, meta = prototypes(network({"kind": "conv4", "filters": 3, "norm": "none"}, (1, 9, 9), None))
    support = random_support(4)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(2))
    shuffled = Support({name: value[order] for name, value in support.data.items()}, 4)
    torch.testing.assert_close(
        parts.adapt(meta, shuffled, None), parts.adapt(meta, support, None), rtol=1e-12, atol=1e-12
    )


def test_any_number_of_ways_with_the_same_parameters() -> None:
    module = network({"kind": "conv4", "filters": 3}, (1, 9, 9), None)
    parts, meta = prototypes(module)
    query = random_support(3, seed=1).data["x"]
    for ways in (2, 5, 9):
        support = random_support(ways)
        logits = parts.predict(meta, parts.adapt(meta, support, None), Batch({"x": query}))
        copy = plain(module)
        expected = prototype_logits(copy(support.data["x"]), support.data["y"], copy(query), ways)
        assert logits.shape == (6, ways)
        torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-10)


def test_inductive_prediction_looks_at_one_query_at_a_time() -> None:
    """Transductive logits change with the other queries; inductive ones do not. For the support itself both agree:
    its own statistics normalise it either way."""
    parts, meta = prototypes(network({"kind": "conv4", "filters": 3}, (1, 9, 9), None))
    support = random_support(3)
    means = parts.adapt(meta, support, None)
    query = random_support(3, seed=1).data["x"]

    def inductive(x: Tensor) -> Tensor:
        return parts.predict_inductive(meta, means, support, Batch({"x": x}))

    together, one = inductive(query), inductive(query[2:3])
    torch.testing.assert_close(together[2:3], one, rtol=1e-12, atol=1e-12)
    transductive = parts.predict(meta, means, Batch({"x": query}))
    assert (together - transductive).abs().max() > 1e-3
    own = parts.predict(meta, means, Batch(support.data))
    torch.testing.assert_close(inductive(support.data["x"]), own, rtol=1e-10, atol=1e-10)


def test_inductive_is_transductive_without_batch_statistics() -> None:
    parts, meta = prototypes(network({"kind": "conv4", "filters": 3, "norm": "layer"}, (1, 9, 9), None))
    support, query = random_support(3), Batch({"x": random_support(3, seed=1).data["x"]})
    means = parts.adapt(meta, support, None)
    inductive = parts.predict_inductive(meta, means, support, query)
    torch.testing.assert_close(inductive, parts.predict(meta, means, query), rtol=1e-12, atol=1e-12)
