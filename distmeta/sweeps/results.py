"""What a sweep found: read from its trials' folders, ranked, and written as tables, ``best.yaml`` and plots."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from distmeta.config.schema import dump_config
from distmeta.errors import StorageError
from distmeta.runs.directory import to_json
from distmeta.runs.report.page import REPORT
from distmeta.storage.files import Storage
from distmeta.storage.json_files import JsonValues, MetaTest, read_json
from distmeta.storage.manifests import CHECKPOINTS
from distmeta.sweeps.outcomes import Point, TrialResult
from distmeta.sweeps.points import Values
from distmeta.sweeps.report import sweep_page
from distmeta.sweeps.sweep import Sweep
from distmeta.sweeps.trial import Moment, TrialPart, diverged, mean, read_parts, read_validations

RESULTS = "results.json"
BEST = "best.yaml"
SCHEDULE = "schedule.yaml"
TRIALS_FOLDER = "trials"

_TOLD = ("name", "status", "score", "runs", "step", "steps", "values", "problem")
"""What ``results.json`` says of a trial."""


def read_trial(sweep: Sweep, trials: Storage, name: str, failure: str) -> TrialResult:
    """A trial's result, from its folder; ``failure`` is what ended it, or empty."""
    parts = read_parts(trials.child(name))
    if not parts:
        return TrialResult(name, {}, "failed", {}, math.nan, 0, 0, failure, [])
    points, rates = _history(sweep, trials, name, parts, len(parts) - 1)
    scores = {step: score for step, point in points.items() if math.isfinite(score := point.metrics[sweep.metric])}
    pick = max if sweep.mode == "max" else min
    step = pick(scores, key=lambda each: scores[each]) if scores else 0  # the first of equal ones
    done, why = max(points, default=0), diverged(parts[-1])
    status = "failed" if failure else "diverged" if why else "finished" if done == sweep.config.run.steps else "stopped"
    score = scores[step] if scores else math.nan
    return TrialResult(name, parts[-1].values, status, points, score, step, done, failure or why or "", rates)


def _history(
    sweep: Sweep, trials: Storage, name: str, parts: Sequence[TrialPart], number: int
) -> tuple[dict[int, Point], list[tuple[int, Values]]]:
    """Validations and values up to a part's end, through all trials that it goes back to."""
    part = parts[number]
    points: dict[int, Point] = {}
    rates: list[tuple[int, Values]] = []
    first = 0
    if part.origin is not None:
        other = part.origin
        its = read_parts(trials.child(other.trial))
        if other.part >= len(its) or (other.trial == name and other.part >= number):
            raise StorageError(
                f"{part.home.location} says that it goes on from part {other.part} of trial {other.trial}, which there "
                "is not; restore it, or delete the trial's folder"
            )
        before, rates = _history(sweep, trials, other.trial, its, other.part)
        first = other.step
        points = {step: point for step, point in before.items() if step <= first}
    measured = [read_validations(part.run(seed)) for seed in sweep.seeds]
    for step in sorted(set.intersection(*(set(each) for each in measured))):
        if step > first:
            runs = [each[step] for each in measured]
            points[step] = Point(mean(runs), tuple(run[sweep.metric] for run in runs), Moment(name, number, step))
    return points, [*(each for each in rates if each[0] < first), (first, part.values)]


def ranked(sweep: Sweep, results: Sequence[TrialResult]) -> list[TrialResult]:
    """The best first; those without a score last."""
    sign = -1 if sweep.mode == "max" else 1
    return sorted(results, key=lambda each: (math.isnan(each.score), sign * each.score, each.name))


def best_checkpoint(sweep: Sweep, trials: Storage, best: TrialResult) -> Storage:
    """The checkpoint of the best score, of the trial's first run; that run where the checkpoint was not kept."""
    place = best.points[best.step].place
    run = read_parts(trials.child(place.trial))[place.part].run(sweep.seeds[0]).storage
    name = f"step-{place.step:08d}"
    return run.child(CHECKPOINTS, name) if run.child(CHECKPOINTS).exists(name) else run


def write_results(
    home: Storage, sweep: Sweep, results: Sequence[TrialResult], checkpoint: str, meta_test: Mapping[str, Any]
) -> dict[str, Any]:
    """Write all files of a sweep's end; gives the content of ``results.json``.

    Args:
        home: the sweep's folder.
        sweep: the sweep.
        results: ranked.
        checkpoint: the best one.
        meta_test: what it reached.
    """
    from distmeta.sweeps.plots import plots

    best, files = results[0], {**_tables(sweep, results), **plots(sweep, results)}
    if sweep.population:
        schedule = [{"from_step": step, "values": values} for step, values in best.rates]
        told = {"trial": best.name, "checkpoint": checkpoint, sweep.metric: best.score, "rates": schedule}
        files[SCHEDULE] = yaml.safe_dump(told, sort_keys=False).encode()
    else:
        files[BEST] = dump_config(sweep.best_config(best.values)).encode()
    for name, content in files.items():
        home.write_bytes(name, content)
    summary: dict[str, Any] = {
        "name": sweep.options.name,
        "metric": sweep.metric,
        "mode": sweep.mode,
        "best": {
            "trial": best.name,
            "values": best.values,
            "score": best.score,
            "step": best.step,
            "checkpoint": checkpoint,
            "meta_test": meta_test,
        },
        "files": sorted([*files, RESULTS, REPORT]),
        "seeds": sweep.seeds,
        "trials": [{key: getattr(each, key) for key in _TOLD} for each in results],
    }
    text = to_json(summary, indent=2) + "\n"
    curves = {
        each.name: [(float(step), point.metrics[sweep.metric]) for step, point in sorted(each.points.items())]
        for each in results
    }
    home.write_bytes(REPORT, sweep_page(json.loads(text), curves, home.location).encode())
    home.write_bytes(RESULTS, text.encode())  # the last one: with it a sweep has ended
    return dict(json.loads(text))


class _Trial(JsonValues):
    name: str
    status: str
    values: dict[str, Any]
    score: float | None
    step: int
    steps: int


class _Best(JsonValues):
    trial: str
    values: dict[str, Any]
    checkpoint: str
    meta_test: MetaTest


class _Results(JsonValues):
    metric: str
    best: _Best
    files: list[str]
    trials: list[_Trial]


def read_results(home: Storage) -> dict[str, Any] | None:
    """The content of ``results.json``; ``None`` where the sweep has not ended.

    The best checkpoint is named by where it is now, since the folder may have been moved.
    """
    if not home.exists(RESULTS):
        return None
    results = read_json(home, RESULTS, _Results, "delete it and write it anew with --resume")
    _, found, below = results["best"]["checkpoint"].partition("?")[0].rpartition(f"/{TRIALS_FOLDER}/")
    if found:
        results["best"]["checkpoint"] = home.child(TRIALS_FOLDER, *below.split("/")).location
    return results


def _tables(sweep: Sweep, results: Sequence[TrialResult]) -> dict[str, bytes]:
    """The ranking, by file name."""
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    columns: dict[str, list[Any]] = {
        "rank": list(range(1, len(results) + 1)),
        "trial": [each.name for each in results],
        "status": [each.status for each in results],
        sweep.metric: [None if math.isnan(each.score) else each.score for each in results],
        **_by_run(sweep, results),
        "step": [each.step for each in results],
        "steps": [each.steps for each in results],
        **{key: _column([each.values.get(key) for each in results]) for key in sweep.options.space},
        "problem": [each.problem for each in results],
    }
    table, files = pa.table(columns), {}
    for name, write in (("trials.parquet", pa.parquet.write_table), ("trials.csv", pa.csv.write_csv)):
        buffer = io.BytesIO()
        write(table, buffer)
        files[name] = buffer.getvalue()
    return files


def _by_run(sweep: Sweep, results: Sequence[TrialResult]) -> dict[str, list[float | None]]:
    """The scores of each run, where a trial has several."""
    if len(sweep.seeds) == 1:
        return {}
    return {
        f"{sweep.metric}_seed_{seed}": [each.runs[number] if each.runs else None for each in results]
        for number, seed in enumerate(sweep.seeds)
    }


def _column(values: list[Any]) -> list[Any]:
    """Values of one type: numbers as they are, all else as JSON text."""
    known = [value for value in values if value is not None]
    if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in known):
        whole = all(isinstance(value, int) for value in known)
        return [value if value is None or whole else float(value) for value in values]
    return [None if value is None else value if isinstance(value, str) else json.dumps(value) for value in values]
