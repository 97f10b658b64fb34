"""The report of a sweep: ranking, rates against score, curves with stops, importances, parallel coordinates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from distmeta.core.secrets import mask
from distmeta.runs.report import sections
from distmeta.runs.report.charts import Chart, Line, bars, dots, lines, parallel
from distmeta.runs.report.page import Code, PageSection, Rows, page
from distmeta.sweeps.plots import INNER_KEY, OUTER_KEY, importance_of
from distmeta.sweeps.sweep import SWEEP

MARKS = {"stopped": "■", "finished": "●"}
"""What ends a trial's curve, by its status; anything else is a cross."""

LOG_RATIO = 20.0
"""A setting's largest value over its smallest from which its axis is logarithmic."""

Curves = Mapping[str, Sequence[tuple[float, float]]]


def sweep_page(found: Mapping[str, Any], curves: Curves, location: str) -> str:
    """The page of the content of ``results.json`` and of each trial's validations."""
    best, metric = found["best"], found["metric"]
    facts = [
        ("trials", str(len(found["trials"]))),
        ("best trial", best["trial"]),
        (f"best {sections.title_of(metric)}", _score(metric, best["score"])),
        *((key, f"{value:.4g}" if isinstance(value, float) else str(value)) for key, value in best["values"].items()),
    ]
    charts = _over_trials(found)
    parts = [
        PageSection("Summary", facts=facts),
        PageSection("Best trial on held-out tasks", tables=[Rows(sections.figure_rows(best["meta_test"]))]),
        PageSection("Trials", tables=[Rows(_ranking(found))]),
        PageSection("Settings and score", charts=charts),
        PageSection("Curves", _KEY, charts=[_all_curves(found, curves)]),
        PageSection("Do it again", code=_code(found, location)),
    ]
    return page(str(found.get("name", "sweep")), "sweep", parts)


_KEY = "● finished, ■ stopped by the scheduler, x diverged or failed."


def _ranking(found: Mapping[str, Any]) -> list[list[str]]:
    keys = list(dict.fromkeys(key for trial in found["trials"] for key in trial["values"]))
    rows = [["trial", "status", found["metric"], "at step", "steps", *keys]]
    for trial in found["trials"]:
        values = [trial["values"].get(key, "") for key in keys]
        told = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in values]
        score = _score(found["metric"], trial["score"])
        rows.append([trial["name"], trial["status"], score, str(trial["step"]), str(trial["steps"]), *told])
    return rows


def _over_trials(found: Mapping[str, Any]) -> list[Chart]:
    metric, scored = found["metric"], [each for each in found["trials"] if each["score"] is not None]
    if not scored:
        return []
    sign = 1 if found.get("mode") == "max" else -1
    numeric = [
        key for key in scored[0]["values"] if all(type(each["values"].get(key)) in (int, float) for each in scored)
    ]
    charts = []
    for key in numeric:
        points = sorted((float(each["values"][key]), float(each["score"])) for each in scored)
        line = Line(metric, points, marks=True, joined=False)
        title = f"{key} against {sections.title_of(metric)}"
        percent = sections.is_fraction(metric, {})
        charts.append(lines(title, [line], key, metric, percent=percent, log_x=_wide(points)))
    pair = [INNER_KEY, OUTER_KEY] if {INNER_KEY, OUTER_KEY} <= set(numeric) else numeric[:2]
    if len(pair) == 2:
        across, up = pair
        shown = [
            (float(each["values"][across]), float(each["values"][up]), each["score"] * sign, str(each["name"]))
            for each in scored
        ]
        log = all(_wide([(value, 0.0) for value in values]) for values in list(zip(*shown, strict=True))[:2])
        charts.append(dots("the two settings together; the darker, the better", shown, across, up, metric, log=log))
    listed = {key: key not in numeric for key in scored[0]["values"]}
    shares = importance_of(listed, [(each["values"], float(each["score"])) for each in scored])
    if shares:
        charts.append(bars("importance: share of the scores' variance, as ranks", shares, "share", percent=True))
    if len(numeric) > 1:
        rows = [
            {**{key: float(each["values"][key]) for key in numeric}, metric: sign * each["score"]} for each in scored
        ]
        logs = [key for key in numeric if _wide([(row[key], 0.0) for row in rows])]
        names = [*numeric, metric]
        charts.append(parallel("parallel coordinates; the stronger, the better", rows, names, metric, logs))
    return charts


def _all_curves(found: Mapping[str, Any], curves: Curves) -> Chart:
    metric = found["metric"]
    percent = sections.is_fraction(metric, {})
    best = found["best"]["trial"]
    series, ends = [], []
    for trial in found["trials"]:
        points = [point for point in curves.get(trial["name"], ()) if math.isfinite(point[1])]
        if points:
            mine = trial["name"] == best
            series.append(Line(trial["name"], points, faint=not mine, colour=0 if mine else 1))
            ends.append((*points[-1], MARKS.get(trial["status"], "x")))
    title = f"{sections.title_of(metric)} on meta-validation; the strong line is {best}"
    return lines(title, series, "meta-steps", metric, percent=percent, ends=ends)


def _code(found: Mapping[str, Any], location: str) -> list[Code]:
    place = mask(location)
    files = "\n".join(found["files"])
    again = f"distmeta tune {place}/{SWEEP} --run-dir AGAIN"
    if "best.yaml" in found["files"]:
        again += f"\ndistmeta train {place}/best.yaml --run-dir BEST"
    values = yaml.safe_dump(found["best"]["values"], sort_keys=False).rstrip()
    return [Code("commands", again, open=True), Code("the best trial's settings", values), Code("files", files)]


def _score(metric: str, score: float | None) -> str:
    return "" if score is None else sections.number_text(metric, {}, score)


def _wide(points: Sequence[tuple[float, float]]) -> bool:
    values = [x for x, _ in points]
    return min(values) > 0 and max(values) / min(values) >= LOG_RATIO
