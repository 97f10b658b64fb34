"""What a person sees of a sweep while it runs."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from sweep_helpers import STEPS, sweep

from distmeta.cli import sweep_view
from distmeta.cli.sweep_view import SweepDisplay
from distmeta.sweeps.view import TrialStatus


def row(number: int, status: str, step: int, score: float | None) -> TrialStatus:
    return TrialStatus(f"trial{number}", {"algorithm.inner_lr": 0.01, "outer.lr": 0.001 * number}, status, step, score)


def shown(*pictures: list[TrialStatus], terminal: bool) -> str:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=120, color_system=None)
    with SweepDisplay(console, sweep()) as display:
        for rows in pictures:
            display.show(rows)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


BEGUN = [row(1, "RUNNING", 0, None), row(2, "PENDING", 0, None)]
HALF = [row(1, "TERMINATED", STEPS, 2.5), row(2, "RUNNING", STEPS // 2, 3.5)]
ENDED = [row(1, "TERMINATED", STEPS, 2.5), row(2, "ERROR", STEPS // 2, 3.5)]


def test_plain_lines_tell_of_each_trial_once() -> None:
    first, second = shown(BEGUN, HALF, HALF, ENDED, ENDED, terminal=False).splitlines()
    assert first.startswith(f"trial trial1  algorithm.inner_lr 0.01, outer.lr 0.001  step {STEPS}/{STEPS}  mse 2.5; ")
    assert "best mse 2.5 (trial1)  1 of 4 trials done  " in first
    assert " meta-steps/s  at most " in first
    assert "mse 3.5  failed; " in second


def test_plain_lines_while_no_trial_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep_view, "SILENT_SECONDS", 0.0)
    (line,) = shown(BEGUN, terminal=False).splitlines()
    assert line == "1 running, 0 meta-steps validated; none measured yet  0 of 4 trials done"


def test_a_terminal_keeps_the_last_picture() -> None:
    """Drawn as the trials are at the end, however soon after the picture before."""
    lines = [line.split() for line in shown(BEGUN, HALF, ENDED, terminal=True).splitlines()]
    assert ["trial1", "ended", "0.01", "0.001", str(STEPS), "2.5"] in lines
    assert ["trial2", "failed", "0.01", "0.002", str(STEPS // 2), "3.5"] in lines
    assert any(" ".join(line).startswith("best mse 2.5 (trial1) 2 of 4 trials done") for line in lines[-2:])


def test_the_ranking_of_many_settings_in_80_columns() -> None:
    """No name of a setting is broken but at its dot."""
    values = {"algorithm.inner_lr": 0.00806, "outer.lr": 0.009744}
    trial = {"name": "b80e2_00007", "status": "finished", "values": values, "score": 0.9252, "step": 900, "steps": 1000}
    console = Console(file=io.StringIO(), width=80)
    console.print(sweep_view.ranking({"metric": "mse", "trials": [trial]}))
    assert isinstance(console.file, io.StringIO)
    words = console.file.getvalue().split()
    assert {"algorithm.", "inner_lr", "outer.", "lr", "0.00806", "0.009744", "900"} <= set(words)
