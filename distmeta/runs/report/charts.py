"""Charts as SVG that takes its colours from the page, so that they are right in light, in dark and in print."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape

from distmeta.runs.report.scales import Scale, far_apart, short

CHART_WIDTH, CHART_HEIGHT = 440, 270
BEGINNING, RIGHT_END = 60, 426
"""Of the axis across."""

CEILING, FLOOR = 14, 226
"""Of the axis up."""

LABEL_WIDTH = 150
"""Of bars."""

COLOURS = 8
"""Colours of series that the page has; more series take them again."""

MOST_POINTS = 400
"""Of a line; of more, some are left out."""

MOST_ROWS = 12
"""Of a chart's table."""


@dataclass(frozen=True)
class Line:
    """A series of points.

    Attributes:
        name: in the legend.
        points: (x, y) in the order of x; those that are not finite are gaps.
        band: half-width of an interval at each point, if there are any.
        marks: whether the points themselves are drawn.
        joined: whether they are joined by a line.
        faint: whether it is a background to another line.
        colour: its number; that of its place by default.
    """

    name: str
    points: Sequence[tuple[float, float]]
    band: Sequence[float] | None = None
    marks: bool = False
    joined: bool = True
    faint: bool = False
    colour: int | None = None


@dataclass(frozen=True)
class Chart:
    """A figure for the page.

    Attributes:
        title: what it shows.
        svg: the drawing.
        table: the same as rows, the first of which has the columns' names: for readers that see no drawing.
        legend: (colour's number, name) of each series.
    """

    title: str
    svg: str
    table: list[list[str]]
    legend: list[tuple[int, str]] = field(default_factory=list)


def lines(
    title: str,
    series: Sequence[Line],
    across: str,
    up: str,
    *,
    percent: bool = False,
    log_x: bool = False,
    log_y: bool | None = None,
    ends: Sequence[tuple[float, float, str]] = (),
) -> Chart:
    """Lines over a common axis, with bands of their intervals, and marks where some of them end.

    Where it is not said, the axis up is logarithmic if a few numbers would press all others to its foot.
    """
    series = [_thinned(line) for line in series]
    points = [point for line in series for point in line.points]
    highest = [y + b for line in series for (_, y), b in zip(line.points, line.band or (), strict=False)]
    lowest = [y - b for line in series for (_, y), b in zip(line.points, line.band or (), strict=False)]
    values = [*(py for _, py in points), *highest, *lowest]
    x = Scale.of([px for px, _ in points], BEGINNING, RIGHT_END, log=log_x)
    y = Scale.of(values, FLOOR, CEILING, log=far_apart(values) if log_y is None else log_y, percent=percent)
    parts = [*_axes(x, y, across, f"{up}, logarithmic" if y.log else up)]
    for place, line in enumerate(series):
        parts += _line(line, place if line.colour is None else line.colour, x, y)
    for px, py, mark in ends:
        if math.isfinite(py):
            parts.append(f'<text class="end" x="{x.place(px):.1f}" y="{y.place(py) + 4:.1f}">{escape(mark)}</text>')
    legend = [(_number(line, place), line.name) for place, line in enumerate(series) if not line.faint]
    return Chart(title, _svg(title, parts), _table(series, across, y), legend if len(legend) > 1 else [])


def bars(title: str, values: Mapping[str, float], up: str, *, percent: bool = False) -> Chart:
    """Horizontal bars with their values."""
    scale = Scale.of([0.0, *values.values()], LABEL_WIDTH, CHART_WIDTH - 60, percent=percent)
    step = 26
    parts = []
    for place, (name, value) in enumerate(values.items()):
        top = CEILING + place * step
        width = max(0.0, scale.place(value) - LABEL_WIDTH)
        parts.append(f'<text class="label right" x="{LABEL_WIDTH - 8}" y="{top + 14}">{escape(name)}</text>')
        parts.append(f'<rect class="fill s0" x="{LABEL_WIDTH}" y="{top}" width="{width:.1f}" height="18" rx="2"/>')
        parts.append(f'<text class="label" x="{LABEL_WIDTH + 6 + width:.1f}" y="{top + 14}">{scale.text(value)}</text>')
    table = [["", up], *([name, scale.text(value)] for name, value in values.items())]
    return Chart(title, _svg(title, parts, CEILING + step * len(values) + 6), table)


def stacked(title: str, series: Mapping[str, Sequence[float]], across: Sequence[float], label: str) -> Chart:
    """Shares that lie on one another, over a common axis."""
    x = Scale.of(across, BEGINNING, RIGHT_END)
    y = Scale(0.0, 1.0, FLOOR, CEILING, percent=True)
    parts, below = [*_axes(x, y, label, "share of the workers' time")], [0.0] * len(across)
    for place, values in enumerate(series.values()):
        above = [min(1.0, low + max(0.0, value)) for low, value in zip(below, values, strict=True)]
        edge = [*zip(across, above, strict=True), *reversed([*zip(across, below, strict=True)])]
        path = " ".join(f"{x.place(px):.1f},{y.place(py):.1f}" for px, py in edge)
        parts.append(f'<polygon class="fill area s{place % COLOURS}" points="{path}"/>')
        below = above
    rows = [[label, *series]]
    for place in _some(len(across), MOST_ROWS):
        rows.append([short(across[place]), *(f"{100 * values[place]:.1f} %" for values in series.values())])
    return Chart(title, _svg(title, parts), rows, list(enumerate(series)))


def dots(
    title: str, points: Sequence[tuple[float, float, float, str]], across: str, up: str, score: str, *, log: bool
) -> Chart:
    """Points coloured by a score, with a word for each."""
    x = Scale.of([px for px, *_ in points], BEGINNING, RIGHT_END, log=log)
    y = Scale.of([py for _, py, *_ in points], FLOOR, CEILING, log=log)
    shade = Scale.of([value for *_, value, _ in points], 0.15, 1.0)
    parts = [*_axes(x, y, across, up)]
    for px, py, value, name in points:
        if not all(map(math.isfinite, (px, py))):
            continue
        opacity = shade.place(value) if math.isfinite(value) else 0.05
        at = f'cx="{x.place(px):.1f}" cy="{y.place(py):.1f}"'
        said = escape(f"{name}: {score} {short(value)}")
        parts.append(f'<circle class="dot" {at} r="6" fill-opacity="{opacity:.2f}"><title>{said}</title></circle>')
    rows = [["", across, up, score], *([n, short(px), short(py), short(v)] for px, py, v, n in points[:MOST_ROWS])]
    return Chart(title, _svg(title, parts), rows)


def parallel(
    title: str, rows: Sequence[Mapping[str, float]], names: Sequence[str], score: str, logs: Iterable[str]
) -> Chart:
    """A line for each row over one vertical axis for each name; the higher the score, the stronger the line."""
    logged = set(logs)
    gap = (RIGHT_END - BEGINNING - 20) / max(1, len(names) - 1)
    scales = {n: Scale.of([r[n] for r in rows], FLOOR, CEILING + 14, log=n in logged) for n in names}
    shade = Scale.of([row[score] for row in rows], 0.1, 1.0)
    parts = []
    for place, name in enumerate(names):
        across = BEGINNING + place * gap
        parts.append(f'<line class="axis" x1="{across:.1f}" x2="{across:.1f}" y1="{CEILING + 14}" y2="{FLOOR}"/>')
        parts.append(f'<text class="label middle" x="{across:.1f}" y="{CHART_HEIGHT - 10}">{escape(name)}</text>')
        for value, at in ((scales[name].high, CEILING + 8), (scales[name].low, FLOOR + 14)):
            parts.append(f'<text class="tick middle" x="{across:.1f}" y="{at}">{short(value)}</text>')
    for row in rows:
        if all(math.isfinite(row[name]) for name in names):
            path = " ".join(f"{BEGINNING + at * gap:.1f},{scales[n].place(row[n]):.1f}" for at, n in enumerate(names))
            parts.append(f'<polyline class="line s0" points="{path}" stroke-opacity="{shade.place(row[score]):.2f}"/>')
    table = [list(names), *([short(row[name]) for name in names] for row in rows[:MOST_ROWS])]
    return Chart(title, _svg(title, parts), table)


def _line(line: Line, number: int, x: Scale, y: Scale) -> list[str]:
    parts, colour = [], f"s{number % COLOURS}"
    if line.band is not None:
        pairs = [*zip(line.points, line.band, strict=True)]
        edge = [(px, py + b) for (px, py), b in pairs] + [(px, py - b) for (px, py), b in reversed(pairs)]
        if all(math.isfinite(value) for point in edge for value in point):
            path = " ".join(f"{x.place(px):.1f},{y.place(py):.1f}" for px, py in edge)
            parts.append(f'<polygon class="fill band {colour}" points="{path}"/>')
    for run in _runs(line.points, y.log):
        path = " ".join(f"{x.place(px):.1f},{y.place(py):.1f}" for px, py in run)
        if line.joined:
            parts.append(f'<polyline class="line {colour}{" faint" if line.faint else ""}" points="{path}"/>')
        if line.marks:
            for px, py in run:
                said = escape(f"{line.name}: {short(px)}, {y.text(py)}")
                at = f'cx="{x.place(px):.1f}" cy="{y.place(py):.1f}"'
                parts.append(f'<circle class="fill {colour}" {at} r="3"><title>{said}</title></circle>')
    return parts


def _axes(x: Scale, y: Scale, across: str, up: str) -> Iterable[str]:
    for value, text in y.ticks():
        at = y.place(value)
        yield f'<line class="grid" x1="{BEGINNING}" x2="{RIGHT_END}" y1="{at:.1f}" y2="{at:.1f}"/>'
        yield f'<text class="tick right" x="{BEGINNING - 6}" y="{at + 4:.1f}">{text}</text>'
    for value, text in x.ticks():
        yield f'<text class="tick middle" x="{x.place(value):.1f}" y="{FLOOR + 16}">{text}</text>'
    yield f'<line class="axis" x1="{BEGINNING}" x2="{RIGHT_END}" y1="{FLOOR}" y2="{FLOOR}"/>'
    yield f'<text class="label middle" x="{(BEGINNING + RIGHT_END) / 2}" y="{CHART_HEIGHT - 8}">{escape(across)}</text>'
    middle = (FLOOR + CEILING) / 2
    yield (f'<text class="label middle" transform="translate(12 {middle}) rotate(-90)">{escape(up)}</text>')


def _svg(title: str, parts: Iterable[str], height: float = CHART_HEIGHT) -> str:
    body = "".join(parts)
    said = escape(title, quote=True)
    return f'<svg viewBox="0 0 {CHART_WIDTH} {height:.0f}" role="img" aria-label="{said}">{body}</svg>'


def _table(series: Sequence[Line], across: str, y: Scale) -> list[list[str]]:
    """The points of all lines, some of them where there are many."""
    by_x: dict[float, dict[int, float]] = {}
    for place, line in enumerate(series):
        for px, py in line.points:
            by_x.setdefault(px, {})[place] = py
    places = sorted(by_x)
    rows = [[across, *(line.name for line in series)]]
    for at in _some(len(places), MOST_ROWS):
        found = by_x[places[at]]
        rows.append([short(places[at]), *(y.text(found[n]) if n in found else "" for n in range(len(series)))])
    return rows


def _thinned(line: Line) -> Line:
    if len(line.points) <= MOST_POINTS:
        return line
    chosen = _some(len(line.points), MOST_POINTS)
    band = None if line.band is None else [line.band[at] for at in chosen]
    return replace(line, points=[line.points[at] for at in chosen], band=band)


def _some(count: int, most: int) -> list[int]:
    """Places, evenly, with the first and the last.

    >>> _some(9, 3)
    [0, 4, 8]
    """
    if count <= most:
        return list(range(count))
    return sorted({round(at * (count - 1) / (most - 1)) for at in range(most)})


def _runs(points: Sequence[tuple[float, float]], log: bool) -> list[list[tuple[float, float]]]:
    """The points in pieces without gaps."""
    found: list[list[tuple[float, float]]] = [[]]
    for point in points:
        if math.isfinite(point[1]) and (point[1] > 0 or not log):
            found[-1].append(point)
        elif found[-1]:
            found.append([])
    return [run for run in found if run]


def _number(line: Line, place: int) -> int:
    return (place if line.colour is None else line.colour) % COLOURS
