"""``distmeta report``, ``runs`` and ``show``: what runs came to."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from distmeta.cli.common import TrustCode, errors
from distmeta.cli.display import Display, consoles, fault_words, messages, meta_test_table
from distmeta.core.words import clock
from distmeta.errors import ConfigError, DistmetaError
from distmeta.runs.interrupts import interruptible

if TYPE_CHECKING:  # it brings torch
    from distmeta.runs.report.reading import RunFacts

RunPlace = Annotated[str, typer.Argument(metavar="RUN", help="A run directory.")]


def report(
    runs: Annotated[list[str], typer.Argument(metavar="RUN ...", help="Run directories, or one sweep's folder.")],
    out: Annotated[
        Path | None, typer.Option(help="File to write (default: report.html in the run; here for several runs).")
    ] = None,
    examples: Annotated[int, typer.Option(min=0, help="Tasks of the meta-test that are shown.")] = 3,
    shots: Annotated[
        list[int] | None, typer.Option("--shots", min=1, help="Test with so many support examples now, for a curve.")
    ] = None,
    trust_code: TrustCode = False,
) -> dict[str, Any]:
    """Write a page of figures, curves, example tasks, times and settings; several runs stand side by side."""
    terminal, err = consoles()
    with errors(), messages(err), interruptible():
        from distmeta.runs.report.writing import write_report  # now: they bring torch, which takes seconds
        from distmeta.storage.files import Storage
        from distmeta.sweeps.reporting import is_sweep, write_sweep_report

        if any(is_sweep(Storage.at(run)) for run in runs):
            if len(runs) > 1:
                raise ConfigError("a sweep has a page of its own; name its folder alone, or runs")
            place = write_sweep_report(runs[0], out)
        else:
            place = write_report(runs, out, examples=examples, shots=shots or (), trust_code=trust_code)
    terminal.print(place, markup=False, highlight=False, soft_wrap=True)
    return {"report": place}


def runs(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where the runs' directories lie.")] = Path("runs"),
) -> list[dict[str, Any]]:
    """List the runs below a folder: state, figure, age; the newest first."""
    terminal, err = consoles()
    with errors(), messages(err), Display(err, 0, 1):
        from distmeta.runs.report.reading import read_run

        if not folder.is_dir():
            raise ConfigError(f"DIR = {folder}: there is no such folder; name the one in which your runs lie")
        found = [_listed(each.parent, folder, read_run) for each in sorted(folder.rglob("config.yaml"))]
        found.sort(key=lambda row: -(row["changed"] or 0))
    table = Table(title=Text(f"runs in {folder}"))
    for column in ("run", "state", "meta-steps", "figure", "age"):
        table.add_column(column, justify="right" if column in ("meta-steps", "age") else "left")
    for row in found:
        table.add_row(*(Text(str(row[key])) for key in ("run", "state", "steps", "figure", "age")))
    terminal.print(table)
    return found


def show(run: RunPlace) -> dict[str, Any]:
    """Show what a run is and what it came to."""
    terminal, err = consoles()
    with errors(), messages(err):
        from distmeta.runs.report.reading import read_run
        from distmeta.storage.files import Storage

        facts = read_run(run)
        place = Storage.at(run).child("report.html")
        report_place = place.location if Storage.at(run).exists("report.html") else None
    for line in _lines(facts, report_place):
        terminal.print(line, markup=False, highlight=False, soft_wrap=True)
    if facts.result:
        terminal.print(meta_test_table(facts.result["meta_test"]))
    return {
        "run": facts.location,
        "name": facts.name,
        "state": facts.state,
        "steps": facts.steps,
        "result": facts.result,
        "report": report_place,
    }


def _listed(run: Path, folder: Path, read_run: Any) -> dict[str, Any]:
    """A row; a run whose files are damaged is listed with what is wrong."""
    name = str(run.relative_to(folder)) if run != folder else str(run)
    try:
        facts: RunFacts = read_run(run)
    except DistmetaError as error:
        return {"run": name, "state": "damaged", "steps": "", "figure": str(error), "age": "", "changed": None}
    return {
        "run": name,
        "state": facts.state,
        "steps": facts.steps,
        "figure": _figure(facts),
        "age": _age(facts.changed),
        "changed": facts.changed,
    }


def _lines(facts: RunFacts, report_place: str | None) -> list[str]:
    config, result = facts.config, facts.result
    steps = config.get("run", {}).get("steps")
    lines = [
        f"{facts.name}: {facts.state}, {facts.steps:,} of {steps:,} meta-steps" if steps else facts.name,
        f"{config.get('algorithm', {}).get('name')} on {config.get('tasks', {}).get('kind')}, "
        f"model {config.get('model', {}).get('kind')}",
    ]
    if result:
        lines.append(
            f"{result['tasks']:,} tasks, {clock(result['seconds'])} of training, tested {result['checkpoint']}"
        )
        if words := fault_words({k: v for k, v in result["faults"].items() if k != "shards_duplicated"}):
            lines.append("faults: " + ", ".join(words))
    elif facts.metrics:
        last = facts.metrics[-1]
        loss, rate = _number(last["train/loss"], ".4g"), _number(last["tasks_per_second"], ".0f")
        lines.append(f"at step {last['step']:,}: loss {loss}, {rate} tasks/s")
    lines.append(f"report: {report_place}" if report_place else f"no report yet: distmeta report {facts.location}")
    return lines


def _number(value: float | None, form: str) -> str:
    """A number of ``metrics.jsonl``, where ``null`` is one that is not finite."""
    return "not finite" if value is None else f"{value:{form}}"


def _figure(facts: RunFacts) -> str:
    from distmeta.runs.report.sections import figure_text, title_of

    if facts.figure is None:
        return ""
    name, value = facts.figure
    return f"{title_of(name)} {figure_text(name, value)}"


def _age(changed: float | None) -> str:
    if changed is None:
        return ""
    seconds = max(0.0, time.time() - changed)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
