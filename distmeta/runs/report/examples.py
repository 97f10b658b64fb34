"""Example tasks for a report: what the learner was given, and what it predicted before and after it adapted."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distmeta.config.schema import Config
from distmeta.core.records import Data, TensorSpec, inputs_of
from distmeta.runs.inference import MetaLearner
from distmeta.runs.report.charts import Line, lines
from distmeta.runs.report.page import ExampleTask, Picture, Pictures, Rows
from distmeta.tasks import open_family, prepare_family

MOST_SUPPORT, MOST_QUERIES = 15, 15
"""Examples of a task that are shown."""

SHOWN_COLUMNS = 6
"""Features of a row that are shown."""

GRID = 61
"""Points of a curve."""


def example_tasks(learner: MetaLearner, count: int) -> list[ExampleTask]:
    """The first tasks of the meta-test, which need the run's data to be here.

    Raises:
        DistmetaError: the data is not here.
    """
    config = learner.config
    prepare_family(config)
    family: Any = open_family(config, torch.device("cpu"))
    try:
        batch = family.sample("test", range(count))
        return [_task(learner, family, config, batch, at) for at in range(count)]
    finally:
        family.close()


def _task(learner: MetaLearner, family: Any, config: Config, batch: Any, at: int) -> ExampleTask:
    support, query = ({name: value[at] for name, value in part.items()} for part in (batch.support, batch.query))
    title = f"test task {at}"
    if hasattr(family, "name"):  # of a table
        title += f": {family.name('test', at)}"
    after = learner.adapt_raw(support)
    before = learner.adapt_raw(support, 0) if learner.parts.adaptation.iterative else None
    spec = learner.parts.spec.inputs
    if isinstance(spec, TensorSpec) and len(spec.shape) == 3 and learner.parts.objective.classes:
        return _images(title, support, query, before, after)
    if isinstance(spec, TensorSpec) and spec.shape == (1,) and not learner.parts.objective.classes:
        return _curve(title, learner, support, query, before, after)
    return _rows(title, learner, family, support, query, before, after, at)


def _images(title: str, support: Data, query: Data, before: Any, after: Any) -> ExampleTask:
    labels = support["y"].tolist()
    given = [
        Picture(data_uri(image), f"a support example of class {label}", f"class {label}")
        for image, label in zip(support["x"][:MOST_SUPPORT], labels, strict=False)
    ]
    groups = [Pictures("support set", given)]
    chosen = _spread(query["y"])
    for model, when in ((before, "before adaptation"), (after, "after adaptation")):
        if model is None:
            continue
        found = model(query).argmax(-1).tolist()
        right = sum(int(found[at] == int(query["y"][at])) for at in range(len(found)))
        images = [_guess(query["x"][at], found[at], int(query["y"][at])) for at in chosen]
        groups.append(Pictures(f"queries, predicted {when}: {right} of {len(found)} right", images))
    return ExampleTask(title, pictures=groups)


def _guess(image: Tensor, predicted: int, true: int) -> Picture:
    right = predicted == true
    said = f"a query of class {true}, predicted {predicted}"
    return Picture(data_uri(image), said, f"{'✓' if right else '✗'} {predicted}", "good" if right else "bad")


def _curve(title: str, learner: MetaLearner, support: Data, query: Data, before: Any, after: Any) -> ExampleTask:
    x = torch.cat([support["x"], query["x"]])[:, 0]
    grid = torch.linspace(float(x.min()), float(x.max()), GRID)[:, None]
    shown = learner.outputs
    series = [
        Line("support", _sorted(support["x"], shown(support["y"])), marks=True, joined=False, colour=1),
        Line("queries", _sorted(query["x"], shown(query["y"])), colour=2),
    ]
    for model, name, colour in ((before, "before", 3), (after, "after", 0)):
        if model is not None:
            values = shown(model({"x": grid}))
            series.append(Line(f"prediction {name}", _sorted(grid, values), colour=colour))
    return ExampleTask(title, charts=[lines("support, queries and prediction", series, "x", "y")])


def _rows(
    title: str, learner: MetaLearner, family: Any, support: Data, query: Data, before: Any, after: Any, at: int
) -> ExampleTask:
    names, texts = _contents(family, at, support, query)
    classes = learner.parts.objective.classes
    models = [(name, model) for name, model in (("before", before), ("after", after)) if model is not None]
    predicted = [_told(learner, model(query), classes) for _, model in models]
    head = ["", *names, "target", *(f"predicted {name}" for name, _ in models)]
    rows, shots = [head], len(support["y"])
    for place, target in enumerate(_told(learner, support["y"], classes, targets=True)[:MOST_SUPPORT]):
        rows.append(["support", *texts[place], target, *("" for _ in models)])
    wanted = _told(learner, query["y"], classes, targets=True)
    for place in _spread(query["y"]) if classes else range(min(MOST_QUERIES, len(wanted))):
        rows.append(["query", *texts[shots + place], wanted[place], *(each[place] for each in predicted)])
    return ExampleTask(title, tables=[Rows(rows, "", tuple(range(1, 1 + len(names))))])


def _contents(family: Any, at: int, support: Data, query: Data) -> tuple[list[str], list[list[str]]]:
    """What the examples are: names of the columns, and a row for each, those of the support set first."""
    if hasattr(family, "texts"):
        shots = family.shots("test", at)
        drawn = family.draw("test", [at])[0]
        known = family.texts(drawn)
        order = [*drawn[:, :shots].reshape(-1).tolist(), *drawn[:, shots:].reshape(-1).tolist()]
        return ["text"], [[known[row][0]] for row in order]
    if hasattr(family, "rows"):
        rows = family.rows("test", at)
        names = list(rows[0].features)[:SHOWN_COLUMNS]
        return names, [[_short(row.features[name]) for name in names] for row in rows]
    both = [inputs_of(part) for part in (support, query)]
    parts: list[Mapping[str, Tensor]] = [each if isinstance(each, Mapping) else {"x": each} for each in both]
    names = list(parts[0])
    flat = [torch.cat([part[name].flatten(1) for part in parts]) for name in names]
    return names, [
        [", ".join(f"{number:.3g}" for number in part[row, :SHOWN_COLUMNS].tolist()) for part in flat]
        for row in range(len(flat[0]))
    ]


def _told(learner: MetaLearner, values: Tensor, classes: bool, targets: bool = False) -> list[str]:
    """Outputs or targets for people."""
    if classes:
        return [str(each) for each in (values if targets else values.argmax(-1)).tolist()]
    of_outputs = getattr(learner.parts.objective, "predicted", None)
    plain = values if targets or of_outputs is None else of_outputs(values)
    return [", ".join(f"{number:.4g}" for number in row) for row in learner.outputs(plain).flatten(1).tolist()]


def _sorted(x: Tensor, y: Tensor) -> list[tuple[float, float]]:
    return sorted(zip(x[:, 0].tolist(), y[:, 0].tolist(), strict=True))


def _spread(labels: Tensor) -> list[int]:
    """Places of a few examples of each class."""
    classes = sorted(set(labels.tolist()))
    each = max(1, MOST_QUERIES // len(classes))
    chosen = [place for label in classes for place in (labels == label).nonzero()[:each, 0].tolist()]
    return sorted(chosen)[:MOST_QUERIES]


def _short(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(_short, value[:SHOWN_COLUMNS]))
    return value if isinstance(value, str) else f"{value:.4g}"


def data_uri(image: Tensor) -> str:
    """An image (C, H, W) in [0, 1] inside a page."""
    from PIL import Image

    pixels = (image.detach().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels[..., :3])
    return _encoded(picture, "PNG" if picture.width <= 48 else "WEBP")


def file_uri(path: Path) -> str:
    """A PNG file inside a page."""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def _encoded(picture: Any, form: str) -> str:
    stream = io.BytesIO()
    picture.save(stream, form)
    return f"data:image/{form.lower()};base64,{base64.b64encode(stream.getvalue()).decode()}"


__all__: Sequence[str] = ("data_uri", "example_tasks", "file_uri")
