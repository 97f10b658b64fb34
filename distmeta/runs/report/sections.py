"""Sections of a run's report that its files tell alone."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

import yaml

from distmeta.core.secrets import mask
from distmeta.core.words import clock
from distmeta.objectives.metrics import FRACTION, LISTS, described
from distmeta.runs.report.charts import Chart, Line, lines, stacked
from distmeta.runs.report.page import Code, PageSection, Rows
from distmeta.runs.report.reading import RunFacts

SHARES = ("compute", "data", "waiting")
SMOOTHED = 0.95
"""Weight of the past in smoothed curves."""


def summary(run: RunFacts) -> PageSection:
    """What it came to."""
    facts = [("state", run.state), ("meta-steps", f"{run.steps:,}")]
    if run.figure:
        name, value = run.figure
        facts.insert(0, (title_of(name), figure_text(name, value)))
    result = run.result
    if result:
        facts += [
            ("tasks", f"{result['tasks']:,}"),
            ("training", clock(result["seconds"])),
            ("tasks/s", f"{result['tasks_per_second']:.0f}"),
            ("workers", str(result["workers"]["count"])),
        ]
    facts.append(("algorithm", str(run.config.get("algorithm", {}).get("name", ""))))
    text = "" if result else "The run has no result yet: what stands here is what it has logged so far."
    return PageSection("Summary", text, facts)


def figures(run: RunFacts) -> Iterator[PageSection]:
    """The meta-test's figures with their intervals, and after each inner step."""
    if not run.result:
        return
    measured = run.result["meta_test"]
    charts = [chart for chart in (by_step({run.name: measured}), by_episode({run.name: measured})) if chart]
    yield PageSection("Figures", tables=[Rows(figure_rows(measured), "meta-test")], charts=charts)


def figure_rows(measured: Mapping[str, Any]) -> list[list[str]]:
    """A meta-test as rows."""
    rows = [["", "mean", "± 95 %", "tasks"]]
    metric = next((name for name in measured if name not in ("loss", *LISTS, "before_adaptation")), "loss")
    for name, value in measured.items():
        if name in LISTS:
            continue
        kind = metric if name == "before_adaptation" else name
        mean, ci95 = (number_text(kind, value, value[key]) for key in ("mean", "ci95"))
        rows.append([title_of(name), mean, ci95, str(value["tasks"])])
    return rows


def by_step(tested: Mapping[str, Mapping[str, Any]]) -> Chart | None:
    """The metric after each inner step, of one meta-test or several."""
    return _progress(tested, "by_step", "step", "inner steps", "after each inner step")


def by_episode(tested: Mapping[str, Mapping[str, Any]]) -> Chart | None:
    """The metric in each episode of a trial."""
    return _progress(tested, "by_episode", "episode", "episode", "in each episode")


def _progress(tested: Mapping[str, Mapping[str, Any]], key: str, place: str, across: str, title: str) -> Chart | None:
    series, name = [], ""
    for run, measured in tested.items():
        rows = [row for row in measured.get(key, []) if row["mean"] is not None]
        if rows:
            name = next(each for each in measured if each not in ("loss", *LISTS)) if len(measured) > 1 else "loss"
            points = [(float(row[place]), float(row["mean"])) for row in rows]
            series.append(Line(run, points, [float(row["ci95"] or 0) for row in rows], marks=True))
    if not series:
        return None
    values = next(each[name] for each in tested.values() if name in each)
    return lines(f"{title_of(name)} {title}", series, across, title_of(name), percent=is_fraction(name, values))


def by_shots(tested: Sequence[Mapping[str, Any]]) -> PageSection:
    """Meta-tests with several numbers of shots."""
    first = tested[0]
    name = next((each for each in first if each not in ("shots", "loss", *LISTS, "before_adaptation")), "loss")
    points = [(float(each["shots"]), math.nan if (mean := each[name]["mean"]) is None else mean) for each in tested]
    band = [float(each[name]["ci95"] or 0) for each in tested]
    line = Line(title_of(name), points, band, marks=True)
    percent = is_fraction(name, first[name])
    return PageSection("By shots", charts=[lines("by shots", [line], "shots", title_of(name), percent=percent)])


def curves(runs: Mapping[str, RunFacts]) -> Iterator[PageSection]:
    """Learning curves of one run or several."""
    charts = []
    for name in _measured(runs):
        series: list[Line] = []
        for place, (title, run) in enumerate(runs.items()):
            label = f"{title}: " if len(runs) > 1 else ""
            train = _points(run, f"train/{name}")
            validated = _points(run, f"validation/{name}")
            if train:
                series.append(Line(f"{label}training", _smoothed(train), colour=2 * place))
            if validated:
                series.append(Line(f"{label}meta-validation", validated, marks=True, colour=2 * place + 1))
        if series:
            percent = is_fraction(name, {})
            charts.append(lines(title_of(name), series, "meta-steps", title_of(name), percent=percent))
    norms = [Line(title, _smoothed(points)) for title, run in runs.items() if (points := _points(run, "gradient_norm"))]
    if norms:
        charts.append(lines("norm of the meta-gradient", norms, "meta-steps", "norm", log_y=True))
    if charts:
        text = "Training curves are smoothed over about the last 20 logged steps."
        yield PageSection("Learning curves", text, charts=charts)


def time_and_faults(run: RunFacts) -> Iterator[PageSection]:
    """Where the time went, workers and faults on a time line."""
    if len(run.metrics) < 2:
        return
    at = _times(run)
    charts = []
    found = {name: [float(row.get(f"share/{name}") or 0) for row in run.metrics] for name in SHARES}
    if any(map(any, found.values())):
        charts.append(stacked("time by share", found, at, "minutes of training"))
    workers = [(x, float(row["workers"])) for x, row in zip(at, run.metrics, strict=True)]
    charts.append(lines("workers at work", [Line("workers", workers)], "minutes of training", "workers"))
    told = zip(at, run.metrics, strict=True)
    rates = _smoothed([(x, float(rate)) for x, row in told if (rate := row["tasks_per_second"]) is not None])
    charts.append(lines("rate", [Line("tasks/s", rates)], "minutes of training", "tasks/s"))
    rows = [["minute", "meta-step", "what happened"], *_faults(run, at)]
    tables = [Rows(rows, "faults", (2,))] if len(rows) > 1 else []
    text = "" if tables else "There were no faults."
    yield PageSection("Time, workers and faults", text, tables=tables, charts=charts)


def reproduction(run: RunFacts) -> PageSection:
    """Configuration, environment, and the commands to do it again."""
    place = shlex.quote(mask(run.location))
    commands = "\n".join(
        (
            f"distmeta train {place}/config.yaml --run-dir AGAIN",
            f"distmeta evaluate {place}",
            f"distmeta export {place} --out ARTEFACT",
        )
    )
    manifest = run.manifest
    environment = {
        "versions": manifest.get("versions", {}),
        "computed on": manifest.get("fingerprint", {}),
        "plan": manifest.get("plan", {}),
    }
    identity = {name: value for name, value in manifest.get("identity", {}).items() if value}
    code = [
        Code("commands", commands, open=True),
        Code("configuration", yaml.safe_dump(dict(run.config), sort_keys=False).rstrip()),
        Code("environment", yaml.safe_dump(environment, sort_keys=False).rstrip()),
    ]
    if identity:
        code.append(Code("hashes of data, code and frozen weights", yaml.safe_dump(identity, sort_keys=False).rstrip()))
    return PageSection("Do it again", code=code)


# Words and numbers ------------------------------------------------------------------------------------------------


def title_of(name: str) -> str:
    """A measurement's name for people."""
    plain = name.removesuffix("_inductive")
    metric = described(plain)
    title = metric.title if metric else plain.replace("_", " ")
    return f"{title}, inductive" if plain != name else title


def is_fraction(name: str, value: Mapping[str, Any]) -> bool:
    """Whether a measurement is shown in percent."""
    metric = described(name.removesuffix("_inductive"))
    known = metric.unit if metric else FRACTION if name.startswith("accuracy") else ""
    return bool(value.get("unit", known) == FRACTION)


def number_text(name: str, value: Mapping[str, Any], number: float | None) -> str:
    """One number of a measurement."""
    if number is None:
        return "not finite"
    return f"{100 * number:.2f} %" if is_fraction(name, value) else f"{number:.4g}"


def figure_text(name: str, value: Mapping[str, Any]) -> str:
    """A measurement with its interval."""
    mean, ci95 = (number_text(name, value, value[key]) for key in ("mean", "ci95"))
    return f"{mean.removesuffix(' %')} ± {ci95}"


def _measured(runs: Mapping[str, RunFacts]) -> list[str]:
    names: dict[str, None] = {}
    for run in runs.values():
        for row in run.metrics:
            names.update({key.partition("/")[2]: None for key in row if key.startswith(("train/", "validation/"))})
    first = [name for name in names if name != "loss" and not name.endswith("_tasks")]
    return [*first, *(["loss"] if "loss" in names else [])][:4]


def _points(run: RunFacts, key: str) -> list[tuple[float, float]]:
    return [(float(row["step"]), float(row[key])) for row in run.metrics if row.get(key) is not None]


def _smoothed(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    if not points:
        return []
    values = accumulate((y for _, y in points), lambda before, y: SMOOTHED * before + (1 - SMOOTHED) * y)
    return [(x, y) for (x, _), y in zip(points, values, strict=True)]


def _times(run: RunFacts) -> list[float]:
    """Minutes of training at each logged step: steps between two of them are taken to have lasted as long as these."""
    found, before, total = [], 0, 0.0
    for row in run.metrics:
        total += (row["step"] - before) * float(row["seconds"] or 0) / 60
        before = row["step"]
        found.append(total)
    return found


def _faults(run: RunFacts, at: Sequence[float]) -> Iterator[list[str]]:
    before: dict[str, float] = {}
    for minute, row in zip(at, run.metrics, strict=True):
        now = {key.removeprefix("faults/"): value or 0 for key, value in row.items() if key.startswith("faults/")}
        new = {name: value - before.get(name, 0) for name, value in now.items() if name != "shards_duplicated"}
        told = ", ".join(f"{count:g} {name.replace('_', ' ')}" for name, count in new.items() if count > 0)
        if told:
            yield [f"{minute:.1f}", f"{row['step']:,}", told]
        before = now
