"""Trials without Ray: driven from validation to validation, restarted, and gone on from by others."""

from __future__ import annotations

import math
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
from sweep_helpers import EVERY, STEPS, storage, sweep

from distmeta.runs import checkpoint
from distmeta.storage.files import Storage
from distmeta.storage.manifests import CHECKPOINTS
from distmeta.sweeps.outcomes import TrialResult
from distmeta.sweeps.plots import importance, plots
from distmeta.sweeps.points import Values
from distmeta.sweeps.results import best_checkpoint, ranked, read_trial, write_results
from distmeta.sweeps.sweep import Sweep
from distmeta.sweeps.trial import Moment, TrialRun

PBT = {"kind": "pbt", "interval": EVERY}
POINTS = range(EVERY, STEPS + 1, EVERY)


def points(chosen: Sweep) -> tuple[Values, ...]:
    assert chosen.points is not None
    return chosen.points


def pair(chosen: Sweep, trials: Storage, its: Values, mine: Values) -> tuple[TrialRun, TrialRun]:
    """A donor and another trial, both at their first validation."""
    donor, trial = TrialRun(chosen, trials, "donor", its), TrialRun(chosen, trials, "trial", mine)
    donor.next()
    trial.next()
    return donor, trial


def whole(run: TrialRun) -> list[tuple[int, dict[str, float] | None]]:
    """All that is left of a trial."""
    found = []
    while run.step < STEPS:
        found.append(run.next())
    return found


KEPT: list[TrialRun] = []


RESTARTED = ("repeats=2", "run.validate_every=5")  # the last validation comes sooner than the others


def begin(overrides: tuple[str, ...], folder: Path) -> tuple[Any, Moment]:
    """The first validation of a trial, whose process goes on to hold its runs."""
    chosen = sweep(*overrides)
    KEPT.append(TrialRun(chosen, storage(folder), "a", points(chosen)[0]))
    return KEPT[0].next(), KEPT[0].place


def test_restarted_anywhere(tmp_path: Path) -> None:
    """A trial that dies, here twice, tells each validation once, to the same bits; its runs' mean is what it tells."""
    chosen = sweep(*RESTARTED)
    values = points(chosen)[0]
    expected = whole(TrialRun(chosen, storage(tmp_path / "whole"), "a", values))
    assert [step for step, _ in expected] == [5, 10, 12]

    trials = storage(tmp_path / "broken")
    with multiprocessing.get_context("fork").Pool(1) as pool:
        told, place = pool.apply(begin, (RESTARTED, tmp_path / "broken"))
        assert told == expected[0]
    second = TrialRun(chosen, trials, "a", values)  # the first one was killed
    second.go_on(place, values)
    assert second.next() == expected[1]
    second.close()
    third = TrialRun(chosen, trials, "a", values)  # without having been told where it was
    assert whole(third) == expected

    alone = [
        TrialRun(sweep("run.validate_every=5", f"settings={{seed: {n}}}"), storage(tmp_path / str(n)), "a", values)
        for n in (0, 1)
    ]
    singles = [whole(run) for run in alone]
    for place, (_, metrics) in enumerate(expected):
        each = [single[place][1] for single in singles]
        assert metrics is not None
        assert metrics["mse"] == math.fsum(one["mse"] for one in each if one) / 2


def test_exploiting_another_trial(tmp_path: Path) -> None:
    """The donor's parameters, learned rates and optimizer to the bit, other rates, and then another run."""
    chosen = sweep(
        base={**sweep().base, "algorithm": {"name": "meta_sgd", "inner_lr": 0.01}},
        space={"outer.lr": {"loguniform": [1e-4, 1e-1]}, "outer.lr_meta": {"loguniform": [1e-4, 1e-1]}},
        scheduler=PBT,
    )
    trials, (mine, its, *_) = storage(tmp_path), points(chosen)
    donor, trial = pair(chosen, trials, its, mine)
    donor.next()
    trial.next()
    place, other = donor.place, {**its, "outer.lr": 0.02}
    trial.go_on(place, other)
    trial.close()

    def saved(where: str) -> checkpoint.Snapshot:
        return checkpoint.load(trials.child(*where.split("/"), "seed-0", CHECKPOINTS, "step-00000008"))

    gave, took = saved("donor"), saved("trial/part-001")
    assert {name.partition("/")[0] for name in gave.meta} == {"model", "rates"}
    assert all(torch.equal(took.meta[name], gave.meta[name]) for name in gave.meta)
    for key, state in gave.optimizer["state"].items():
        for name, value in state.items():
            assert torch.equal(torch.as_tensor(took.optimizer["state"][key][name]), torch.as_tensor(value))
    assert took.config["outer"]["lr"] == 0.02
    assert took.config["outer"]["lr_meta"] == its["outer.lr_meta"]

    again = TrialRun(chosen, trials, "trial", other)  # its process died before its first step
    again.go_on(place, other)
    assert again.place == Moment("trial", 1, 8)
    rest, unchanged = whole(again), whole(donor)
    assert [step for step, _ in rest] == [step for step, _ in unchanged] == [12]
    assert rest != unchanged  # the other rate counts
    assert not trials.child("trial").exists("part-002")

    result = read_trial(chosen, trials, "trial", "")
    assert result.rates == [(0, its), (8, other)]
    assert [point.place.trial for _, point in sorted(result.points.items())] == ["donor", "donor", "trial"]
    assert result.status == "finished"


def test_what_was_not_noted_by_tune_counts(tmp_path: Path) -> None:
    """A trial that had gone on from another one goes on as that, whatever its moment is according to Tune."""
    chosen = sweep(scheduler=PBT)
    trials, (its, mine, *_) = storage(tmp_path), points(chosen)
    donor, trial = pair(chosen, trials, its, mine)
    before, other = trial.place, {**its, "outer.lr": 0.02}
    trial.go_on(donor.place, other)
    expected = trial.next()
    trial.close()

    again = TrialRun(chosen, trials, "trial", mine)
    again.go_on(before, mine)
    assert again.place == Moment("trial", 1, before.step)
    assert again.next() == expected
    again.go_on(again.place, {**other, "outer.lr": 0.03})  # from its own moment with other rates
    assert again.place == Moment("trial", 2, 2 * EVERY)
    assert again.next() != whole(donor)[-1]
    again.close()


def test_the_same_values_continue_as_the_donor_does(tmp_path: Path) -> None:
    chosen = sweep(scheduler=PBT)
    trials, (its, mine, *_) = storage(tmp_path), points(chosen)
    donor, trial = pair(chosen, trials, its, mine)
    trial.go_on(donor.place, its)
    assert whole(trial) == whole(donor)


def test_others_may_go_on_from_any_validation(tmp_path: Path) -> None:
    """As soon as it is told, whatever the base says of checkpoints, also where it is not the best so far."""
    space = {"algorithm.inner_lr": {"uniform": [0.001, 0.01]}}
    unchanging = ("outer.lr=0", "run.checkpoint_every=3", "model.hidden=[600, 600]")  # megabytes take a while to write
    chosen = sweep(*unchanging, space=space, scheduler=PBT)
    trials = storage(tmp_path)
    run = TrialRun(chosen, trials, "a", points(chosen)[0])
    for step in POINTS:
        run.next()
        assert checkpoint.load(trials.child("a", "seed-0", CHECKPOINTS, f"step-{step:08d}")).step == step
    run.close()


def test_divergence_is_a_result(tmp_path: Path) -> None:
    chosen = sweep(space={"algorithm.inner_lr": {"choice": [1e30, 0.01]}}, searcher="grid", trials=None)
    trials = storage(tmp_path)
    for name, values in zip("ab", points(chosen), strict=True):
        run = TrialRun(chosen, trials, name, values)
        told = run.next()
        run.close()
        assert told[0] == EVERY
        assert (told[1] is None) == (name == "a")
    best, worst = ranked(chosen, [read_trial(chosen, trials, name, "") for name in "ab"])
    assert (best.name, best.status) == ("b", "stopped")
    assert (worst.name, worst.status) == ("a", "diverged")
    assert "algorithm.inner_lr" in worst.problem


def test_results(tmp_path: Path) -> None:
    """The files of the end, from the trials' folders."""
    import pyarrow.parquet

    chosen = sweep(trials=3)
    trials = storage(tmp_path)
    names = {"c": "", "a": "", "b": "OSError: gone", "never": "it could not start"}
    for name, values in zip("abc", points(chosen), strict=True):
        run = TrialRun(chosen, trials, name, values)
        for _ in range(3 if name != "c" else 1):
            run.next()
        run.close()
    found = ranked(chosen, [read_trial(chosen, trials, name, failure) for name, failure in names.items()])
    assert {each.name: each.status for each in found} == {
        "a": "finished",
        "b": "failed",
        "c": "stopped",
        "never": "failed",
    }
    assert [each.score for each in found[:3]] == sorted(each.score for each in found[:3])
    best = best_checkpoint(chosen, trials, found[0])
    assert checkpoint.load(best).step == found[0].step
    summary = write_results(Storage.at(tmp_path), chosen, found, best.location, {})
    assert summary["best"]["trial"] == found[0].name
    for name in ("rates.png", "curves.png", "importance.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    table = pyarrow.parquet.read_table(tmp_path / "trials.parquet").to_pylist()
    assert [row["trial"] for row in table] == [each.name for each in found]
    assert "mse_seed_0" not in table[0]
    assert table[0]["outer.lr"] == found[0].values["outer.lr"]
    assert table[3]["mse"] is None
    assert (tmp_path / "trials.csv").read_text().count("\n") == 5


def test_results_of_repeated_runs(tmp_path: Path) -> None:
    """The scores of each seed stand beside their mean."""
    import pyarrow.parquet

    chosen = sweep("repeats=2", "trials=2", "seed=3", "settings={seed: 5}")
    trials = storage(tmp_path)
    for name, values in zip("ab", points(chosen), strict=True):
        whole(TrialRun(chosen, trials, name, values))
    found = ranked(chosen, [read_trial(chosen, trials, name, "") for name in "ab"])
    summary = write_results(Storage.at(tmp_path), chosen, found, "", {})
    assert summary["seeds"] == [5, 6]
    for row, each in zip(pyarrow.parquet.read_table(tmp_path / "trials.parquet").to_pylist(), found, strict=True):
        runs = [row["mse_seed_5"], row["mse_seed_6"]]
        assert row["mse"] == math.fsum(runs) / 2
        assert runs[0] != runs[1]
        assert tuple(runs) == each.runs


def test_keys_that_exclude_each_other(tmp_path: Path) -> None:
    """No picture shows two keys that no trial has both of."""
    space = {
        "algorithm.name": {"choice": ["maml", "meta_sgd"]},
        "algorithm.inner_lr": {"uniform": [0.01, 0.1], "when": {"algorithm.name": "maml"}},
        "outer.lr_meta": {"uniform": [0.01, 0.1], "when": {"algorithm.name": "meta_sgd"}},
    }
    chosen = sweep(space=space)
    found = [result(number, values, float(number)) for number, values in enumerate(points(chosen))]
    assert {len(each.values) for each in found} == {2}
    assert set(plots(chosen, found)) == {"curves.png", "importance.png"}


def result(number: int, values: Values, score: float) -> TrialResult:
    return TrialResult(str(number), values, "finished", {}, score, STEPS, STEPS, "", [])


@pytest.mark.parametrize(("key", "share"), [("outer.lr", 1.0), ("algorithm.inner_steps", 0.0)])
def test_importance(key: str, share: float) -> None:
    space = {"outer.lr": {"loguniform": [1e-4, 1e-1]}, "algorithm.inner_steps": {"choice": [1, 2]}}
    found = [
        result(n, {"outer.lr": rate, "algorithm.inner_steps": steps}, rate**3)
        for n, (rate, steps) in enumerate([(0.1, 1), (0.2, 2), (0.3, 2), (0.4, 1)])
    ]
    assert importance(sweep(space=space), found)[key] == pytest.approx(share)
