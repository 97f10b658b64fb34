"""A meta-step of many requests has the same bits on any number of workers, killed in its middle too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from integration_helpers import (
    GLYPHS,
    HALF_CHEETAH,
    NAVIGATION,
    SINUSOID,
    assert_same,
    configure,
    parameters,
    train,
    untimed,
)

from distmeta.core.requests import Answer, Request, add
from distmeta.core.tree import Sum
from distmeta.outer.learner import Learner
from distmeta.programs import blueprint
from distmeta.runs.evaluate import cut
from distmeta.tasks import prepare_family
from distmeta.workers import open_transport, pace
from distmeta.workers.ray.actors import RayTransport

pytestmark = pytest.mark.usefixtures("ray_cluster")

SETTINGS = ["outer={name: trust_region, radius: 0.05, cg_steps: 3}", "run.steps=4", "run.validate_every=2"]
PLAIN = "engine.compile=none"  # recording three requests takes longer than all their steps
SHARDS = 8


BASES = pytest.mark.parametrize(
    "base",
    [
        SINUSOID,
        pytest.param(NAVIGATION, marks=pytest.mark.slow),
        pytest.param(HALF_CHEETAH, marks=pytest.mark.slow),
        pytest.param(GLYPHS, marks=pytest.mark.slow),
    ],
    ids=["sinusoid", "navigation", "half_cheetah", "glyphs"],
)


@pytest.mark.parametrize(
    ("base", "counts"),
    [
        (SINUSOID, (2,)),
        pytest.param(NAVIGATION, (1, 2), marks=pytest.mark.slow),
        pytest.param(HALF_CHEETAH, (2,), marks=pytest.mark.slow),
        pytest.param(GLYPHS, (1, 2), marks=pytest.mark.slow),
    ],
    ids=["sinusoid", "navigation", "half_cheetah", "glyphs"],
)
def test_same_bits(base: dict[str, Any], counts: tuple[int, ...], tmp_path: Path) -> None:
    for workers in (0, *counts):
        train(tmp_path / str(workers), base, *SETTINGS, PLAIN, f"cluster.workers={workers}")
    expected = parameters(tmp_path / "0", 4)
    for workers in counts:
        assert_same(parameters(tmp_path / str(workers), 4), expected)
        assert untimed(tmp_path / str(workers)) == untimed(tmp_path / "0")


class Counted:
    """Meta-steps on workers, of whose requests is counted how many shards were found in memory.

    Attributes:
        found: for each request, the shards whose sample was there.
        kill_before: requests before which a worker is killed.
        lost: for each killed worker, the shards that it held.
    """

    def __init__(self, base: dict[str, Any], workers: int) -> None:
        self.config = configure(base, *SETTINGS, PLAIN, f"cluster.workers={workers}", "outer.candidates=2")
        prepare_family(self.config)
        self.learner = Learner(self.config.outer, 4, blueprint(self.config).initial_meta())
        self.transport = open_transport(self.config, None, lambda: None)
        self.found: list[int] = []
        self.kill_before: set[int] = set()
        self.lost: list[int] = []

    def ask(self, request: Request) -> Answer:
        if len(self.found) in self.kill_before:
            self._kill()
        first = self.learner.step * SHARDS
        total = Sum[Answer](SHARDS, add)
        for node, part in self.transport.run(request, cut("train", first, SHARDS, 1)):
            total.add(node, part)
        self.found.append(total.result().found)
        return total.result()

    def _kill(self) -> None:
        """Kill the worker that has most in memory."""
        assert isinstance(self.transport, RayTransport)
        held = dict.fromkeys(self.transport.pool.ready, 0)
        for node, slot in self.transport._holders:
            held[slot] += len(node.leaves(SHARDS))
        slot = max(held, key=lambda each: held[each])
        ray.kill(slot.actor)
        self.lost.append(held[slot])


@contextmanager
def counted(base: dict[str, Any], workers: int) -> Iterator[Counted]:
    steps = Counted(base, workers)
    try:
        yield steps
    finally:
        steps.transport.close()


@pytest.mark.slow
@BASES
def test_memory_is_missed_only_where_a_worker_is_lost(base: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "SLACK", 60.0)  # else others compute what a worker is late with, and miss its memory
    with counted(base, 0) as alone:
        requests = []
        for _ in range(3):
            alone.found.clear()
            alone.learner.apply(alone.ask)
            requests.append(len(alone.found))
            assert alone.found == [0, *[SHARDS] * (requests[-1] - 1)]
        expected = alone.learner.vector.clone()
    with counted(base, 2) as spread:
        for step, count in enumerate(requests):
            spread.found.clear()
            spread.kill_before = {2} if step == 1 else set()
            spread.learner.apply(spread.ask)
            missed = [SHARDS - found for found in spread.found]
            due = [SHARDS, *[0] * (count - 1)]
            if step == 1:
                due[2] = spread.lost[0]
            assert missed == due
        assert spread.lost[0] > 0
        assert torch.equal(spread.learner.vector, expected)
