"""Policies are trained to the same bits on any number of workers, after workers were killed, and after resuming."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from integration_helpers import BANDITS, HALF_CHEETAH, NAVIGATION, assert_same, parameters, train, train_until, untimed

pytestmark = pytest.mark.usefixtures("ray_cluster")

METHODS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "promp-half_cheetah": (HALF_CHEETAH, ["algorithm.name=promp", "outer.divergence=0.001"]),
    "promp-values": (NAVIGATION, ["algorithm.name=promp", "tasks.baseline=network"]),
    "e_maml-navigation": (NAVIGATION, ["algorithm.name=e_maml"]),
    "es_maml-navigation": (NAVIGATION, ["algorithm={name: es_maml, directions: 2}"]),
    "maml_vpg-half_cheetah": (HALF_CHEETAH, ["algorithm.name=maml_vpg"]),
    "rl2-bandits": (BANDITS, ["outer.schedule=linear"]),
    "rl2-navigation": (BANDITS, ["tasks={kind: navigation, episodes: 2, horizon: 9}"]),
}
QUICK = ("promp-half_cheetah", "rl2-bandits")
STEPS = 4
SETTINGS = [f"run.steps={STEPS}", "run.validate_every=2", "run.checkpoint_every=2", "engine.compile=none"]


@pytest.mark.parametrize(
    "method", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in METHODS]
)
def test_same_bits(method: str, tmp_path: Path) -> None:
    base, own = METHODS[method]
    for workers in (0, 2):
        train(tmp_path / str(workers), base, *own, *SETTINGS, f"cluster.workers={workers}")
    assert_same(parameters(tmp_path / "2", STEPS), parameters(tmp_path / "0", STEPS))
    assert untimed(tmp_path / "2") == untimed(tmp_path / "0")
    train_until(2, tmp_path / "again", base, *own, *SETTINGS, "cluster.workers=0")
    train(tmp_path / "again", base, *own, *SETTINGS, "cluster.workers=0", resume=True)
    assert_same(parameters(tmp_path / "again", STEPS), parameters(tmp_path / "0", STEPS))
