"""What adaptations put into a network: nothing changes at first, and what cannot be is refused by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from distmeta.errors import ConfigError
from distmeta.loading import load_config
from distmeta.models.insertions import LowRank, Modulated, Warped
from distmeta.programs.engine.assembly import Assembly

GLYPHS: dict[str, Any] = {"tasks": {"kind": "glyphs"}, "model": {"kind": "conv4", "filters": 8}}


def parts(algorithm: dict[str, Any], **more: Any) -> Assembly:
    return Assembly(load_config({**GLYPHS, **more, "algorithm": algorithm}))


def plain() -> nn.Module:
    return parts({"name": "maml"}).build()


@pytest.mark.parametrize(
    "algorithm",
    [
        {"name": "warp_grad"},
        {"name": "warp_grad", "warp": ["body.0.0", "head"]},
        {"name": "cavia", "film": "body.2.1"},
        {"name": "cavia", "film": ["body.*.0", "head"], "context": 3},
        {"name": "lora"},
        {"name": "lora", "layers": "body.1.0", "trained": "body.0.*"},
    ],
)
def test_a_network_computes_what_it_did_at_first(algorithm: dict[str, Any]) -> None:
    x = torch.rand(6, 1, 28, 28)
    found, expected = parts(algorithm).build()(x), plain()(x)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_what_a_task_changes() -> None:
    warped = parts({"name": "warp_grad", "warp": "body.*"}).adaptation
    assert not any("task_warp" in name for name in warped.names)  # type: ignore[attr-defined]
    body = parts({"name": "boil"}).adaptation
    assert all(not name.startswith("head") for name in body.names)  # type: ignore[attr-defined]
    cavia = parts({"name": "cavia", "film": ["body.1.1", "body.2.1"]})
    assert cavia.adaptation.names == ("body.1.1.task_context",)  # type: ignore[attr-defined]
    assert cavia.network.tied == {"body.2.1.task_context": "body.1.1.task_context"}
    steps = parts({"name": "maml_plus_plus", "inner_steps": 3})
    extras = steps.adaptation.extras(0)
    assert extras["norms/body.0.1.weight"].shape == (3, 8)
    assert extras["rates/head.bias"].shape == (3,)
    assert "body.0.1.weight" not in steps.adaptation.names  # type: ignore[attr-defined]


def test_a_context_begins_at_zero_in_every_task_and_is_not_learned() -> None:
    own = parts({"name": "cavia", "film": "body.2.1"})
    meta = {name: torch.full_like(value, 0.5) for name, value in own.initial_meta().items()}
    params, _ = own.adaptation.init(meta)  # type: ignore[attr-defined]
    assert all(bool((value == 0).all()) for value in params.values())


def test_adapters_of_convolutions_and_matrices() -> None:
    for layer, inputs in (
        (nn.Conv2d(3, 5, 3, stride=2, padding=1), torch.rand(2, 3, 9, 9)),
        (nn.Linear(7, 4), torch.rand(2, 7)),
        (nn.Conv1d(2, 3, 5, dilation=2), torch.rand(2, 2, 20)),
    ):
        adapted = LowRank(layer, 2, 4.0)
        assert torch.equal(adapted(inputs), layer(inputs))
        with torch.no_grad():
            adapted.up.weight.fill_(0.1)
        assert adapted(inputs).shape == layer(inputs).shape
        assert not torch.equal(adapted(inputs), layer(inputs))


def test_warps_and_modulations_of_every_kind_of_layer() -> None:
    assert torch.equal(Warped(nn.Linear(3, 4)).task_warp.weight, torch.eye(4))  # type: ignore[union-attr, arg-type]
    layer = Modulated(nn.Linear(3, 4), 4, nn.Parameter(torch.ones(2)))
    with torch.no_grad():
        layer.film.weight.fill_(0.25)
    inputs = torch.rand(5, 3)
    torch.testing.assert_close(layer(inputs), layer.layer(inputs) * 1.5 + 0.5)


@pytest.mark.parametrize(
    ("algorithm", "said"),
    [
        (
            {"name": "warp_grad", "warp": "nothing.*"},
            r"algorithm\.warp = 'nothing\.\*' matches no layer .* there are",
        ),
        ({"name": "cavia"}, r"puts the context behind inputs that are vectors, and these are none; .* algorithm\.film"),
        ({"name": "cavia", "film": "tail"}, r"algorithm\.film = 'tail' matches no layer"),
        ({"name": "lora", "layers": "tail"}, r"algorithm\.layers = 'tail' matches no layer"),
        ({"name": "lora", "trained": ["head.*", "boddy.*"]}, r"algorithm\.trained = 'boddy\.\*' matches no parameter"),
        ({"name": "lora", "layers": "head", "trained": "head.*"}, r"and no other; name layers that stay frozen"),
    ],
)
def test_what_cannot_be_is_refused(algorithm: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parts(algorithm)


def test_norms_for_each_step_need_norms() -> None:
    with pytest.raises(ConfigError, match=r"set algorithm\.step_norms=false, or use a model with batch norms"):
        parts({"name": "maml_plus_plus"}, model={"kind": "mlp"})


def test_batch_norms_are_refused_in_context() -> None:
    with pytest.raises(ConfigError, match=r"takes no support set; use model\.kind=prior_fitted"):
        parts({"name": "in_context"})
