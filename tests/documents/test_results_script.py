"""The script behind ``make results``: what it runs, in which order, and that a budget that is over loses nothing."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from integration_helpers import poll

ROOT = Path(__file__).parents[2]
COMMAND = "distmeta train configs/sinusoid_maml.yaml run.steps=40 evaluation.tasks=4 evaluation.validation_tasks=2"


@pytest.fixture(scope="module")
def results() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield importlib.import_module("results")


def test_what_is_missing_comes_before_what_has_changed(results: ModuleType) -> None:
    current = results.records.hashes_of(COMMAND)
    known = {
        "current": {"hashes": current},
        "other settings": {"hashes": {**current, "config": "0"}},
        "other code": {"hashes": {**current, "code": "0"}},
        "of before": {},
    }
    commands = dict.fromkeys(("other settings", "new", "current", "other code", "of before", "also new"), COMMAND)
    assert results.waiting(commands, known) == ["new", "also new", "other settings", "other code"]


def test_data_is_filled_in_or_left_out(results: ModuleType) -> None:
    command = "distmeta train configs/a.yaml tasks.root=PATH_TO_OMNIGLOT cluster.workers=2"
    assert results.filled_in(command, {}) is None
    words = results.filled_in(command, {"PATH_TO_OMNIGLOT": "/data"})
    assert words[-2:] == ["tasks.root=/data", "cluster.workers=2"]
    assert results.cores_of(words) == 2
    assert results.cores_of(["cluster.workers=0"]) == 1


@pytest.mark.slow  # it trains
def test_runs_are_kept_and_a_failed_one_is_said(
    results: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept: list[Path] = []

    def keep(run: Path, name: str, command: str) -> Path:
        kept.append(results.records.keep(run, name, command, commit="abc1234", folder=tmp_path))
        return kept[-1]

    rows = [("good", COMMAND), ("bad", COMMAND.replace("sinusoid_maml", "no_such_file"))]
    given = iter([(name, command, results.filled_in(command, {})) for name, command in rows])
    results.train(given, 2, 300, tmp_path, keep)
    assert [file.stem for file in kept] == ["good"]
    assert json.loads(kept[0].read_text())["result"]["steps"] == 40
    said = capsys.readouterr().out
    assert "bad: failed" in said
    assert "no_such_file" in (tmp_path / "bad.log").read_text()


@pytest.mark.slow
def test_what_is_cut_off_goes_on_the_next_time(
    results: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = COMMAND.replace("run.steps=40", "run.steps=1000000") + " run.checkpoint_every=10"
    words, checkpoints = results.filled_in(long, {}), tmp_path / "run" / "checkpoints"
    for said in ("run: begins", "run: goes on"):
        before = newest(checkpoints)
        run = results.start("run", long, words, tmp_path)
        poll(lambda: newest(checkpoints), lambda step, before=before: step > before, 120)
        results.stop([run])
        told = capsys.readouterr().out
        assert said in told
        assert "the budget is over" in told
        assert newest(checkpoints) > before


def newest(checkpoints: Path) -> int:
    """Step of the newest checkpoint, 0 before the first."""
    steps = [
        int(each.name.partition("-")[2]) for each in checkpoints.glob("step-*") if (each / "manifest.json").exists()
    ]
    return max(steps, default=0)
