"""Runs whose tasks are a function of the user's, or a data set of his."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from integration_helpers import EVALUATION, RUN, assert_same, invoke, parameters, result_of, train, train_until, untimed

import distmeta
from distmeta.errors import ChangedError, ClusterError, DataError, TrustError
from distmeta.jobs.packing import Submission, prepare

SETTINGS: dict[str, Any] = {
    "name": "function",
    "tasks": {"kind": "module:users_functions.blobs"},
    "model": {"kind": "mlp", "hidden": [16]},
    "algorithm": {"name": "maml", "inner_lr": 0.1},
    "run": RUN,
    "evaluation": {**EVALUATION, "shots": 3},
    "engine": {"compile": "none"},
}
MODULE = """
import numpy as np
from distmeta.tasks import from_dataset


def open_points():
    data = np.load("points.npz")
    return list(zip(data["x"], data["y"].tolist()))


points = from_dataset(open_points, splits={"train": 0.5, "validation": 0.25, "test": 0.25})


def broken(split, generator):
    return 1 / 0
"""


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run in this process."""
    folder = tmp_path_factory.mktemp("function") / "run"
    train(folder, SETTINGS)
    return folder


def test_it_learns_and_says_what_it_was_given(alone: Path) -> None:
    measured = result_of(alone)["meta_test"]
    assert measured["accuracy"]["mean"] > measured["before_adaptation"]["mean"]
    written = yaml.safe_load((alone / "config.yaml").read_text())["tasks"]
    assert {name: value for name, value in written.items() if value is not None} == {
        "kind": "module:users_functions.blobs",
        "objective": "cross_entropy",
        "ways": 4,
        "shots": 2,
        "queries": 3,
        "dim": 3,
    }
    assert distmeta.evaluate(alone, trust_code=True) == measured


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.slow  # test_own_parts.py has a class of the user's own on workers
@pytest.mark.parametrize("workers", [1, 2])
def test_same_bits_on_workers(workers: int, alone: Path, tmp_path: Path) -> None:
    train(tmp_path, SETTINGS, f"cluster.workers={workers}")
    assert_same(parameters(tmp_path), parameters(alone))
    assert untimed(tmp_path) == untimed(alone)


def test_it_resumes_with_the_same_numpy_alone(alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_until(12, tmp_path, SETTINGS)
    version = np.__version__
    monkeypatch.setattr(np, "__version__", "0.9")
    with pytest.raises(ClusterError, match=f"numpy was {version}, is 0.9.*cluster.allow_mixed=true"):
        train(tmp_path, SETTINGS, resume=True)
    monkeypatch.undo()
    train(tmp_path, SETTINGS, resume=True)
    assert_same(parameters(tmp_path), parameters(alone))


@pytest.mark.slow
def test_it_resumes_with_the_same_first_task_alone(tmp_path: Path) -> None:
    """A function whose tasks are other ones in every process, which cannot be seen in one."""
    settings = {**SETTINGS, "tasks": {"kind": "module:users_slow.hashes"}, "evaluation": EVALUATION}
    code = f"""
import sys
sys.path[:0] = {sys.path!r}
import integration_helpers
integration_helpers.train_until(12, {str(tmp_path)!r}, {settings!r})
"""
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONHASHSEED": "1"})
    with pytest.raises(ClusterError, match=r"first task was \w+, is \w+"):
        train(tmp_path, settings, resume=True)


def test_a_run_of_theirs_runs_nothing_unasked(alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # which has none of the code
    with pytest.raises(TrustError, match=r"tasks.kind = module:users_functions.blobs"):
        distmeta.evaluate(alone)


def test_a_job_takes_the_function_along(tmp_path: Path) -> None:
    file = tmp_path / "function.yaml"
    file.write_text(yaml.safe_dump(SETTINGS))
    assert prepare("train", Submission(str(file))).modules == ["users_functions"]


def test_other_tasks_than_the_network_is_for_are_refused(alone: Path) -> None:
    with pytest.raises(
        DataError,
        match=r"task 0 of the train split: its examples are x float32 \(5,\), but .* began with x float32 \(3,\)",
    ):
        distmeta.evaluate(alone, ["tasks.dim=5"], trust_code=True)


def test_a_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It trains, it resumes, a change is found, and the learner needs no data."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_points.py").write_text(MODULE)
    generator = np.random.default_rng(0)
    y = np.arange(40).repeat(8)
    x = generator.normal(size=(40, 2))[y] + 0.1 * generator.normal(size=(len(y), 2))
    np.savez("points.npz", x=x, y=y)
    tasks = {"kind": "module:my_points.points", "ways": 3, "shots": 2, "queries": 3}
    settings = {**SETTINGS, "tasks": tasks, "evaluation": EVALUATION}
    train("whole", settings)
    train_until(12, "run", settings)
    train("run", settings, resume=True)
    assert_same(parameters("run"), parameters("whole"))

    learner = distmeta.load("run")  # its code lies here as the run recorded it
    np.savez("points.npz", x=x, y=(y + 1) % 40)
    import my_points

    monkeypatch.setattr(my_points.points.source, "_opened", None)  # as in a new process
    train_until(12, "other", settings)
    np.savez("points.npz", x=x, y=y)
    monkeypatch.setattr(my_points.points.source, "_opened", None)
    with pytest.raises(ChangedError, match=r"data: module:my_points.points has changed"):
        train("other", settings, resume=True)

    Path("points.npz").unlink()
    monkeypatch.setattr(my_points.points.source, "_opened", None)
    learner = distmeta.load("run")
    outputs = learner.adapt(torch.randn(6, 2), torch.arange(3).repeat(2)).predict(torch.randn(4, 2))
    assert outputs.shape == (4, 3)
    invoke("evaluate", "run").refused("tasks.kind = 'module:my_points.points'", "FileNotFoundError")


def test_an_exception_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_broken.py").write_text(MODULE)
    file = tmp_path / "broken.yaml"
    file.write_text(json.dumps({**SETTINGS, "tasks": {"kind": "module:my_broken.broken"}, "evaluation": {}}))
    said = invoke("train", file, "--run-dir", "run")
    said.refused("task 0 of the train split: it raised ZeroDivisionError", "my_broken.py, line 15: return 1 / 0")
