"""Learning curves of runs, as pictures for the documentation."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from figures import metric
from matplotlib.figure import Figure

PARTS = {"train": "training, the current step's tasks", "validation": "meta-validation"}
"""What stands before a measurement's name in ``metrics.jsonl``, and its title."""

BEFORE = "_before"


def draw(run: Path, picture: Path) -> None:
    """Draw what a run's models are selected by, against meta-steps: after adaptation, and before it where logged."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    name = metric(json.loads((run / "result.json").read_text(encoding="utf-8"))["meta_test"])
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axis = figure.subplots()
    for part, title in PARTS.items():
        for key, style in ((name, "-"), (name + BEFORE, ":")):
            steps, values = _series(lines, f"{part}/{key}")
            if steps:
                own = f"{title}, before adaptation" if key.endswith(BEFORE) else title
                marker = "o" if part == "validation" else None
                axis.plot(steps, values, style, marker=marker, markersize=3, linewidth=1, label=own)
    axis.set_xlabel("meta-step")
    axis.set_ylabel(name)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    picture.parent.mkdir(exist_ok=True)
    figure.savefig(picture, dpi=110)


def _series(lines: Sequence[Mapping[str, Any]], key: str) -> tuple[list[int], list[float]]:
    found = [(line["step"], line[key]) for line in lines if line.get(key) is not None]
    return [step for step, _ in found], [value for _, value in found]
