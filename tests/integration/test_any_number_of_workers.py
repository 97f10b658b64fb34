"""The number of workers changes no bit of a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from integration_helpers import FAMILIES, SINUSOID, assert_same, logged, parameters, train

import distmeta

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_same_bits(family: str, workers: int, tmp_path: Path, reference: Callable[[str], Any]) -> None:
    expected = reference(family)
    result = train(tmp_path, FAMILIES[family], f"cluster.workers={workers}")
    assert_same(parameters(tmp_path), expected.parameters)
    for key in ("steps", "tasks", "checkpoint", "best_validation", "meta_test", "faults"):
        assert result[key] == expected.result[key], key
    assert result["workers"]["count"] == len(result["workers"]["shards_each"]) == workers
    assert sum(result["workers"]["shards_each"]) == sum(expected.result["workers"]["shards_each"])
    assert min(result["workers"]["shards_each"]) > 0
    timed = ("seconds", "tasks_per_second")
    assert [{k: v for k, v in line.items() if k not in timed} for line in logged(tmp_path)] == [
        {k: v for k, v in line.items() if k not in timed} for line in logged(expected.folder)
    ]


@pytest.mark.parametrize("method", ["meta_sgd"])
def test_same_bits_of_other_methods(method: str, tmp_path: Path) -> None:
    settings = [f"algorithm.name={method}", "run.meta_batch=7", "run.tasks_per_shard=1"]
    alone = train(tmp_path / "0", SINUSOID, *settings)
    spread = train(tmp_path / "2", SINUSOID, *settings, "cluster.workers=2")
    expected = parameters(tmp_path / "0")
    assert {name.partition("/")[0] for name in expected} == {"model", "rates"}
    assert_same(parameters(tmp_path / "2"), expected)
    assert spread["meta_test"] == alone["meta_test"]


def test_evaluation_on_workers(reference: Callable[[str], Any]) -> None:
    expected = reference("glyphs")
    measured = distmeta.evaluate(expected.folder, ["cluster.workers=2"])
    assert measured == expected.result["meta_test"]
