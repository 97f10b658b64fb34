"""Every benchmark that needs no trained run measures something, as short as it can; its figures are not looked at."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SHORT: dict[str, list[str]] = {
    "adapting": ["--tasks", "100", "--seconds", "0.2", "engine.compile=none"],
    "busy": ["--steps", "2", "engine.compile=none"],
    "end_to_end": ["--rounds", "1", "--steps", "2", "engine.compile=none"],
    "heads": ["--rounds", "1", "--seconds", "0.1", "--case", "omniglot-5w1s", "engine.compile=none"],
    "memory": ["--steps", "1", "engine.compile=none"],
    "overhead": ["--rounds", "1"],  # of fewer steps one worker may do nearly all
    "peers": ["--rounds", "1", "--seconds", "0.2", "--case", "sinusoid-1", "engine.compile=none"],
    "policies": ["physics", "--rounds", "1"],
    "roofline": ["--rounds", "1", "--seconds", "0.2", "engine.compile=none"],
    "scaling": ["--sizes", "0.1", "--workers", "1", "--steps", "1", "--shards", "2", "--alone", "4"],
    "startup": ["--workers", "0", "--steps", "3", "run.meta_batch=2"],
    "waiting": ["--workers", "0", "--steps", "16", "--case", "function", "--case", "table", "engine.compile=none"],
}
OF_RUNS = {"adapters", "bandits", "inner_objective", "oracle", "running_statistics", "serving", "tables", "texts"}
"""Of trained runs or data sets; :mod:`faults` takes minutes, :mod:`gpu` has a test of its own, :mod:`results` too."""

PARTS = {"common", "faults", "faults_model", "gpu", "peers_child", "pictures", "policies_peer", "processes", "results"}
PARTS |= {"simulated_ray"}


def test_none_is_forgotten() -> None:
    assert {path.stem for path in BENCHMARKS.glob("*.py")} == SHORT.keys() | OF_RUNS | PARTS


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", SHORT)
def test_it_measures(name: str, tmp_path: Path) -> None:
    script = str(BENCHMARKS / f"{name}.py")
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    options = [*SHORT[name], "--json", str(tmp_path / "found.json")]
    done = subprocess.run(
        [sys.executable, script, *options], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "found.json").read_text())
    assert found.keys() > {"benchmark", "machine", "shown"}
