"""``distmeta tune`` as people call it: what it prints, and how it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from sweep_helpers import STEPS, written
from typer.testing import CliRunner, Result

from distmeta.cli.main import app


def invoke(tmp_path: Path, content: dict[str, Any], *arguments: str) -> Result:
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(content))
    where = ["--run-dir", str(tmp_path / "sweep")]
    return CliRunner().invoke(app, ["tune", str(tmp_path / "sweep.yaml"), *where, *arguments])


@pytest.mark.usefixtures("ray_cluster")
def test_the_command(tmp_path: Path) -> None:
    """A line a trial, the ranking, the meta-test, where all of it lies; a finished sweep is told, not repeated."""
    known = {"algorithm.inner_lr": 0.02, "outer.lr": 0.003}
    arguments = ("trials=2", "searcher=optuna")
    done = invoke(tmp_path, written(first=[known]), *arguments)
    assert done.exit_code == 0, done.output
    lines = done.stderr.splitlines()
    assert sum(line.startswith("trial ") for line in lines) == 2
    assert any(f"algorithm.inner_lr 0.02, outer.lr 0.003  step {STEPS}/{STEPS}  mse " in line for line in lines)
    assert any("2 of 2 trials done" in line for line in lines)
    for words in ("trials by validation mse", "meta-test", "best: trial ", f"run directory: {tmp_path}/sweep (tested "):
        assert words in done.stdout
    again = invoke(tmp_path, written(first=[known]), *arguments, "--resume")
    assert again.exit_code == 0
    assert again.stdout == done.stdout
    assert "is finished: nothing to do" in again.stderr
    (tmp_path / "sweep").rename(tmp_path / "elsewhere")
    arguments = (*arguments, "--resume", "--run-dir", str(tmp_path / "elsewhere"))
    moved = invoke(tmp_path, written(first=[known]), *arguments)
    assert moved.stdout == done.stdout.replace(f"{tmp_path}/sweep", f"{tmp_path}/elsewhere")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("space.outer.lrr={choice: [1]}",), 2, "did you mean 'lr'"),
        (("trials=0",), 2, "trials: "),
        (("--address", "127.0.0.1:9"), 1, "127.0.0.1:9"),
    ],
    ids=["key", "value", "cluster"],
)
def test_refusals(arguments: tuple[str, ...], code: int, words: str, tmp_path: Path) -> None:
    """One message, the exit code of its kind, and no files."""
    done = invoke(tmp_path, written(), *arguments)
    assert done.exit_code == code, done.output
    assert done.stderr.count("error: ") == 1
    assert words in done.stderr
    assert "Traceback" not in done.output
    assert not (tmp_path / "sweep").exists()
