"""Where learned rates begin: constant, or drawn from a stream of their own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from distmeta.adaptations import rates as learned
from distmeta.loading import load_config
from distmeta.programs.engine.assembly import Assembly

LOW, HIGH = 0.005, 0.1


def rates(seed: int = 0, kind: str = "per_element", inner_lr: Any = (LOW, HIGH)) -> dict[str, torch.Tensor]:
    """First meta-parameters by name."""
    algorithm = {"name": "meta_sgd", "inner_lr": inner_lr, "learned_rates": kind}
    model = {"kind": "mlp", "hidden": [100, 100]}
    return Assembly(
        load_config({"seed": seed, "tasks": {"kind": "sinusoid"}, "model": model, "algorithm": algorithm})
    ).initial_meta()


@pytest.mark.parametrize("seed", [0, 1, 2**62])
def test_rates_do_not_correlate_with_weights_or_with_each_other(seed: int) -> None:
    meta = rates(seed)
    large = {name: value.flatten() for name, value in meta.items() if value.numel() >= 100}
    assert len(large) == 10  # five tensors of weights and their rates
    for one in large:
        for other in large:
            if one < other:
                size = min(len(large[one]), len(large[other]))
                found = np.corrcoef(large[one][:size], large[other][:size])[0, 1]
                assert abs(found) < 5 / size**0.5, (one, other)
    matrix = meta["rates/body.2.weight"]
    assert matrix.min() >= LOW
    assert matrix.max() <= HIGH
    assert matrix.mean() == pytest.approx((LOW + HIGH) / 2, rel=0.02)


def test_rates_depend_on_the_seed_alone() -> None:
    first, again, other = rates(), rates(), rates(seed=1)
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not torch.equal(first["rates/head.weight"], other["rates/head.weight"])


def test_a_rate_for_each_tensor() -> None:
    found = [float(value) for name, value in rates(kind="per_tensor").items() if name.startswith("rates/")]
    assert len(set(found)) == 6
    assert all(LOW <= rate <= HIGH for rate in found)


def test_constant_rates() -> None:
    found = [value for name, value in rates(inner_lr=0.01).items() if name.startswith("rates/")]
    assert all(torch.equal(value, torch.full_like(value, 0.01)) for value in found)


def test_rates_drawn_in_pieces_are_all_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learned, "DRAWN", 1000)
    matrix = rates()["rates/body.2.weight"].flatten()
    assert len(matrix.unique()) > 9_900
