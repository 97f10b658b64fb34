"""Plots of a sweep, as PNG images."""

from __future__ import annotations

import functools
import io
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from distmeta.sweeps.sweep import Sweep

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from distmeta.sweeps.outcomes import TrialResult

PLOT_INCHES = (7.0, 5.0)
"""Inches."""

LEGEND = "● finished   ■ stopped   x diverged or failed"
"""What the marks mean."""

INNER_KEY, OUTER_KEY = "algorithm.inner_lr", "outer.lr"


def plots(sweep: Sweep, results: Sequence[TrialResult]) -> dict[str, bytes]:
    """PNG images by file name.

    ``rates.png``: the space's first two numeric keys, the inner and the outer rate where they are in it, coloured by
    score. ``curves.png``: what validations measured, with a mark where a trial ended. ``importance.png``: see
    :func:`importance`.
    """
    images = {"curves.png": _image(lambda axes: _curves(axes, sweep, results))}
    scored = [each for each in results if math.isfinite(each.score)]
    shares = importance(sweep, scored)
    if shares:
        images["importance.png"] = _image(lambda axes: _importance(axes, sweep, shares))
    for across, up in _pairs(sweep):
        both = [each for each in scored if across in each.values and up in each.values]
        if both:
            images["rates.png"] = _image(functools.partial(_rates, sweep=sweep, both=both, across=across, up=up))
            break
    return images


def importance(sweep: Sweep, results: Sequence[TrialResult]) -> dict[str, float]:
    """The share of the scores' variance, as ranks, that each key explains by itself, between 0 and 1.

    For numbers it is the squared rank correlation (Spearman's), for listed values the variance between their groups
    over the whole. A key that matters only together with another one, or both ways from an optimum, shows little.

    Args:
        sweep: the sweep.
        results: trials with a score; with fewer than three there is nothing to tell.
    """
    listed = {key: domain.listed for key, domain in sweep.options.space.items()}
    return importance_of(listed, [(each.values, each.score) for each in results])


def importance_of(listed: Mapping[str, bool], results: Sequence[tuple[Mapping[str, Any], float]]) -> dict[str, float]:
    """The same, of settings of which is known whether they are listed values, and of values with their score."""
    shares: dict[str, float] = {}
    for key, is_listed in listed.items():
        having = [(values, score) for values, score in results if key in values]
        if len(having) < 3:
            continue
        scores = _ranks([score for _, score in having])
        if is_listed:
            shares[key] = _between([str(values[key]) for values, _ in having], scores)
        else:
            shares[key] = _correlation(_ranks([values[key] for values, _ in having]), scores) ** 2
    return shares


def _ranks(values: Sequence[float]) -> np.ndarray:
    """Ranks, equal values sharing their mean."""
    _, inverse, counts = np.unique(np.asarray(values, dtype=float), return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[inverse])


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    if one.std() == 0 or other.std() == 0:
        return 0.0
    return float(np.corrcoef(one, other)[0, 1])


def _between(groups: Sequence[str], scores: np.ndarray) -> float:
    total = float(((scores - scores.mean()) ** 2).sum())
    labels = np.asarray(groups)
    parts = [scores[labels == label] for label in set(groups)]
    explained = sum(len(part) * float(part.mean() - scores.mean()) ** 2 for part in parts)
    return explained / total if total else 0.0


def _pairs(sweep: Sweep) -> list[tuple[str, str]]:
    """Pairs of numeric keys, the one to be shown first."""
    numeric = [
        key
        for key, domain in sweep.options.space.items()
        if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in domain.values)
    ]
    numeric.sort(key=lambda key: key != INNER_KEY)
    return sorted(itertools.combinations(numeric, 2), key=lambda pair: pair != (INNER_KEY, OUTER_KEY))


def _image(draw: Any) -> bytes:
    """Draws on one pair of axes; without pyplot, which keeps figures and asks for a display."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=PLOT_INCHES, layout="constrained")
    draw(figure.add_subplot())
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _rates(axes: Axes, sweep: Sweep, both: Sequence[TrialResult], across: str, up: str) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.ticker import LogLocator, NullFormatter

    scores = [each.score for each in both]
    colours = ScalarMappable(_norm(scores, sweep.mode), "viridis" if sweep.mode == "max" else "viridis_r")
    for each in both:
        axes.scatter(
            [each.values[across]],
            [each.values[up]],
            color=colours.to_rgba(np.asarray(each.score)),
            marker=_mark(each),
            s=60,
            edgecolors="black",
            linewidths=0.5,
        )
    best = both[0]
    axes.scatter([best.values[across]], [best.values[up]], marker="*", s=260, facecolors="none", edgecolors="red")
    for key, scale, axis in ((across, axes.set_xscale, axes.xaxis), (up, axes.set_yscale, axes.yaxis)):
        if sweep.options.space[key].kind == "loguniform":
            scale("log")
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter(NullFormatter())
    axes.set(xlabel=across, ylabel=up, title=f"{LEGEND}   (star: the best)")
    axes.figure.colorbar(colours, ax=axes, label=f"best validation {sweep.metric}")


def _mark(result: TrialResult) -> str:
    return {"finished": "o", "stopped": "s"}.get(result.status, "X")


def _norm(scores: Sequence[float], mode: str) -> Any:
    """Colours for the better half and what is as far again on its other side; what is worse has the last colour."""
    from matplotlib.colors import Normalize

    middle, best = float(np.median(scores)), max(scores) if mode == "max" else min(scores)
    low, high = sorted((best, middle + (middle - best)))
    return Normalize(low, high, clip=True)


def _curves(axes: Axes, sweep: Sweep, results: Sequence[TrialResult]) -> None:
    for place, each in enumerate(results):
        steps = sorted(each.points)
        values = [each.points[step].metrics[sweep.metric] for step in steps]
        if not steps:
            continue
        first = place == 0
        (line,) = axes.plot(steps, values, linewidth=2.2 if first else 0.9, zorder=3 if first else 2)
        axes.plot(steps[-1:], values[-1:], marker=_mark(each), markersize=5, color=line.get_color())
    finite = [
        value
        for each in results
        for point in each.points.values()
        if math.isfinite(value := point.metrics[sweep.metric])
    ]
    if sweep.mode == "min" and finite and min(finite) > 0:
        axes.set_yscale("log")
    axes.set(
        xlabel="meta-steps",
        ylabel=f"validation {sweep.metric}",
        title=f"{LEGEND}   (bold: the best)",
    )


def _importance(axes: Axes, sweep: Sweep, shares: dict[str, float]) -> None:
    keys = sorted(shares, key=lambda key: shares[key])
    axes.barh(keys, [shares[key] for key in keys])
    axes.set(xlim=(0, 1), xlabel=f"share of the variance of {sweep.metric} (ranks) that each key explains by itself")
