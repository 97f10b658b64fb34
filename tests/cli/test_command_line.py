"""The command line as people and scripts use it."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from integration_helpers import CLI, SINUSOID, invoke, result_of, write_config

import distmeta
from distmeta.algorithms import ALGORITHMS
from distmeta.models import MODELS
from distmeta.tasks import TASKS


def test_version() -> None:
    assert invoke("--version").succeeded().out == f"distmeta {distmeta.__version__}\n"


@pytest.mark.parametrize(
    ("registry", "names"),
    [("tasks", TASKS), ("models", MODELS), ("algorithms", ALGORITHMS)],
    ids=["tasks", "models", "algorithms"],
)
def test_list(registry: str, names: dict[str, Any]) -> None:
    shown = invoke("list", registry).succeeded().out
    for name in names:
        assert name in shown


def test_evaluate_as_json(reference: Callable[[str], Any]) -> None:
    expected = reference("glyphs")
    done = invoke("evaluate", expected.folder, "--json").succeeded()
    assert json.loads(done.out) == expected.result["meta_test"] == result_of(expected.folder)["meta_test"]
    assert {"accuracy", "accuracy_inductive", "before_adaptation", "by_step"} < expected.result["meta_test"].keys()
    assert [row["step"] for row in expected.result["meta_test"]["by_step"]] == [0, 1]


def test_evaluate_a_checkpoint(reference: Callable[[str], Any]) -> None:
    expected = reference("glyphs")
    chosen = expected.folder / expected.result["checkpoint"]
    assert json.loads(invoke("evaluate", chosen, "--json").succeeded().out) == expected.result["meta_test"]


def test_evaluate_with_overrides(reference: Callable[[str], Any]) -> None:
    folder = reference("glyphs").folder
    settings = ["evaluation.tasks=7", "evaluation.inner_steps=3", "evaluation.queries=4"]
    measured = json.loads(invoke("evaluate", folder, *settings, "--json").succeeded().out)
    assert measured["accuracy"]["tasks"] == 7
    assert [row["step"] for row in measured["by_step"]] == [0, 1, 2, 3]
    assert measured["accuracy"]["mean"] == measured["by_step"][3]["mean"]
    invoke("evaluate", folder, "evaluation.taskz=7").refused("evaluation.taskz", code=2)
    invoke("evaluate", folder, "model.filters=9").refused("model.*", code=2)


def test_evaluate_as_a_table(reference: Callable[[str], Any]) -> None:
    shown = invoke("evaluate", reference("glyphs").folder).succeeded().out
    accuracy = reference("glyphs").result["meta_test"]["accuracy"]
    for text in (f"{100 * accuracy['mean']:.2f} %", f"{100 * accuracy['ci95']:.2f} %", "before adaptation"):
        assert text in shown


def test_plain_lines_where_there_is_no_terminal(tmp_path: Path) -> None:
    config, run = write_config(tmp_path, SINUSOID), tmp_path / "run"
    done = invoke("train", config, "run.steps=12", "run.log_every=5", "--run-dir", run).succeeded()
    assert "\x1b" not in done.out + done.err
    assert "\r" not in done.out + done.err
    steps = re.findall(r"^step (\d+)/12  loss \S+  mse \S+  tasks/s \S+  \S+ left$", done.err, re.M)
    assert steps == ["5", "10", "12"]
    assert len(re.findall(r"^step (?:5|10|12): validation  loss", done.err, re.M)) == 3
    assert "meta-test: 10 tasks" in done.err
    assert "mean squared error" in done.out
    assert f"run directory: {run} (tested checkpoints/step-" in done.out


def test_progress_bar_in_a_terminal(tmp_path: Path) -> None:
    config, run = write_config(tmp_path, SINUSOID), tmp_path / "run"
    shown = in_a_terminal("train", str(config), "--run-dir", str(run))
    for text in ("\x1b[", "━", "meta-training", "20/20", "meta-test", "10/10", "mean squared error"):
        assert text in shown


def in_a_terminal(*arguments: str) -> str:
    """All that the command writes to a terminal; it should succeed."""
    ours, its = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "120", "LINES": "40"}
    process = subprocess.Popen([CLI, *arguments], stdin=its, stdout=its, stderr=its, env=environment)
    os.close(its)
    written = b""
    try:
        while data := os.read(ours, 65536):
            written += data
    except OSError:  # Linux's way to say that the other side has closed
        pass
    finally:
        os.close(ours)
    assert process.wait(timeout=60) == 0, written.decode()
    return written.decode()


@pytest.mark.parametrize("buffered", ["", "1"])
@pytest.mark.parametrize("arguments", [("--version",), ("--help",), ("list", "tasks")])
def test_output_that_a_full_disk_does_not_take(arguments: tuple[str, ...], buffered: str) -> None:
    environment = {**os.environ, "PYTHONUNBUFFERED": buffered}
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [CLI, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, env=environment, check=False, timeout=60
        )
    assert done.returncode == 1
    assert done.stderr == "error: cannot write the output: No space left on device; send it elsewhere\n"


def test_names_of_settings_change_no_terminal(tmp_path: Path) -> None:
    config = write_config(tmp_path, SINUSOID)
    config.write_text(config.read_text() + '"ru\\e[2Jn": 1\n')
    for overrides in ((), ("run.st\x1b[2Jeps=1",), ("tasks.\u202ex=1",)):
        told = invoke("train", config, *overrides).refused("there is no such setting", code=2)
        assert told.replace("\n", "").isprintable()


def test_settings_are_listed_with_their_defaults() -> None:
    listed = " ".join(invoke("list", "tasks").out.replace("│", " ").split())
    assert "source (required)" in listed
    assert "augment={}" in listed
    assert "Undefined" not in listed
