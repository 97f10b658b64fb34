"""The scripts in examples/ run as people run them, with settings that make them short."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))

# What takes long: compiled code, tasks, steps.
SHORT = ("engine.compile=none", "evaluation.tasks=8", "evaluation.validation_tasks=8", "evaluation.queries=5")


def run(folder: Path, cache: Path, script: str, *arguments: str) -> str:
    """What a script prints; its run directory lies in the folder."""
    environment = {**os.environ, "DISTMETA_CACHE": str(cache), "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    environment.pop("RAY_ADDRESS", None)
    done = subprocess.run(
        [sys.executable, EXAMPLES / script, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_they_are_short(script: Path) -> None:
    assert len(script.read_text(encoding="utf-8").splitlines()) <= 60


def test_all_of_them_are_tested() -> None:
    assert {script.name for script in SCRIPTS} == {"adapt.py", "own_network.py", "sinusoid.py", "sweep.py"}


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


def test_own_network(tmp_path: Path, distmeta_cache: Path) -> None:
    settings = ("run.steps=2", "run.validate_every=2", "run.meta_batch=4", "model.channels=8")
    shown = run(tmp_path, distmeta_cache, "own_network.py", "runs/own", *settings, *SHORT)
    assert "step 2: validation accuracy" in shown
    assert "meta-test accuracy" in shown


@pytest.mark.slow
def test_sweep(tmp_path: Path, distmeta_cache: Path) -> None:
    settings = ("trials=2", "scheduler.grace=2", "run.steps=4", "run.validate_every=2")
    shown = run(tmp_path, distmeta_cache, "sweep.py", "runs/rates", *settings, *SHORT)
    assert shown.count("validation error") == 2
    assert "at algorithm.inner_lr 0.01, outer.lr 0.001" in shown
    assert "meta-test error" in shown
