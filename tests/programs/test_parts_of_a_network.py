"""ANIL and patterns: what a task leaves alone, and how the rest still learns from it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from numerics_cases import WAYS, Case, assert_near, draw_tasks, network
from numerics_reference import plain
from torch.func import functional_call

from distmeta.adaptations.base import trajectory
from distmeta.errors import ConfigError

CONV: dict[str, Any] = {"kind": "conv4", "filters": 3}
SHAPE = (1, 9, 9)


def make(**algorithm: Any) -> Case:
    algorithm = {"name": "maml", "inner_steps": 3, "inner_lr": 0.2, **algorithm}
    return Case(algorithm, network(CONV, SHAPE, WAYS), "cross_entropy", draw_tasks(SHAPE, "cross_entropy"))


def test_anil_changes_the_head_alone() -> None:
    case = make(name="anil")
    task = case.task({part: {name: value[0] for name, value in case.tree[part].items()} for part in case.tree})
    path = list(trajectory(case.adaptation, case.meta, task.support, 3))
    assert [set(params) for params in path] == [{"head.weight", "head.bias"}] * 4
    assert not torch.equal(path[0]["head.weight"], path[3]["head.weight"])
    # The prediction is that of the module with its own body and the adapted head.
    outputs = case.adaptation.predict(case.meta, path[3], task.query)
    expected = functional_call(plain(case.module), dict(path[3]), (task.query.data["x"],))
    torch.testing.assert_close(outputs, expected, rtol=1e-12, atol=1e-12)


def test_anil_body_learns_through_the_heads_adaptation() -> None:
    """The body's meta-gradient has two parts: through the query features, and through the support features that moved
    the head. First order drops the second; the exact one has it and equals plain autograd."""
    case = make(name="anil")
    assert_near(case.mapped[0], case.reference(), 1e-10)
    first_order = make(name="anil", estimator="first_order").mapped[0]
    body = "model/body.0.0.weight"
    assert (case.mapped[0][body] - first_order[body]).abs().max() > 0.01 * case.mapped[0][body].abs().max()


def test_pattern_leaves_out_scale_and_shift_of_batch_norms() -> None:
    """In a block, ``0`` is the convolution and ``1`` the batch norm."""
    case = make(adapt=["body.*.0.weight", "head.*"])
    assert case.adaptation.names == (*(f"body.{block}.0.weight" for block in range(4)), "head.bias", "head.weight")
    assert_near(case.mapped[0], case.reference(), 1e-10)
    assert case.mapped[0]["model/body.3.1.weight"].abs().max() > 0  # meta-learned all the same
    assert set(make(learned_rates="per_tensor", adapt="body.*.1.*").adaptation.extras(0)) == {
        f"rates/body.{block}.1.{name}" for block in range(4) for name in ("weight", "bias")
    }


def test_pattern_without_a_match_is_refused_with_the_names() -> None:
    with pytest.raises(ConfigError, match=r"algorithm\.adapt = 'tail\.\*'.*head\.weight"):
        make(adapt="tail.*")


def test_network_without_a_head_is_refused() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, WAYS), torch.nn.LayerNorm(WAYS)).double()
    with pytest.raises(ConfigError, match=r"algorithm\.adapt = head"):
        Case({"name": "anil"}, module, "cross_entropy", draw_tasks((3,), "cross_entropy"))
