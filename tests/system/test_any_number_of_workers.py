"""The number of workers changes no bit of a run."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from image_files import split_folders
from integration_helpers import FAMILIES, GLYPHS, SINUSOID, UMTRA, assert_same, parameters, result_of, train, untimed

import distmeta
from distmeta.data.images import build as build_module
from distmeta.data.images.build import StoreSettings, build_images
from distmeta.data.images.sources import image_source
from distmeta.data.partitions import write_partitions
from distmeta.data.store import EpisodeStore
from distmeta.tasks import Glyphs

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.mark.parametrize(
    ("family", "workers"),
    [
        ("glyphs", 2),
        ("table", 2),
        pytest.param("drawn", 2, marks=pytest.mark.slow),
        pytest.param("glyphs", 3, marks=pytest.mark.slow),
        pytest.param("sinusoid", 1, marks=pytest.mark.slow),
        pytest.param("table", 1, marks=pytest.mark.slow),
    ],
)
def test_same_bits(family: str, workers: int, tmp_path: Path, reference: Callable[[str], Any]) -> None:
    expected = reference(family)
    result = train(tmp_path, FAMILIES[family], f"cluster.workers={workers}")
    assert_same(parameters(tmp_path), expected.parameters)
    for key in ("steps", "tasks", "checkpoint", "best_validation", "meta_test"):
        assert result[key] == expected.result[key], key
    assert {name for name, times in result["faults"].items() if times} <= {"shards_duplicated"}
    assert result["workers"]["count"] == len(result["workers"]["shards_each"]) == workers
    assert sum(result["workers"]["shards_each"]) == sum(expected.result["workers"]["shards_each"])
    assert untimed(tmp_path) == untimed(expected.folder)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["umtra", "cactus"])
def test_same_bits_without_labels(method: str, tmp_path: Path) -> None:
    tasks = UMTRA["tasks"]
    if method == "cactus":
        pool = Glyphs(Glyphs.Options(**tasks["source"]), {}, torch.device("cpu")).pool("train")
        labels = np.random.default_rng(0).integers(0, 500, (3, len(pool)), dtype=np.int32)
        write_partitions(tmp_path / "own.partition", labels, {"images": pool.digest})
        tasks = {**tasks, "method": method, "partition": str(tmp_path / "own.partition")}
    for workers in (0, 2):
        settings = ["run.steps=5", "engine.compile=none", f"cluster.workers={workers}"]
        train(tmp_path / str(workers), {**UMTRA, "tasks": tasks}, *settings)
    assert_same(parameters(tmp_path / "2", 5), parameters(tmp_path / "0", 5))
    assert untimed(tmp_path / "2") == untimed(tmp_path / "0")
    assert result_of(tmp_path / "2")["meta_test"] == result_of(tmp_path / "0")["meta_test"]


@pytest.mark.parametrize(
    ("kind", "workers"),
    [
        pytest.param("images", 2, marks=pytest.mark.slow),
        pytest.param("cifar_fs", 2, marks=pytest.mark.slow),
        pytest.param("images", 1, marks=pytest.mark.slow),
    ],
)
def test_same_bits_of_colour_images(
    kind: str, workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """From a store in several pieces that is mapped, with augmentation; and from a published data set as it lies."""
    if kind == "images":
        monkeypatch.setattr(build_module, "WHOLE", 0)
        monkeypatch.setattr(build_module, "PIECE", 50_000)
        folders, target = split_folders(tmp_path / "data", images=6), tmp_path / "images.arrow"
        build_images(image_source(str(folders)), target, StoreSettings((16, 16)))
        assert len(EpisodeStore.open(target).pieces) > 1
        root = str(target)
    else:
        root = str(request.getfixturevalue("cifar_fs"))
    tasks = {"kind": kind, "root": root, "size": 16, "ways": 3, "queries": 2, "augment": {"flip": 0.5, "shift": 2}}
    base = {**GLYPHS, "name": kind, "tasks": tasks, "model": {"kind": "conv4", "filters": 4, "downsample": "pool"}}
    settings = ["run.steps=3", "run.validate_every=0", "engine.compile=none"]
    for number in (0, workers):
        train(tmp_path / str(number), base, *settings, f"cluster.workers={number}")
    assert_same(parameters(tmp_path / str(workers), 3), parameters(tmp_path / "0", 3))
    assert result_of(tmp_path / str(workers))["meta_test"] == result_of(tmp_path / "0")["meta_test"]


@dataclass(frozen=True)
class Pair:
    """One run in this process and one on workers, with what Python warned of in the second."""

    alone: Path
    spread: Path
    warnings: list[str]


@pytest.fixture(scope="module")
def meta_sgd(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Learned rates, and seven shards of one task."""
    folder = tmp_path_factory.mktemp("meta_sgd")
    settings = ["algorithm.name=meta_sgd", "run.meta_batch=7", "run.tasks_per_shard=1"]
    train(folder / "0", SINUSOID, *settings)
    torch.set_warn_always(True)  # else torch says a thing once a process, in whichever test comes first
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            train(folder / "2", SINUSOID, *settings, "cluster.workers=2")
    finally:
        torch.set_warn_always(False)
    own = [str(warning.message) for warning in caught if "distmeta" in Path(warning.filename).parts]
    return Pair(folder / "0", folder / "2", own)


def test_same_bits_of_learned_rates(meta_sgd: Pair) -> None:
    expected = parameters(meta_sgd.alone)
    assert {name.partition("/")[0] for name in expected} == {"model", "rates"}
    assert_same(parameters(meta_sgd.spread), expected)
    assert result_of(meta_sgd.spread)["meta_test"] == result_of(meta_sgd.alone)["meta_test"]


def test_no_warnings(meta_sgd: Pair) -> None:
    assert meta_sgd.warnings == []


def test_evaluation_on_workers(reference: Callable[[str], Any]) -> None:
    expected = reference("glyphs")
    measured = distmeta.evaluate(expected.folder, ["cluster.workers=1"])
    assert measured == expected.result["meta_test"]
