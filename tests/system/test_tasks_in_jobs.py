"""Tables, texts, functions and policies as submitted jobs and in sweeps: what the same commands give here."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from job_helpers import Head, result_of, running_head

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    with running_head(tmp_path_factory.mktemp("head"), {"RAY_AUTH_MODE": "disabled"}) as found:
        yield found


def table(folder: Path) -> dict[str, Any]:
    """Lines of 40 users."""
    generator = np.random.default_rng(1)
    user, x = np.arange(40).repeat(20), generator.normal(size=800)
    pq.write_table(pa.table({"user": user, "x": x, "y": user % 5 * x}), folder / "lines.parquet")
    tasks = {"kind": "table", "path": str(folder / "lines.parquet"), "task": "user", "target": "y", "features": ["x"]}
    return {"tasks": tasks, "model": {"kind": "mlp", "hidden": [8]}, "algorithm": {"name": "maml"}}


def texts(folder: Path) -> dict[str, Any]:
    """Texts of 20 classes."""
    lines = [f"word{n % 7} of class{n % 20},class{n % 20}" for n in range(160)]
    (folder / "texts.csv").write_text("\n".join(["text,label", *lines]))
    splits = {"train": 0.6, "validation": 0.2, "test": 0.2}
    sizes = {"ways": 2, "shots": 1, "queries": 2, "length": 6, "buckets": 20}
    return {
        "tasks": {"kind": "text", "root": str(folder / "texts.csv"), "splits": splits, **sizes},
        "model": {"kind": "bag", "features": 8},
        "algorithm": {"name": "protonet"},
    }


def function(folder: Path) -> dict[str, Any]:
    """Clouds of points, by a function in a file beside the configuration."""
    shutil.copy(Path(__file__).parents[1] / "helpers" / "users_functions.py", folder)
    return {
        "tasks": {"kind": "module:users_functions.blobs"},
        "model": {"kind": "mlp", "hidden": [8]},
        "algorithm": {"name": "maml", "inner_lr": 0.1},
    }


def policies(folder: Path) -> dict[str, Any]:
    """Points that walk to a goal."""
    return {
        "tasks": {"kind": "navigation", "episodes": 4, "horizon": 9},
        "model": {"kind": "mlp", "hidden": [8], "activation": "tanh", "weights": "xavier"},
        "algorithm": {"name": "maml_trpo", "inner_lr": 0.3},
    }


FAMILIES = {"table": table, "texts": texts, "function": function, "policies": policies}
COMMON: dict[str, Any] = {
    "run": {"steps": 4, "meta_batch": 6, "validate_every": 2},
    "evaluation": {"tasks": 8, "validation_tasks": 4},
    "engine": {"compile": "none"},
}


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_job_and_a_sweep(kind: str, head: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = {**FAMILIES[kind](tmp_path), **COMMON}
    Path("run.yaml").write_text(yaml.safe_dump(settings))
    varied = "algorithm.inner_lr" if kind != "texts" else "outer.lr"  # which prototypes and trust regions have not
    sweep = {"base": "run.yaml", "space": {varied: {"choice": [0.1, 0.01]}}, "searcher": "grid"}
    Path("sweep.yaml").write_text(yaml.safe_dump({"name": "rates", **sweep, "resources": {"workers": 1}}))

    head.run("train", "run.yaml", "cluster.workers=0", "--run-dir", "here").succeeded()
    head.invoke("submit", "run.yaml", "cluster.workers=2", "--name", kind).succeeded()
    sent = result_of(head.runs(kind))
    assert sent["workers"]["count"] == 2
    assert sent["meta_test"] == result_of(Path("here"))["meta_test"]

    head.run("tune", "sweep.yaml", "--run-dir", "swept").succeeded()
    head.invoke("submit", "sweep.yaml", "--command", "tune", "--name", f"{kind}-sweep").succeeded()
    assert ranked(head.runs(f"{kind}-sweep")) == ranked(Path("swept"))


def ranked(sweep: Path) -> tuple[list[tuple[Any, float]], Any]:
    found = json.loads((sweep / "results.json").read_text())
    assert [trial["status"] for trial in found["trials"]] == ["finished"] * 2
    return [(trial["values"], trial["score"]) for trial in found["trials"]], found["best"]["meta_test"]
