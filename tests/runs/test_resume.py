"""A run that stops, however it stops, goes on as if it had not."""

from __future__ import annotations

import itertools
import json
import logging
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.fs
import pytest
from integration_helpers import (
    FAMILIES,
    SINUSOID,
    STEPS,
    assert_same,
    checkpoint_names,
    configure,
    drain,
    flip_a_byte,
    invoke,
    logged_steps,
    parameters,
    result_of,
    snapshot,
    train,
    train_until,
    write_config,
)

import distmeta
from distmeta.core.records import FAULTS
from distmeta.errors import Interrupted, NonFiniteError
from distmeta.runs import checkpoint
from distmeta.storage.files import Storage

EVERY_STEP = list(range(1, STEPS + 1))
PLAIN = ["engine.compile=none"]  # what no other test has recorded already takes longer to record than to run


@pytest.mark.usefixtures("ray_cluster")
def test_resumed_on_workers(tmp_path: Path, reference: Callable[[str], Any]) -> None:
    train_until(7, tmp_path, SINUSOID)
    result = train(tmp_path, SINUSOID, "cluster.workers=2", resume=True)
    expected = reference("sinusoid")
    assert_same(parameters(tmp_path), expected.parameters)
    assert result["meta_test"] == expected.result["meta_test"]
    assert logged_steps(tmp_path) == EVERY_STEP


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=[pytest.mark.slow] * (name in ("glyphs", "drawn"))) for name in FAMILIES]
)
def test_consumer_that_stops_early(family: str, tmp_path: Path, reference: Callable[[str], Any]) -> None:
    """At a step that is checkpointed anyway (10), one that is not (7), and right at the first."""
    settings = "run.checkpoint_every=5"
    train_until(1, tmp_path, FAMILIES[family], settings)
    for step in (7, 10):
        for record in distmeta.train(configure(FAMILIES[family], settings), tmp_path, resume=True):
            if record.step == step:
                break
        assert snapshot(tmp_path).step == step
    result = train(tmp_path, FAMILIES[family], settings, resume=True)
    expected = reference(family)
    assert_same(parameters(tmp_path), expected.parameters)
    assert result["meta_test"] == expected.result["meta_test"]
    assert logged_steps(tmp_path) == EVERY_STEP


def test_finished_run_is_left_alone(tmp_path: Path, reference: Callable[[str], Any]) -> None:
    run = tmp_path / "run"
    shutil.copytree(reference("sinusoid").folder, run)
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files(run)}
    done = invoke("train", write_config(tmp_path, SINUSOID), "--run-dir", run, "--resume").succeeded()
    assert "is finished: nothing to do" in done.err
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files(run)} == before


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("begun", [False, True], ids=["nothing-there", "no-checkpoint-yet"])
def test_without_a_checkpoint(begun: bool, tmp_path: Path, reference: Callable[[str], Any]) -> None:
    config, run = write_config(tmp_path, SINUSOID), tmp_path / "run"
    if begun:
        train_until(1, run, SINUSOID)
        shutil.rmtree(run / "checkpoints")
    done = invoke("train", config, "--run-dir", run, "--resume").succeeded()
    assert f"no checkpoint in {run}: starting at step 0" in done.err
    assert_same(parameters(run), reference("sinusoid").parameters)
    assert logged_steps(run) == EVERY_STEP


def test_more_steps(tmp_path: Path, reference: Callable[[str], Any]) -> None:
    train(tmp_path, SINUSOID, "run.steps=10")
    assert result_of(tmp_path)["steps"] == 10
    result = train(tmp_path, SINUSOID, resume=True)
    expected = reference("sinusoid")
    assert_same(parameters(tmp_path), expected.parameters)
    assert logged_steps(tmp_path) == EVERY_STEP
    assert result["meta_test"] == expected.result["meta_test"]
    assert result_of(tmp_path) == result


@pytest.mark.parametrize(
    ("optimizer", "schedule"),
    [("adamw", "linear"), ("sgd", "cosine"), ("adam", "{kind: step, every: 4, factor: 0.5}")],
)
def test_schedules_and_optimizers_go_on(optimizer: str, schedule: str, tmp_path: Path) -> None:
    settings = [f"outer.schedule={schedule}", f"outer.optimizer={optimizer}", "outer.weight_decay=0.1"]
    settings += ["outer.momentum=0.9"] if optimizer == "sgd" else []
    settings += ["run.steps=10", "outer.clip_norm=0.5"]
    train(tmp_path / "whole", SINUSOID, *settings)
    train_until(4, tmp_path / "parts", SINUSOID, *settings)
    train(tmp_path / "parts", SINUSOID, *settings, resume=True)
    assert_same(parameters(tmp_path / "parts", 10), parameters(tmp_path / "whole", 10))


def test_skipped_steps_stay_counted(tmp_path: Path) -> None:
    settings = [*PLAIN, "model={kind: 'module:integration_models.Fragile'}", "outer.on_nonfinite=skip"]
    records = list(distmeta.train(configure(SINUSOID, *settings), tmp_path / "whole"))
    skipped = [record.step for record in records if record.skipped]
    assert 2 <= len(skipped) <= STEPS - 2
    result = result_of(tmp_path / "whole")
    assert result["faults"] == {**dict.fromkeys(FAULTS, 0), "steps_skipped": len(skipped)}
    train_until(skipped[1], tmp_path / "parts", SINUSOID, *settings)
    resumed = train(tmp_path / "parts", SINUSOID, *settings, resume=True)
    assert resumed["faults"] == {**result["faults"], "driver_restarts": 1}
    assert_same(parameters(tmp_path / "parts"), parameters(tmp_path / "whole"))


@pytest.mark.parametrize("every", [0, 2])
def test_steps_that_may_be_skipped_in_a_row(every: int, tmp_path: Path) -> None:
    """As many as allowed, over sessions, validated or not; then the run ends, and goes on where more are allowed."""
    settings = [*PLAIN, "algorithm.inner_lr=1e30", "outer.on_nonfinite=skip", f"run.validate_every={every}"]
    stopped = pytest.raises(NonFiniteError, match=r"meta-step 4 .*the 3 before it .*outer\.max_skips = 3 allows")
    train_until(2, tmp_path, SINUSOID, *settings, "outer.max_skips=3")
    for _ in range(2):
        with stopped:
            train(tmp_path, SINUSOID, *settings, "outer.max_skips=3", resume=True)
        assert checkpoint_names(tmp_path)[-1] == "step-00000003"
    with pytest.raises(NonFiniteError, match="meta-step 6 "):
        train(tmp_path, SINUSOID, *settings, "outer.max_skips=5", resume=True)


def test_good_steps_end_a_row_of_skipped_ones(tmp_path: Path) -> None:
    settings = [*PLAIN, "model={kind: 'module:integration_models.Fragile'}", "outer.on_nonfinite=skip"]
    skipped = [record.skipped for record in distmeta.train(configure(SINUSOID, *settings), tmp_path / "free")]
    longest = max(len(list(group)) for same, group in itertools.groupby(skipped) if same)
    assert longest < sum(skipped)
    train(tmp_path / "bounded", SINUSOID, *settings, f"outer.max_skips={longest}")
    assert_same(parameters(tmp_path / "bounded"), parameters(tmp_path / "free"))


def test_best_validation_is_what_is_tested_and_kept(tmp_path: Path) -> None:
    """A rate that is far too high, so that validation is best early."""
    settings = ["outer.lr=1", "run.validate_every=2", "run.keep=1", "run.checkpoint_every=1"]
    records = list(distmeta.train(configure(SINUSOID, *settings), tmp_path))
    validated = {record.step: record.validation["mse"] for record in records if record.validation}
    best = min(validated, key=lambda step: validated[step])
    assert best < STEPS - 2
    result = result_of(tmp_path)
    assert result["best_validation"] == {"step": best, "metric": "mse", "value": validated[best]}
    assert result["checkpoint"] == f"checkpoints/step-{best:08d}"
    assert checkpoint_names(tmp_path) == [f"step-{best:08d}", f"step-{STEPS:08d}"]
    assert distmeta.evaluate(tmp_path) == result["meta_test"]
    assert distmeta.evaluate(tmp_path / result["checkpoint"]) == result["meta_test"]
    assert distmeta.evaluate(tmp_path / f"checkpoints/step-{STEPS:08d}") != result["meta_test"]


@pytest.mark.parametrize("name", ["params.safetensors", "manifest.json"])
def test_damaged_newest_checkpoint(
    name: str, tmp_path: Path, reference: Callable[[str], Any], caplog: pytest.LogCaptureFixture
) -> None:
    train_until(8, tmp_path, SINUSOID)
    assert checkpoint_names(tmp_path)[-2:] == ["step-00000006", "step-00000008"]
    flip_a_byte(tmp_path / "checkpoints/step-00000008" / name)
    with caplog.at_level(logging.WARNING, "distmeta"):
        result = train(tmp_path, SINUSOID, resume=True)
    assert f"step-00000008/{name} is damaged" in caplog.text
    assert "using the checkpoint of step 6 instead" in caplog.text
    expected = reference("sinusoid")
    assert_same(parameters(tmp_path), expected.parameters)
    assert result["meta_test"] == expected.result["meta_test"]
    assert logged_steps(tmp_path) == EVERY_STEP


def test_interrupted_in_a_validation(tmp_path: Path, reference: Callable[[str], Any]) -> None:
    """Step 5 is validated: two shards after its five. The run is asked to end between the two."""
    looks = 0

    def check() -> None:
        nonlocal looks
        looks += 1
        if looks == 5 * 5 + 2:
            raise Interrupted("interrupted by SIGINT")

    with pytest.raises(Interrupted, match="--resume"):
        drain(distmeta.train(configure(SINUSOID), tmp_path, check=check))
    result = train(tmp_path, SINUSOID, resume=True)
    expected = reference("sinusoid")
    assert_same(parameters(tmp_path), expected.parameters)
    assert logged_steps(tmp_path) == EVERY_STEP
    assert result["best_validation"] == expected.result["best_validation"]


def test_interrupted_in_the_final_test(tmp_path: Path, reference: Callable[[str], Any]) -> None:
    def stop(done: int, total: int) -> None:
        raise Interrupted("interrupted by SIGINT")

    with pytest.raises(Interrupted, match=f"step {STEPS} is saved in .* --resume"):
        drain(distmeta.train(configure(SINUSOID), tmp_path, progress=stop))
    assert not (tmp_path / "result.json").exists()
    assert train(tmp_path, SINUSOID, resume=True)["meta_test"] == reference("sinusoid").result["meta_test"]


def test_longer_run_that_was_stopped_before_its_final_test(tmp_path: Path) -> None:
    """Its directory still holds the result of the shorter run."""
    train(tmp_path, SINUSOID, "run.steps=10")
    for record in distmeta.train(configure(SINUSOID), tmp_path, resume=True):
        if record.step == STEPS:
            break
    assert snapshot(tmp_path).step == STEPS
    assert train(tmp_path, SINUSOID, resume=True)["steps"] == STEPS


def test_run_on_another_file_system(reference: Callable[[str], Any]) -> None:
    """Its logs are kept here and uploaded with each checkpoint, beside training."""
    files = pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(fsspec.filesystem("memory")))
    run = Storage(files, f"bucket-{uuid.uuid4().hex}/run", "memory://run")
    settings = configure(SINUSOID)
    for record in distmeta.train(settings, run):
        found, _ = checkpoint.latest(run)
        assert found is None or found.step <= record.step
        if record.step == 8:
            break
    assert checkpoint.steps(run) == [5, 6, 8]
    assert len(run.read_bytes("metrics.jsonl").splitlines()) == 8
    result = drain(distmeta.train(settings, run, resume=True))
    expected = reference("sinusoid")
    assert_same(checkpoint.load(run.child("checkpoints", f"step-{STEPS:08d}")).meta, expected.parameters)
    assert [json.loads(line)["step"] for line in run.read_bytes("metrics.jsonl").splitlines()] == EVERY_STEP
    assert result["meta_test"] == expected.result["meta_test"]
    assert result["faults"]["driver_restarts"] == 1


def test_run_at_a_uri(tmp_path: Path, reference: Callable[[str], Any]) -> None:
    uri, config = (tmp_path / "run").as_uri(), write_config(tmp_path, SINUSOID)
    train_until(8, uri, SINUSOID)
    invoke("train", config, "--run-dir", uri).refused(uri, "already holds a run", "--resume")
    resumed = invoke("train", config, "--run-dir", uri, "--resume").succeeded()
    assert f"resuming {uri} at step 8" in resumed.err
    expected = reference("sinusoid")
    assert_same(parameters(uri), expected.parameters)
    assert logged_steps(tmp_path / "run") == EVERY_STEP
    result = result_of(tmp_path / "run")
    assert result["meta_test"] == expected.result["meta_test"]
    for place in (uri, f"{uri}/{result['checkpoint']}"):
        assert json.loads(invoke("evaluate", place, "--json").succeeded().out) == result["meta_test"]
