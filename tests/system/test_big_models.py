"""Models of 50 MB and more: subtrees as large as can be, and the same bits as in process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from integration_helpers import assert_same, configure, parameters, train, untimed

import distmeta.workers.ray.actors as ray_actors
from distmeta.core.requests import Answer, Request
from distmeta.outer.learner import Learner
from distmeta.programs import blueprint
from distmeta.runs.evaluate import cut
from distmeta.workers import open_transport

pytestmark = pytest.mark.usefixtures("ray_cluster")

BIG: dict[str, Any] = {
    "name": "big",
    "tasks": {"kind": "sinusoid"},
    "model": {"kind": "mlp", "hidden": [3600, 3600]},  # 13 million parameters, 51.9 MB
    "algorithm": {"name": "fomaml"},
    "outer": {"clip_norm": 1.0},
    "engine": {"compile": "none"},
    "run": {
        "steps": 2,
        "meta_batch": 5,
        "tasks_per_shard": 1,
        "validate_every": 0,
        "checkpoint_every": 0,
        "log_every": 1,
    },
    "evaluation": {"tasks": 1, "validation_tasks": 1},
}


@pytest.mark.parametrize(
    ("width", "big"), [(600, 1_000_000), pytest.param(3600, ray_actors.BIG, marks=pytest.mark.slow)]
)
def test_same_bits(width: int, big: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five shards on two workers: subtrees of two, two and one."""
    monkeypatch.setattr(ray_actors, "BIG", big)
    hidden = f"model.hidden=[{width}, {width}]"
    train(tmp_path / "0", BIG, hidden)
    result = train(tmp_path / "2", BIG, hidden, "cluster.workers=2")
    expected = parameters(tmp_path / "0", step=2)
    assert sum(value.nbytes for value in expected.values()) > ray_actors.BIG
    assert_same(parameters(tmp_path / "2", step=2), expected)
    assert untimed(tmp_path / "2") == untimed(tmp_path / "0")
    assert sum(result["workers"]["shards_each"]) >= 10


def test_one_vector_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one worker the sum of all shards comes as one; a small model comes in pieces."""
    config = configure(BIG, "model.hidden=[40]", "run.meta_batch=8", "cluster.workers=1")
    learner = Learner(config.outer, 1, blueprint(config).initial_meta())
    transport = open_transport(config, None, lambda: None)
    try:
        found = {}
        for name, big in (("small", ray_actors.BIG), ("big", 1)):
            monkeypatch.setattr(ray_actors, "BIG", big)
            parts = dict(transport.run(Request("gradient", learner.start()), cut("train", 0, 8, 1)))
            found[name] = parts
            transport.prefetch(cut("train", 8, 8, 1))
    finally:
        transport.close()
    assert len(found["small"]) > len(found["big"]) == 1
    (total,) = found["big"].values()
    assert isinstance(total, Answer)
    assert total.tasks == 8
    assert torch.isfinite(total.vector).all()
