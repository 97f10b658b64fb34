"""The outer optimizer is torch's own, to the bit and in what it stores; it only imports less."""

from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from distmeta.outer.optimizers import OuterOptimizer

SIZES = {"model": 1001, "rates": 3}
KINDS = {
    "sgd": (0.0, lambda groups: torch.optim.SGD(groups, lr=0.1, fused=True)),
    "momentum": (0.9, lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9, fused=True)),
    "adam": (0.0, lambda groups: torch.optim.Adam(groups, lr=0.1, fused=True)),
    "adamw": (0.0, lambda groups: torch.optim.AdamW(groups, lr=0.1, fused=True)),
}


def draw(step: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return {name: torch.randn(size, generator=generator) for name, size in SIZES.items()}


def pair(name: str, decay: float) -> tuple[OuterOptimizer, dict[str, Tensor], Any]:
    """One optimizer of ours with its vectors, and torch's on copies of them."""
    momentum, make = KINDS[name]
    vectors = draw(0)
    decays = {"model": decay, "rates": 0.0}
    theirs = make(
        [
            {"params": [torch.nn.Parameter(vectors[each].clone())], "name": each, "weight_decay": decays[each]}
            for each in SIZES
        ]
    )
    kind = "sgd" if name == "momentum" else name
    return OuterOptimizer(kind, vectors, 0.1, momentum, decays), vectors, theirs


def advance(ours: OuterOptimizer, theirs: Any, step: int) -> None:
    gradients, rate = draw(step), 0.1 / step
    ours.rates = dict.fromkeys(SIZES, rate)
    ours.step(gradients)
    for group in theirs.param_groups:
        group["lr"] = rate
        group["params"][0].grad = gradients[group["name"]]
    theirs.step()


def assert_same_state(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert ours["param_groups"] == theirs["param_groups"]
    assert ours["state"].keys() == theirs["state"].keys()
    for number, moments in theirs["state"].items():
        known = {name: value for name, value in moments.items() if value is not None}
        assert ours["state"][number].keys() == known.keys()
        assert all(torch.equal(ours["state"][number][name], value) for name, value in known.items())


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("name", KINDS)
def test_it_is_torch_optim_to_the_bit(name: str, decay: float) -> None:
    ours, vectors, theirs = pair(name, decay)
    assert_same_state(ours.state_dict(), theirs.state_dict())
    for step in range(1, 6):
        advance(ours, theirs, step)
        for group in theirs.param_groups:
            assert torch.equal(vectors[group["name"]], group["params"][0].detach())
        assert_same_state(ours.state_dict(), theirs.state_dict())


@pytest.mark.parametrize("name", KINDS)
def test_each_continues_from_the_other_s_state(name: str) -> None:
    """Checkpoints that ``torch.optim`` wrote are read, and it reads ours."""
    ours, vectors, theirs = pair(name, 0.1)
    for step in range(1, 4):
        advance(ours, theirs, step)
    mine, my_vectors, other = pair(name, 0.1)
    for each in SIZES:
        my_vectors[each].copy_(vectors[each])
    for group in other.param_groups:
        group["params"][0].data.copy_(vectors[group["name"]])
    mine.load_moments(copy.deepcopy(theirs.state_dict()["state"]))
    other.load_state_dict(copy.deepcopy(ours.state_dict()))
    advance(ours, theirs, 4)
    advance(mine, other, 4)
    for group in other.param_groups:
        assert torch.equal(my_vectors[group["name"]], vectors[group["name"]])
        assert torch.equal(group["params"][0].detach(), vectors[group["name"]])


def test_no_compiler_is_imported() -> None:
    program = (
        "import sys, torch\n"
        "from distmeta.outer.optimizers import OuterOptimizer\n"
        "for kind in ('sgd', 'adam', 'adamw'):\n"
        "    one = OuterOptimizer(kind, {'model': torch.ones(2)}, 0.1, 0.0, {'model': 0.0})\n"
        "    one.step({'model': torch.ones(2)})\n"
        "print([name for name in ('torch._dynamo', 'torch._inductor') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
