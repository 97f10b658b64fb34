"""What a person sees of a run's workers and faults."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from distmeta.cli.display import Display, fault_words, meta_test_table, result_lines
from distmeta.core.records import FAULTS, StepRecord

LOST = {"workers_lost": 1, "shards_redone": 2, "steps_skipped": 0}


def record(step: int, workers: int = 2, faults: dict[str, int] | None = None) -> StepRecord:
    return StepRecord(step, step, {"loss": 0.5}, 1.0, 0.1, 0.2, 5.0, workers, faults=faults or dict.fromkeys(LOST, 0))


def shown(*records: StepRecord, terminal: bool = False) -> str:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=160, color_system=None)
    with Display(console, 10, 1) as display:
        for each in records:
            display.step(each)
    text: Any = console.file
    return str(text.getvalue())


def test_plain_lines_mention_workers_and_faults_when_they_change() -> None:
    faults = [None, None, LOST, LOST, LOST]
    records = [record(step, 2 - (step == 5), lost) for step, lost in enumerate(faults, 1)]
    first, second, third, fourth, fifth = shown(*records).splitlines()
    for line in (first, second, fourth):
        assert "worker" not in line
    assert "  2 workers, 1 worker lost  " in third
    assert "  1 worker, 1 worker lost  " in fifth


def test_a_resumed_run_says_what_happened_before() -> None:
    assert "  2 workers, 1 restart  " in shown(record(4, faults={"driver_restarts": 1}))


def test_a_terminal_always_shows_them() -> None:
    assert "2 workers" in shown(record(1), terminal=True)
    assert "\n1 worker, 1 worker lost\n" in shown(record(1, 1, LOST), terminal=True)


def test_every_fault_has_words() -> None:
    for name in FAULTS:
        (one,), (three,) = fault_words({name: 1}), fault_words({name: 3})
        assert one.startswith("1 ")
        assert three.startswith("3 ")
        assert one.split()[1] == three.split()[1].removesuffix("s")
    assert fault_words(dict.fromkeys(FAULTS, 0)) == []


def test_the_summary_lists_every_fault() -> None:
    result = {
        "tasks": 20,
        "steps": 10,
        "seconds": 61.0,
        "tasks_per_second": 0.3,
        "workers": {"count": 1},
        "checkpoint": "checkpoints/step-00000010",
        "faults": {**LOST, "driver_restarts": 2, "nodes_joined": 1},
    }
    first, _, report, last = result_lines(result, "runs/a")
    assert report == "report: runs/a/report.html"
    assert first.endswith("0 tasks/s, 1 worker")
    assert last == "faults: 1 worker lost, 2 shards redone, 2 restarts, 1 node joined"


def test_a_metric_of_any_name_is_shown() -> None:
    """Accuracies in percent, other metrics as numbers, and the loss alone where there is nothing else."""
    figure = {"mean": 0.25, "ci95": 0.5, "tasks": 4}
    for name, expected in {"accuracy_top5": "25.00 %", "own_score": "0.25", "loss": "0.25"}.items():
        measured = {"loss": figure, name: figure, "before_adaptation": figure, "by_step": [{"step": 0, **figure}] * 3}
        console = Console(file=io.StringIO(), width=120)
        console.print(meta_test_table(measured))
        lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
        (own,) = [line for line in lines if f" {name} " in line]
        (before,) = [line for line in lines if " before adaptation " in line]
        assert expected in own
        assert expected in before


def test_shards_given_to_a_second_worker_are_no_fault() -> None:
    result = {
        "tasks": 20,
        "steps": 10,
        "seconds": 61.0,
        "tasks_per_second": 0.3,
        "workers": {"count": 2},
        "checkpoint": "checkpoints/step-00000010",
        "faults": {**dict.fromkeys(FAULTS, 0), "shards_duplicated": 3},
    }
    assert not any("faults" in line or "shard" in line for line in result_lines(result, "runs/a"))
    assert "shard" not in shown(record(4, faults={"shards_duplicated": 3}))


def test_each_kind_of_progress_says_what_it_is() -> None:
    out = io.StringIO()
    with Display(Console(file=out, force_terminal=False), 0, 1) as display:
        for told in (display.test, display.built):
            told(5, 10)
            told(10, 10)
    assert out.getvalue().splitlines() == ["meta-test: 10 tasks", "built from 10 images"]


def test_metrics_are_shown_with_unit_and_direction() -> None:
    figure = {"mean": 0.25, "ci95": 0.5, "tasks": 4}
    measured = {
        "loss": figure,
        "mae": {**figure, "higher_is_better": False, "unit": "kWh"},
        "auroc": {**figure, "higher_is_better": True, "unit": "fraction"},
        "r2": {**figure, "higher_is_better": True},
        "rmse": {**figure, "higher_is_better": False, "unit": "target"},
    }
    console = Console(file=io.StringIO(), width=120)
    console.print(meta_test_table(measured))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    for title, number in {
        "mean absolute error (kWh) ↓": "0.25",
        "area under the ROC ↑": "25.00 %",
        "R² ↑": "0.25",
        "root mean squared error ↓": "0.25",
    }.items():
        (line,) = [line for line in shown.splitlines() if f" {title} " in line]
        assert f" {number} " in line
