"""The card of an artefact: ``README.md`` in the Hugging Face hub's format, for people and for the hub."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from distmeta.algorithms import ALGORITHMS
from distmeta.config.modules import kinds
from distmeta.config.schema import Config
from distmeta.objectives.metrics import LISTS
from distmeta.runs.input_kinds import input_kind
from distmeta.runs.report.sections import figure_rows
from distmeta.tasks import TASKS
from distmeta.tasks.options import EnvironmentOptions

PIPELINES = {
    "images": "image-classification",
    "texts": "text-classification",
    "columns": "tabular-regression",
    "policy": "reinforcement-learning",
}
"""The hub's names of what a model does."""


def text(config: Config, values: Mapping[str, Any], files: Sequence[str]) -> str:
    """The card's text.

    Args:
        config: of the run.
        values: of ``artefact.json``.
        files: names of the artefact's other files.
    """
    head = yaml.safe_dump(_metadata(config, values), sort_keys=False, allow_unicode=True)
    return f"---\n{head}---\n\n" + "\n".join(_lines(config, values, files)) + "\n"


def _metadata(config: Config, values: Mapping[str, Any]) -> dict[str, Any]:
    kind = _sort(config)
    found: dict[str, Any] = {
        "library_name": "distmeta",
        "tags": ["meta-learning", "few-shot", str(config.algorithm.name), str(config.algorithm.adaptation)],
    }
    if kind in PIPELINES:
        found["pipeline_tag"] = PIPELINES[kind]
    measured = values["meta_test"]
    if measured:
        task = {"type": PIPELINES.get(kind, "other"), "name": _shape(config)}
        metrics = [
            {"type": name, "value": figure["mean"], "name": f"{name}, mean of {figure['tasks']} tasks"}
            for name, figure in _figures(measured)
        ]
        results = [
            {"task": task, "dataset": {"name": config.tasks.kind, "type": config.tasks.kind}, "metrics": metrics}
        ]
        found["model-index"] = [{"name": config.name, "results": results}]
    return found


def _lines(config: Config, values: Mapping[str, Any], files: Sequence[str]) -> Iterator[str]:
    name = config.algorithm.name
    entry = ALGORITHMS.get(name)
    yield f"# {config.name}"
    yield ""
    paper = f" ({entry.paper})" if entry is not None and entry.paper else ""
    yield (
        f"A meta-learner: given a few examples of a new task, it adapts to that task and predicts. Trained by {name}"
        f"{paper} with distmeta on tasks of `{config.tasks.kind}`; {_shape(config)}."
    )
    yield ""
    yield from _results(config, values)
    yield "## How to use it"
    yield ""
    yield "```python"
    yield from _example(config)
    yield "```"
    yield ""
    if kinds(values["config"]):
        named = ", ".join(f"`{kind}`" for kind in kinds(values["config"]).values())
        yield (
            f"It brings code of its own ({named}, in `code/`), which runs only if you say so: "
            '`distmeta.load("THIS_FOLDER", trust_code=True)`. Read it first.'
        )
        yield ""
    yield "## How it was trained"
    yield ""
    versions = ", ".join(f"{package} {version}" for package, version in values["versions"].items())
    yield f"{values['step']:,} meta-steps over {values['tasks']:,} tasks; {versions}. The settings:"
    yield ""
    yield "```yaml"
    yield yaml.safe_dump(values["config"], sort_keys=False).rstrip()
    yield "```"
    yield ""
    yield "## Limits"
    yield ""
    yield from _limits(config)
    yield ""
    yield "## Files"
    yield ""
    for file in (*files, "artefact.json"):
        yield f"- `{file}`{_told(file)}"


def _results(config: Config, values: Mapping[str, Any]) -> Iterator[str]:
    yield "## Figures"
    yield ""
    if not values["meta_test"]:
        yield "There was no meta-test of exactly these parameters."
        yield ""
        return
    yield "| on held-out tasks | mean | ± 95 % | tasks |"
    yield "|---|---|---|---|"
    for row in figure_rows(values["meta_test"])[1:]:
        yield f"| {' | '.join(row)} |"
    yield ""
    if "accuracy_inductive" in values["meta_test"]:
        yield (
            "Accuracy is transductive, as in most papers: batch norm sees the statistics of the whole query set; "
            "inductive accuracy uses those of the support set, and so does `predict` unless told otherwise."
        )
        yield ""


def _figures(measured: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    return [(name, value) for name, value in measured.items() if name not in LISTS]


def _example(config: Config) -> Iterator[str]:
    yield "import distmeta"
    yield ""
    yield 'learner = distmeta.load("THIS_FOLDER")'
    sort = _sort(config)
    if sort == "policy":
        yield "policy = learner.adapt(collect)  # collect(policy) acts in your task and gives episodes"
        yield "action = policy.act(observation)"
        return
    given = {
        "texts": ("texts", "class indices", "texts"),
        "columns": ("columns by name", "targets", "columns by name"),
        "images": ("(S, C, H, W) intensities in [0, 1]", "(S,) class indices", "(N, C, H, W)"),
    }.get(sort, ("inputs", "targets", "inputs"))
    yield f"model = learner.adapt(x_support, y_support)  # {given[0]}; {given[1]}"
    yield f"outputs = model.predict(x)  # {given[2]}"


def _limits(config: Config) -> Iterator[str]:
    yield (
        f"- It was tested on tasks like those that it was trained on (`{config.tasks.kind}`, {_shape(config)}). On "
        "tasks of other data, other numbers of classes or other numbers of examples the figures say nothing."
    )
    yield "- The support set decides what it does: a wrong label or a strange example among a few weighs much."
    yield "- The figures are means over many tasks; a single task may be far better or worse."


def _shape(config: Config) -> str:
    tasks, tested = config.tasks, config.evaluation
    ways = tested.ways or getattr(tasks, "ways", None)
    shots = tested.shots or getattr(tasks, "shots", None)
    parts = [f"{ways} ways" if ways else "", f"{shots} shot{'s' if shots != 1 else ''}" if shots else ""]
    return ", ".join(filter(None, parts)) or "tasks of its own kind"


def _sort(config: Config) -> str:
    """What tasks are of, for people who look for it."""
    if isinstance(config.tasks, EnvironmentOptions):
        return "policy"
    return input_kind(config.tasks, TASKS[config.tasks.kind].spec(config.tasks).inputs)


def _told(file: str) -> str:
    known = {
        "params.safetensors": "the network's state dict, under its own names",
        "meta.safetensors": "what is learned beside it, such as inner rates",
        "fitted.json": "what was learned of the training data: standardisation, tokenizer",
        "artefact.json": "settings, versions and hashes of all files",
        "README.md": "this card",
    }
    ends = {
        "adapt.pt2": "program: support set to an adapted model's tensors",
        "predict.pt2": "program: inputs and these tensors to outputs",
        "adapt_predict.pt2": "program: support set and inputs to outputs",
        "model.pt2": "program: inputs to outputs, adapted to the support set that was given",
        "predict.onnx": "the same as predict.pt2 in ONNX",
        "model.onnx": "the same as model.pt2 in ONNX",
    }
    said = known.get(file) or ends.get(file.rpartition("/")[2])
    return f": {said}" if said else ""
