"""The scripts in examples/ run as people run them, with settings that make them short."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from integration_helpers import invoke
from job_helpers import running_head

EXAMPLES = Path(__file__).parents[2] / "examples"
CONFIGS = EXAMPLES.parent / "configs"
OWN, RIDGE = "module:new_estimator.Truncated", "module:ridge.Ridge"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))
SLOW = pytest.mark.slow

# What takes long: compiled code, tasks, steps.
SHORT = ("engine.compile=none", "evaluation.tasks=8", "evaluation.validation_tasks=8", "evaluation.queries=5")


def started(folder: Path, cache: Path, script: str | Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A script that has ended; its run directory lies in the folder."""
    environment = {**os.environ, "DISTMETA_CACHE": str(cache), "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    environment.pop("RAY_ADDRESS", None)
    return subprocess.run(
        [sys.executable, EXAMPLES / script, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def run(folder: Path, cache: Path, script: str | Path, *arguments: str) -> str:
    """What a script prints that succeeds."""
    done = started(folder, cache, script, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_they_are_short(script: Path) -> None:
    assert len(script.read_text(encoding="utf-8").splitlines()) <= 60


def test_all_of_them_are_tested() -> None:
    tested = {
        "adapt.py",
        "ask_service.py",  # with the tutorial
        "cluster_job.py",
        "new_estimator.py",
        "own_network.py",
        "own_tasks.py",
        "scribbles.py",  # likewise
        "sinusoid.py",
        "sweep.py",
        "table.py",
    }
    assert {script.name for script in SCRIPTS} == tested


@pytest.mark.parametrize(
    "script", ["adapt.py", "sinusoid.py", *(pytest.param(each, marks=SLOW) for each in ("own_network.py", "sweep.py"))]
)
def test_an_error_is_one_message(tmp_path: Path, distmeta_cache: Path, script: str) -> None:
    """Of a folder that is taken, or that holds no run to load."""
    (tmp_path / "taken").mkdir()
    if script != "adapt.py":
        for name in ("config.yaml", "sweep.yaml"):
            (tmp_path / "taken" / name).write_text("name: taken")
    done = started(tmp_path, distmeta_cache, script, "taken")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert f"{tmp_path / 'taken'} " in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_sinusoid_and_adapt(tmp_path: Path, distmeta_cache: Path) -> None:
    steps = ("run.steps=4", "run.validate_every=2")
    shown = run(tmp_path, distmeta_cache, "sinusoid.py", "runs/sinusoid", *steps, *SHORT)
    assert "step 4: training error" in shown
    assert "100 tasks" in shown
    assert "after 10 inner steps" in shown

    shown = run(tmp_path, distmeta_cache, "adapt.py", "runs/sinusoid", *SHORT)
    assert "meta-test on 8 tasks" in shown
    errors = [float(line.rpartition(" ")[2]) for line in shown.splitlines() if line.startswith("this task")]
    assert len(errors) == 4
    assert errors[-1] < errors[0]  # 100 steps on five points


def test_table(tmp_path: Path, distmeta_cache: Path) -> None:
    """On 300 oscillators, which the script finds in place of its own 20,000."""
    source = (EXAMPLES / "table.py").read_text(encoding="utf-8")
    few = source.replace("20_000", "300").replace("Path(__file__).parents[1]", f"Path({str(EXAMPLES.parent)!r})")
    (tmp_path / "few.py").write_text(few)
    settings = ("run.steps=2", "run.meta_batch=4", "run.tasks_per_shard=4", "algorithm.inner_steps=2", *SHORT)
    shown = run(tmp_path, distmeta_cache, tmp_path / "few.py", "runs/table", *settings)
    assert re.search(r"MAML: error \d+\.\d+ cm², \d+\.\d+ after adaptation", shown)
    assert re.search(r"trained on all tasks together: \d+\.\d+ after adaptation at its best rate, 0\.\d+", shown)


def test_own_network(tmp_path: Path, distmeta_cache: Path) -> None:
    settings = ("run.steps=2", "run.validate_every=2", "run.meta_batch=4", "model.channels=8")
    shown = run(tmp_path, distmeta_cache, "own_network.py", "runs/own", *settings, *SHORT)
    assert "step 2: validation accuracy" in shown
    assert "meta-test accuracy" in shown


def test_own_tasks(tmp_path: Path, distmeta_cache: Path) -> None:
    shown = run(tmp_path, distmeta_cache, "own_tasks.py", "runs/own", "run.steps=20", "run.validate_every=10", *SHORT)
    accuracy = float(shown.rpartition("accuracy")[2].split("%")[0])
    assert accuracy > 30  # chance is 20


def test_the_function_of_own_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it stands in the documents, with its configuration."""
    text = (EXAMPLES.parent / "docs" / "own-tasks.md").read_text(encoding="utf-8")
    for name, language in {"my_tasks.py": "python", "wave.yaml": "yaml"}.items():
        (tmp_path / name).write_text(re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)[0])
    monkeypatch.chdir(tmp_path)
    train(tmp_path, "wave.yaml", "run.steps=30", "run.validate_every=15", *SHORT)
    measured = json.loads((tmp_path / "run" / "result.json").read_text())["meta_test"]
    assert measured["mse"]["mean"] < measured["before_adaptation"]["mean"]


def train(folder: Path, *arguments: str) -> None:
    """``distmeta train`` in this process, with the modules of the current folder."""
    invoke("train", *arguments, "--run-dir", folder / "run").succeeded()


def test_new_estimator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its window is the exact meta-gradient's where it holds all steps, and another one's where it does not."""
    shutil.copy(EXAMPLES / "new_estimator.py", tmp_path)
    monkeypatch.chdir(tmp_path)
    steps = ("run.steps=2", "run.validate_every=2", "algorithm.inner_steps=3", *SHORT)
    losses = {}
    for name, own in {"exact": "exact", "all": OWN, "last": OWN}.items():
        folder = tmp_path / name
        window = [] if own == "exact" else [f"algorithm.window={3 if name == 'all' else 1}"]
        train(folder, str(CONFIGS / "sinusoid_maml.yaml"), f"algorithm.estimator={own}", *window, *steps)
        losses[name] = json.loads((folder / "run" / "result.json").read_text())["meta_test"]["loss"]["mean"]
    assert losses["all"] == pytest.approx(losses["exact"], rel=1e-5)
    assert losses["last"] != pytest.approx(losses["exact"], rel=1e-5)


def test_the_method_of_contributing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ridge regression head, as it stands there."""
    text = (EXAMPLES.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^   ```python\n(.*?)^   ```$", text, re.MULTILINE | re.DOTALL)
    (tmp_path / "ridge.py").write_text(textwrap.dedent(code))
    monkeypatch.chdir(tmp_path)
    chosen = f"algorithm={{name: protonet, adaptation: {RIDGE}}}"
    settings = ("run.steps=12", "run.meta_batch=8", "run.validate_every=6", "model.filters=8", "cluster.workers=0")
    train(tmp_path, str(CONFIGS / "demo.yaml"), chosen, "evaluation.inner_steps=null", *settings, *SHORT)
    measured = json.loads((tmp_path / "run" / "result.json").read_text())["meta_test"]
    assert measured["accuracy"]["mean"] > 0.4  # chance is 0.2


@pytest.mark.slow
def test_cluster_job(tmp_path: Path) -> None:
    with running_head(tmp_path, {"RAY_AUTH_MODE": "disabled"}) as head:
        command = [sys.executable, str(EXAMPLES / "cluster_job.py"), head.address, "run.steps=4", *SHORT]
        environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
        done = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert "step 4/4" in done.stdout
    assert "SUCCEEDED" in done.stdout


@pytest.mark.slow
def test_sweep(tmp_path: Path, distmeta_cache: Path) -> None:
    settings = ("trials=2", "scheduler.grace=2", "run.steps=4", "run.validate_every=2")
    shown = run(tmp_path, distmeta_cache, "sweep.py", "runs/rates", *settings, *SHORT)
    assert shown.count("validation error") == 2
    assert "at algorithm.inner_lr 0.01, outer.lr 0.001" in shown
    assert "meta-test error" in shown
