"""Ctrl-C and SIGTERM: a checkpoint, a message that says how to go on, exit 130, and nothing left running."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest
from integration_helpers import (
    SINUSOID,
    Command,
    Finished,
    assert_same,
    logged_steps,
    parameters,
    snapshot,
    train,
    write_config,
)

ENDLESS = "run.steps=100000"
PLAIN = "engine.compile=none"  # which by itself would depend on the number of steps, and change rounding


def interrupted(done: Finished, run: Path) -> int:
    """The command ended as it should; gives the step that its message names."""
    assert done.code == 130, done.err
    assert "Traceback" not in done.out + done.err
    *_, last = done.err.splitlines()
    match = re.fullmatch(r"interrupted by SIG\w+; step (\d+) is saved in (.+), go on with --resume", last)
    assert match, done.err
    assert match[2] == str(run)
    return int(match[1])


def check_resumed(run: Path, step: int) -> None:
    """Going on a few steps in this process gives what a run that nobody interrupted gives."""
    assert snapshot(run).step == step
    steps = f"run.steps={step + 5}"
    train(run, SINUSOID, steps, PLAIN, resume=True)
    whole = run.parent / "whole"
    train(whole, SINUSOID, steps, PLAIN)
    assert_same(parameters(run, step + 5), parameters(whole, step + 5))
    assert logged_steps(run) == logged_steps(whole)


@pytest.mark.parametrize(
    ("workers", "number"),
    [
        pytest.param(0, signal.SIGINT, id="in-process-SIGINT", marks=pytest.mark.slow),
        pytest.param(0, signal.SIGTERM, id="in-process-SIGTERM", marks=pytest.mark.slow),
        pytest.param(1, signal.SIGINT, id="ray-SIGINT"),
        pytest.param(2, signal.SIGTERM, id="ray-SIGTERM", marks=pytest.mark.slow),
    ],
)
def test_interrupted(workers: int, number: signal.Signals, tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = [ENDLESS, PLAIN, f"cluster.workers={workers}", "--run-dir", str(run)]
    with Command("train", write_config(tmp_path, SINUSOID), *settings) as process:
        assert process.reach(4, run)
        process.interrupt(number)
        done = process.end()
        assert process.left_behind() == []
    step = interrupted(done, run)
    assert f"interrupted by {number.name}" in done.err
    check_resumed(run, step)
