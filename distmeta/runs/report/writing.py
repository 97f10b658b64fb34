"""Writes reports of runs: of one, or of several side by side."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from distmeta.core.secrets import mask
from distmeta.errors import ConfigError, DistmetaError
from distmeta.objectives.metrics import LISTS
from distmeta.runs.directory import differences, flattened
from distmeta.runs.evaluate import evaluate
from distmeta.runs.learners import load
from distmeta.runs.policies import PolicyLearner
from distmeta.runs.report import sections
from distmeta.runs.report.examples import example_tasks, file_uri
from distmeta.runs.report.of_run import parts
from distmeta.runs.report.page import PageSection, Picture, Rows, page, write_page
from distmeta.runs.report.reading import RunFacts, read_run
from distmeta.storage.files import Storage

log = logging.getLogger(__name__)

EXAMPLE_TASKS = 3


def write_report(
    locations: Sequence[str | Path],
    out: str | Path | None = None,
    *,
    examples: int = EXAMPLE_TASKS,
    shots: Sequence[int] = (),
    trust_code: bool = False,
) -> str:
    """Write the report of a run, or of several side by side.

    Args:
        locations: run directories, paths or URIs; a run need not have ended.
        out: the file; ``report.html`` in the run directory, or in the working directory for several runs.
        examples: tasks of the meta-test that are shown, which needs the run's data here; 0 for none.
        shots: numbers of support examples with each of which a run is tested now, for a curve.
        trust_code: run the code that the run's configuration names, for examples and shots.

    Returns:
        Where it was written.

    Raises:
        StorageError: there is no such run, or the file cannot be written.
    """
    if not locations:
        raise ConfigError("a report is of one run or more; name their directories")
    runs = [read_run(location) for location in locations]
    if len(runs) == 1:
        title, kind = runs[0].name, "run"
        found = parts(runs[0], list(_more(runs[0], locations[0], examples, shots, trust_code)))
    else:
        named = _named(runs)
        title, kind = " / ".join(named), "comparison of runs"
        found = list(_of_several(named))
    html = page(title, kind, found)
    return write_page(html, Storage.at(locations[0] if len(runs) == 1 else Path.cwd()), out)


def _more(
    run: RunFacts, location: str | Path, examples: int, shots: Sequence[int], trust_code: bool
) -> Iterator[PageSection]:
    if shots:
        tested = evaluate(location, ["cluster.workers=0"], shots=shots, trust_code=trust_code)
        yield sections.by_shots(tested["by_shots"])
    if examples and run.manifest:
        yield from _examples(location, examples, trust_code)


def _of_several(runs: Mapping[str, RunFacts]) -> Iterator[PageSection]:
    yield PageSection("Figures", tables=[Rows(_compared(runs))], charts=_steps(runs))
    yield PageSection("Differences of the configurations", tables=[Rows(_differing(runs), "", (1, 2, 3, 4, 5, 6))])
    yield from sections.curves(runs)
    yield PageSection("Do it again", code=[sections.reproduction(run).code[0] for run in runs.values()])


def _compared(runs: Mapping[str, RunFacts]) -> list[list[str]]:
    names: dict[str, None] = {}
    for run in runs.values():
        measured = (run.result or {}).get("meta_test", {})
        names.update({name: None for name in measured if name not in LISTS})
    rows = [["", *runs]]
    for name in names:
        cells = [(run.result or {}).get("meta_test", {}).get(name) for run in runs.values()]
        main = next((run.figure[0] for run in runs.values() if run.figure), name)
        kind = main if name == "before_adaptation" else name
        rows.append([sections.title_of(name), *(sections.figure_text(kind, each) if each else "" for each in cells)])
    plain = {"meta-steps": "steps", "tasks": "tasks", "seconds": "seconds", "tasks/s": "tasks_per_second"}
    for title, key in plain.items():
        rows.append([title, *(f"{run.result[key]:,.0f}" if run.result else "" for run in runs.values())])
    return rows


def _differing(runs: Mapping[str, RunFacts]) -> list[list[str]]:
    """The settings in which runs differ; a row each."""
    flat = [dict(flattened(run.config)) for run in runs.values()]
    keys = dict.fromkeys(key for each in flat[1:] for key in differences(flat[0], each))
    rows = [["setting", *runs]]
    for key in keys:
        rows.append([key, *(mask(str(each[key])) if key in each else "absent" for each in flat)])
    return rows if len(rows) > 1 else [["setting", *runs], ["no setting differs", *("" for _ in runs)]]


def _steps(runs: Mapping[str, RunFacts]) -> list[Any]:
    tested = {name: run.result["meta_test"] for name, run in runs.items() if run.result}
    return [chart for chart in (sections.by_step(tested), sections.by_episode(tested)) if chart] if tested else []


def _named(runs: Sequence[RunFacts]) -> dict[str, RunFacts]:
    """Runs by their names, or by their directories where names are alike."""
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        names = [run.location.rstrip("/").rpartition("/")[2] for run in runs]
    if len(set(names)) < len(names):
        names = [run.location for run in runs]
    return dict(zip(names, runs, strict=True))


def _examples(location: str | Path, count: int, trust_code: bool) -> Iterator[PageSection]:
    """Tasks of the meta-test; where they cannot be had, the page says why."""
    title, text = "Example tasks", "Before adaptation, and after the inner steps of the meta-test."
    try:
        learner = load(location, trust_code=trust_code)
        if isinstance(learner, PolicyLearner):
            pictures = [_episodes(location, count, trust_code)]
            yield PageSection(title, "Episodes before adaptation, and after it.", wide=pictures)
        else:
            yield PageSection(title, text, tasks=example_tasks(learner, count))
    except DistmetaError as error:
        yield PageSection(title, f"They cannot be shown here: {' '.join(str(error).split())}")


def _episodes(location: str | Path, count: int, trust_code: bool) -> Picture:
    from distmeta.runs import watching

    watched = watching.watch(location, tasks=count, trust_code=trust_code)
    with tempfile.TemporaryDirectory(prefix="distmeta-report-") as folder:
        file = Path(folder, "episodes.png")
        watching.picture(watched, file)
        return Picture(file_uri(file), "what the policy does in each task, before and after adaptation", "episodes")
