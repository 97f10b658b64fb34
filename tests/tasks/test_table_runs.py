"""Runs on a table: trained, resumed, evaluated and loaded, with figures in the user's unit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from integration_helpers import assert_same, snapshot

import distmeta
from distmeta.errors import ChangedError, ConfigError
from distmeta.runs.train import train
from distmeta.tasks import fit_family


def lines(unit: float = 1000.0, kind: bool = False) -> pa.Table:
    """60 tasks: y = slope x in a unit of its own."""
    generator = np.random.default_rng(1)
    task = np.repeat(np.arange(60), 20)
    x = generator.uniform(50, 60, len(task))
    columns: dict[str, Any] = {"task": task, "x": x, "y": unit * (5 + (task % 7 - 3) * (x - 55))}
    if kind:
        columns["sign"] = np.where(columns["y"] > 5 * unit, "up", "down").tolist()
    return pa.table(columns)


def config(path: Path, *overrides: str, **tasks: Any) -> distmeta.Config:
    values = {
        "tasks": {"kind": "table", "path": str(path), "task": "task", "target": "y", "features": ["x"], **tasks},
        "model": {"kind": "mlp", "hidden": [16]},
        "algorithm": {"name": "maml", "inner_lr": 0.05},
        "run": {"steps": 6, "meta_batch": 4, "checkpoint_every": 3, "validate_every": 3, "device": "cpu"},
        "evaluation": {"tasks": 8, "validation_tasks": 4},
        "engine": {"compile": "none"},
    }
    return distmeta.load_config(values, overrides)


def finish(steps: Any) -> dict[str, Any]:
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return dict(end.value)


@pytest.fixture(name="path")
def _path(tmp_path: Path) -> Path:
    path = tmp_path / "data" / "lines.parquet"
    path.parent.mkdir()
    pq.write_table(lines(), path)
    return path


def test_resumed_evaluated_and_loaded_without_the_table(path, tmp_path):
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    result = finish(train(config(path), whole))
    for record in train(config(path), parted):
        if record.step == 3:
            break
    moved = path.rename(tmp_path / "moved.parquet")
    assert finish(train(config(moved), parted, resume=True))["meta_test"] == result["meta_test"]
    assert_same(snapshot(parted).meta, snapshot(whole).meta)
    assert distmeta.evaluate(whole, [f"tasks.path={moved}"]) == result["meta_test"]
    moved.unlink()
    learner = distmeta.load(whole)
    x = np.linspace(50, 60, 9)
    y = torch.tensor(1000 * (5 + 2 * (x - 55)))[:, None]
    adapted = learner.adapt({"x": x}, y)
    predicted = adapted.predict({"x": x})
    assert torch.equal(learner.adapt(x[:, None], y).predict(x[:, None]), predicted)
    assert 500 < predicted.std() < 20_000  # of the targets' size, not of a standardised one's
    with pytest.raises(ConfigError, match="the inputs: there is no column 'x'"):
        learner.adapt({"z": x}, y)
    for wrong in (["a", "b"], torch.zeros(len(x), 3), 1.0, [[1.0], [2.0, 3.0]]):
        with pytest.raises(ConfigError, match=r"y_support|the support set has"):
            learner.adapt({"x": x}, wrong)


def test_a_changed_table_is_refused_by_name(path, tmp_path):
    for record in train(config(path), tmp_path / "run"):
        if record.step == 3:
            break
    pq.write_table(lines(unit=2000.0), path)
    with pytest.raises(ChangedError, match="data: table has changed"):
        finish(train(config(path), tmp_path / "run", resume=True))
    finish(train(config(path), tmp_path / "run", resume=True, accept_changes=True))


def test_metrics_are_in_the_unit_of_the_target(tmp_path):
    """The same tasks in another unit: the same training, other figures."""
    results = []
    for unit in (1.0, 1024.0):
        path = tmp_path / f"{unit}.parquet"
        pq.write_table(lines(unit=unit), path)
        results.append(finish(train(config(path), tmp_path / f"run-{unit}"))["meta_test"])
    assert results[1]["loss"]["mean"] == pytest.approx(results[0]["loss"]["mean"], rel=1e-4)
    assert results[1]["mse"]["mean"] == pytest.approx(2.0**20 * results[0]["mse"]["mean"], rel=1e-4)
    assert results[0]["mse"]["mean"] > 2 * results[0]["loss"]["mean"]  # whose variance is about 80


def test_shared_classes_need_ways_only_where_every_class_must_be_there(tmp_path):
    path = tmp_path / "lines.parquet"
    pq.write_table(lines(kind=True), path)
    classes = {"target": "sign", "objective": "cross_entropy", "classes": "all", "shots": 4, "queries": 4}
    finish(train(config(path, **classes), tmp_path / "run"))
    learner = distmeta.load(tmp_path / "run")
    model = learner.adapt({"x": [50.0, 51.0, 59.0]}, ["down", "down", "up"])
    assert model.predict({"x": [55.0]}).shape == (1, 2)
    with pytest.raises(ConfigError, match=r"class 'sideways', which no training task has; there are 'down', 'up'"):
        learner.adapt({"x": [50.0]}, ["sideways"])
    with pytest.raises(ConfigError, match=r"algorithm\.adaptation = prototypes needs examples of each class"):
        config(path, "algorithm={name: protonet}", "evaluation.inner_steps=null", **classes)
    assert fit_family(config(path, **classes)).tasks.fitted["classes"] == ["down", "up"]
