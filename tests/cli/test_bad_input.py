"""What users get wrong: one clear message, a failing exit code, no traceback, and nothing lost."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from integration_helpers import (
    GLYPHS,
    SINUSOID,
    assert_same,
    checkpoint_names,
    command,
    configure,
    flip_a_byte,
    invoke,
    logged,
    logged_steps,
    parameters,
    poll,
    result_of,
    snapshot,
    train,
    train_until,
    write_config,
)

import distmeta
from distmeta.errors import StorageError

CONFIG_ERROR = 2


@pytest.mark.parametrize(
    ("base", "override", "words"),
    [
        pytest.param(SINUSOID, "run.stepz=3", ["run.stepz", "did you mean 'steps'"], id="unknown-key"),
        pytest.param(SINUSOID, "outter.lr=1", ["outter", "did you mean 'outer'"], id="unknown-section"),
        pytest.param(SINUSOID, "run.steps=many", ["run.steps", "integer", "'many'"], id="wrong-type"),
        pytest.param(SINUSOID, "outer.lr=-1", ["outer.lr", "greater than or equal to 0", "-1"], id="limit"),
        pytest.param(SINUSOID, "run.steps", ["'run.steps'", "key=value"], id="no-value"),
        pytest.param(SINUSOID, "tasks.kind=sinus", ["tasks.kind", "did you mean 'sinusoid'"], id="family"),
        pytest.param(SINUSOID, "run.tasks_per_shard=3", ["run.tasks_per_shard = 3", "10", "1, 2, 5, 10"], id="shards"),
        pytest.param(SINUSOID, "evaluation.ways=3", ["evaluation.ways", "sinusoid"], id="ways-of-regression"),
        pytest.param(SINUSOID, "algorithm.name=protonet", ["prototypes", "needs classes"], id="no-classes"),
        pytest.param(GLYPHS, "tasks.ways=201", ["ways = 201", "200 classes"], id="too-many-ways"),
        pytest.param(GLYPHS, "tasks.ways=1001", ["ways = 1001", "1,000 classes"], id="too-many-training-ways"),
        pytest.param(GLYPHS, "tasks.queries=20", ["1 + 20", "20 images"], id="too-many-images"),
        pytest.param(GLYPHS, "evaluation.ways=5", ["evaluation.ways = 5", "tasks.ways = 3"], id="other-ways"),
    ],
)
def test_wrong_setting(base: dict[str, Any], override: str, words: list[str], tmp_path: Path) -> None:
    config, run = write_config(tmp_path, base), tmp_path / "run"
    invoke("train", config, override, "--run-dir", run).refused(*words, code=CONFIG_ERROR)
    assert not run.exists() or not list(run.iterdir())


def test_wrong_file(tmp_path: Path) -> None:
    missing, broken = tmp_path / "missing.yaml", tmp_path / "broken.yaml"
    broken.write_text("run: {steps: 1\ntasks: 2")
    invoke("train", missing).refused(str(missing), "No such file", code=CONFIG_ERROR)
    invoke("train", broken).refused(str(broken), "line 2", code=CONFIG_ERROR)


def test_missing_data(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    tasks = {"kind": "omniglot", "root": str(empty), "ways": 3, "queries": 1}
    config = write_config(tmp_path, {**GLYPHS, "tasks": tasks})
    invoke("train", config, "--run-dir", tmp_path / "run").refused(str(empty), "images_background.zip")


@pytest.mark.slow  # tests/system/test_start.py waits for such an address too
def test_unreachable_cluster(tmp_path: Path) -> None:
    """In a process of its own, where no Ray runs yet; the other tests here stay in this one."""
    with socket.socket() as nobody:  # bound and not listening, so that nothing answers
        nobody.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        cluster = ["cluster.workers=1", f"cluster.address={address}"]
        config, run = write_config(tmp_path, SINUSOID), tmp_path / "run"
        refused = command("train", config, *cluster, "--run-dir", str(run))
    refused.refused(address, "cluster.address")
    assert refused.out == ""
    invoke("train", config, "--run-dir", run, "run.steps=1").succeeded()


# Run directories --------------------------------------------------------------------------------------------------


def test_path_below_a_file(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    invoke("train", write_config(tmp_path, SINUSOID), "--run-dir", file / "run").refused(str(file))
    assert file.read_text() == "mine"


def fill(folder: Path) -> Path:
    """A file that takes all that is left."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1024))
        except OSError:
            return filler


def test_full_disk_from_the_start(small_disk: Path, tmp_path: Path) -> None:
    fill(small_disk)
    run = small_disk / "run"
    invoke("train", write_config(tmp_path, SINUSOID), "--run-dir", run).refused(str(run), "no space is left")


@pytest.mark.slow
def test_disk_that_fills_up(small_disk: Path, tmp_path: Path, reference: Callable[[str], Any]) -> None:
    config, run = write_config(tmp_path, SINUSOID), small_disk / "run"
    steps = distmeta.train(configure(SINUSOID), run)
    assert [next(steps).step for _ in range(7)][-1] == 7
    kept = ["step-00000005", "step-00000006"]
    assert poll(lambda: checkpoint_names(run), lambda names: names == kept, 60) == kept
    filler = fill(small_disk)
    with pytest.raises(StorageError, match=f"{run}.*no space is left"):
        list(steps)
    assert snapshot(run).step == 6
    invoke("train", config, "--run-dir", run, "--resume").refused(str(run), "no space is left")
    assert snapshot(run).step == 6
    filler.unlink()
    invoke("train", config, "--run-dir", run, "--resume").succeeded()
    assert_same(parameters(run), reference("sinusoid").parameters)
    assert logged_steps(run) == list(range(1, 21))


def test_directory_that_holds_a_run(tmp_path: Path) -> None:
    config, run = write_config(tmp_path, SINUSOID), tmp_path / "run"
    train_until(4, run, SINUSOID)
    names = checkpoint_names(run)
    invoke("train", config, "--run-dir", run).refused(str(run), "already holds a run", "--resume")
    assert checkpoint_names(run) == names
    assert logged_steps(run) == [1, 2, 3, 4]


# Resuming ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four steps of twenty, with a schedule that depends on their number."""
    folder = tmp_path_factory.mktemp("begun") / "run"
    train_until(4, folder, SINUSOID, "outer.schedule=linear")
    return folder


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("seed=1", ["seed: was 0, is 1"]),
        ("model.hidden=[8]", ["model.hidden: was [40, 40], is [8]"]),
        ("outer.lr=0.5", ["outer.lr: was 0.001, is 0.5"]),
        ("run.meta_batch=20", ["run.meta_batch: was 10, is 20"]),
        ("run.threads=2", ["run.threads: was 1, is 2"]),
        ("evaluation.tasks=11", ["evaluation.tasks: was 10, is 11"]),
        ("run.steps=30", ["run.steps: was 20, is 30", "outer.schedule = linear"]),
    ],
)
def test_resume_with_a_change(override: str, words: list[str], begun: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path, SINUSOID)
    again = ["train", config, "outer.schedule=linear", "--run-dir", begun, "--resume"]
    invoke(*again, override).refused(*words, code=CONFIG_ERROR)
    assert snapshot(begun).step == 4


def test_resume_with_another_model(tmp_path: Path) -> None:
    train(tmp_path / "run", GLYPHS, "run.steps=1")
    again = ["train", write_config(tmp_path, GLYPHS), "--run-dir", tmp_path / "run", "--resume"]
    invoke(*again, "model.filters=16", "run.steps=2").refused("model.filters: was 8, is 16", code=CONFIG_ERROR)


def test_resume_with_fewer_steps_than_done(tmp_path: Path) -> None:
    train_until(4, tmp_path / "run", SINUSOID)
    again = ["train", write_config(tmp_path, SINUSOID), "--run-dir", tmp_path / "run", "--resume"]
    invoke(*again, "run.steps=3").refused("run.steps = 3", "4 steps", code=CONFIG_ERROR)


# Checkpoints ------------------------------------------------------------------------------------------------------


def test_damaged_checkpoint_given_to_evaluate(tmp_path: Path, reference: Callable[[str], Any]) -> None:
    run = tmp_path / "run"
    shutil.copytree(reference("sinusoid").folder, run)
    folder = run / "checkpoints" / checkpoint_names(run)[-1]
    flip_a_byte(folder / "params.safetensors")
    message = invoke("evaluate", folder).refused(str(folder / "params.safetensors"), "is damaged")
    assert len(message.splitlines()) == 1


def test_evaluate_what_is_no_run(tmp_path: Path) -> None:
    invoke("evaluate", tmp_path).refused(str(tmp_path), "neither a run directory nor a checkpoint")
    invoke("evaluate", tmp_path / "missing").refused("missing")


def test_every_checkpoint_damaged(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train_until(7, run, SINUSOID)
    for name in checkpoint_names(run):
        flip_a_byte(run / "checkpoints" / name / "state.pt")
    invoke("evaluate", run).refused(str(run), "state.pt is damaged")
    again = ["train", write_config(tmp_path, SINUSOID), "--run-dir", run, "--resume"]
    invoke(*again).refused(str(run), "every checkpoint")


# Models and numbers -----------------------------------------------------------------------------------------------

USER_MODELS = """
import torch

def narrow(input_shape):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 2))

def blind(input_shape, outputs):
    return torch.nn.Linear(5, outputs)

def careless(input_shape, outputs):
    raise ValueError("no such width")
"""


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        ("narrow", ["shape (2, 2)", "3 ways", "(2, 3)"]),
        ("blind", ["cannot take examples of shape (1, 28, 28)"]),
        ("careless", ["ValueError: no such width"]),
        ("missing", ["has no missing", "narrow"]),
    ],
)
def test_user_model_that_does_not_fit(
    factory: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models_of_mine.py").write_text(USER_MODELS)
    monkeypatch.chdir(tmp_path)
    kind = f"module:models_of_mine.{factory}"
    config = write_config(tmp_path, {**GLYPHS, "model": {"kind": kind}})
    invoke("train", config, "--run-dir", tmp_path / "run").refused(kind, *words, code=CONFIG_ERROR)


def test_loss_that_is_not_finite_at_once(tmp_path: Path) -> None:
    config, run = write_config(tmp_path, SINUSOID), tmp_path / "run"
    refused = invoke("train", config, "algorithm.inner_lr=1e30", "--run-dir", run)
    refused.refused("meta-step 1 ", "training tasks 0, 1, 2", "algorithm.inner_lr", "outer.on_nonfinite=skip")
    assert snapshot(run).step == 0


def test_loss_that_stops_being_finite(tmp_path: Path) -> None:
    """The first step is fine and leads to parameters of 1e30; it is kept, the second is not taken."""
    config, run = write_config(tmp_path, SINUSOID), tmp_path / "run"
    settings = ["outer.optimizer=sgd", "outer.lr=1e30"]
    refused = invoke("train", config, *settings, "--run-dir", run)
    refused.refused("meta-step 2 ", "training tasks 10, 11", "outer.lr")
    assert snapshot(run).step == 1
    assert logged_steps(run) == [1]
    invoke("train", config, *settings, "--run-dir", run, "--resume").refused("meta-step 2 ")
    assert snapshot(run).step == 1


@pytest.fixture(scope="module")
def skipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of which every step is skipped; its meta-test is not finite either."""
    folder = tmp_path_factory.mktemp("skipped")
    config = write_config(folder, SINUSOID)
    settings = ["algorithm.inner_lr=1e30", "outer.on_nonfinite=skip", "run.steps=4"]
    done = invoke("train", config, *settings, "--run-dir", folder / "run").succeeded()
    assert "meta-step 3 skipped" in done.err
    assert "faults: 4 steps skipped" in done.out
    return folder


def test_steps_that_are_skipped(skipped: Path) -> None:
    run = skipped / "run"
    assert result_of(run)["faults"]["steps_skipped"] == 4
    assert [line["skipped"] for line in logged(run)] == [True] * 4
    assert [line["faults/steps_skipped"] for line in logged(run)] == [1, 2, 3, 4]
    assert snapshot(run).step == 4


def test_results_that_are_not_finite_are_json(skipped: Path) -> None:
    shown = invoke("evaluate", skipped / "run", "--json").succeeded().out
    assert "NaN" not in shown
    assert result_of(skipped / "run")["meta_test"]["mse"]["mean"] is None


def test_finished_run_with_results_that_are_not_finite(skipped: Path) -> None:
    again = ["train", skipped / "sinusoid.yaml", "--run-dir", skipped / "run", "--resume"]
    settings = ["algorithm.inner_lr=1e30", "outer.on_nonfinite=skip", "run.steps=4"]
    assert "nothing to do" in invoke(*again, *settings).succeeded().err


# What runs came to ------------------------------------------------------------------------------------------------


def test_a_run_without_a_result_whose_loss_is_not_finite_is_shown(skipped: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(skipped / "run", run)
    (run / "result.json").unlink()
    lines = [{**line, "tasks_per_second": None, "seconds": None, "gradient_norm": None} for line in logged(run)]
    assert lines[-1]["train/loss"] is None
    assert "at step 4: loss not finite" in invoke("show", run).succeeded().out
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "loss not finite, not finite tasks/s" in invoke("show", run).succeeded().out
    invoke("report", run, "--examples", "0").succeeded()


SECTIONS = "tasks: {kind: sinusoid}\nmodel: {kind: mlp}\n"
ODD = {
    "nothing": ("", "holds no settings"),
    "a list": ("- 1", "holds no settings"),
    "no YAML": ("a: [", "is not valid YAML"),
    "two documents": ("a: 1\n---\nb: 2", "is not valid YAML"),
    "a key twice": ("a: 1\na: 2", "given twice"),
    "a tag": ("name: !!python/object/apply:os.getcwd []", "is not valid YAML"),
    "a stranger's": ("foo: {bar: 1}", "tasks: expected a section, there is none"),
    "names that are no text": ("1: 2", "names are text"),
    "run that is a number": (f"run: 3\nalgorithm: {{name: maml}}\n{SECTIONS}", "run: expected a section, got 3"),
    "algorithm that is text": (f"algorithm: maml\n{SECTIONS}", "algorithm: expected a section, got 'maml'"),
    "steps that are text": (f"run: {{steps: x}}\nalgorithm: {{}}\n{SECTIONS}", "run.steps: expected a whole number"),
}
ODD_LINES: dict[str, tuple[dict[str, Any], str]] = {
    "no step": ({"step": ...}, "step: field required"),
    "a step that is text": ({"step": "z"}, "step: input should be a valid integer, got 'z'"),
    "no rate": ({"tasks_per_second": ...}, "tasks_per_second: field required"),
    "a loss that is text": ({"train/loss": "z"}, "train/loss"),
    "a huge number": ({"share/data": 10**400}, "share/data"),
}


def check_damaged(run: Path, whole: Path, file: str, words: str) -> None:
    """One message of ``show`` and ``report``; ``runs`` lists it, and the whole run beside it."""
    for command_ in (["show", str(run)], ["report", str(run), "--examples", "0"]):
        assert len(invoke(*command_).refused(str(run / file), words).splitlines()) == 1
    listed = {row["run"]: row for row in json.loads(invoke("runs", run.parent, "--json").succeeded().out)}
    assert listed.keys() == {run.name, whole.name}
    assert listed[run.name]["state"] == "damaged"
    assert words in listed[run.name]["figure"]
    assert listed[whole.name]["state"] == "finished"


@pytest.mark.parametrize("what", ODD)
def test_a_config_of_something_else(what: str, skipped: Path, tmp_path: Path) -> None:
    text, words = ODD[what]
    shutil.copytree(skipped / "run", tmp_path / "whole")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "config.yaml").write_text(text)
    check_damaged(tmp_path / "odd", tmp_path / "whole", "config.yaml", words)


@pytest.mark.parametrize("what", ODD_LINES)
def test_metrics_of_something_else(what: str, skipped: Path, tmp_path: Path) -> None:
    changes, words = ODD_LINES[what]
    for name in ("whole", "odd"):
        shutil.copytree(skipped / "run", tmp_path / name)
    lines = logged(tmp_path / "odd")
    lines[1] = {key: value for key, value in {**lines[1], **changes}.items() if value is not ...}
    (tmp_path / "odd" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    check_damaged(tmp_path / "odd", tmp_path / "whole", "metrics.jsonl", words)
