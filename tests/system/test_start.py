"""Ray starts while a command imports torch and prepares data: what fails of it is told, and no process is left."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from integration_helpers import SINUSOID


def train(tmp_path: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    """The command, in an environment by which what it has started is known."""
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(SINUSOID))
    arguments = ["train", "config.yaml", "cluster.workers=1", "run.steps=2", "--run-dir", "run", *overrides]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return subprocess.run(
        [sys.executable, "-m", "distmeta", *arguments],
        cwd=tmp_path, env={**environment, "DISTMETA_TEST_START": str(tmp_path)},
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip


def left(tmp_path: Path) -> list[str]:
    """Commands of the processes that are left of it."""
    mark = f"DISTMETA_TEST_START={tmp_path}".encode()
    found = []
    for path in Path("/proc").iterdir():
        if not path.name.isdigit():
            continue
        try:
            if mark in (path / "environ").read_bytes().split(b"\0"):
                found.append((path / "cmdline").read_bytes().decode(errors="replace"))
        except OSError:  # not ours, or it has just ended
            continue
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_data_that_cannot_be_prepared(tmp_path: Path) -> None:
    data = "tasks={kind: omniglot, root: /nowhere}"
    done = train(tmp_path, data, "model={kind: conv4}")
    assert done.returncode not in (0, -9)
    assert "error: /nowhere holds no Omniglot" in done.stderr
    assert "Traceback" not in done.stderr
    assert left(tmp_path) == []


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_ray_that_cannot_be_reached(tmp_path: Path) -> None:
    done = train(tmp_path, "cluster.address=127.0.0.1:1")
    assert done.returncode not in (0, -9)
    assert "cannot reach Ray at 127.0.0.1:1" in done.stderr
    assert "Traceback" not in done.stderr
    assert left(tmp_path) == []


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_run_and_no_second_one_in_its_directory(tmp_path: Path) -> None:
    done = train(tmp_path, "evaluation.tasks=8", "engine.compile=none")
    assert done.returncode == 0, done.stderr
    assert left(tmp_path) == []
    again = train(tmp_path)
    assert again.returncode not in (0, -9)
    assert "already holds a run" in again.stderr
    assert "Traceback" not in again.stderr
