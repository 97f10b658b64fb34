"""The command line: ``distmeta train``, ``evaluate``, ``plan``, ``list``; the other commands elsewhere."""

from __future__ import annotations

import gc
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic.fields import FieldInfo
from rich.console import Console
from rich.table import Table

import distmeta
from distmeta.cli import data, learners, reports, serving
from distmeta.cli import jobs as cli_jobs
from distmeta.cli import tune as cli_tune
from distmeta.cli.common import AcceptChanges, Overrides, TrustCode, output
from distmeta.cli.common import errors as _errors
from distmeta.cli.display import Display, consoles, messages, meta_test_table, plan_table, result_lines, shots_table
from distmeta.cli.partition import partition
from distmeta.cli.style import styled
from distmeta.cli.watch import watch
from distmeta.config.schema import dump_config
from distmeta.config.sections import Section
from distmeta.config.text import check_local, read_text
from distmeta.core.plan import Plan
from distmeta.core.secrets import mask
from distmeta.errors import ConfigError
from distmeta.loading import load_config
from distmeta.runs.interrupts import interruptible
from distmeta.runs.plan_file import check_target, with_engine, write_engine

app = typer.Typer(
    help="Meta-train any PyTorch module over a distribution of tasks, on one machine or on a Ray cluster.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Prepare task data, check it and look at it.", no_args_is_help=True)


class Listing(str, Enum):
    """What ``distmeta list`` lists."""

    tasks = "tasks"
    models = "models"
    algorithms = "algorithms"


def _version(wanted: bool) -> None:
    if wanted:
        print(f"distmeta {distmeta.__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
@styled
def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML configuration file.")],
    overrides: Overrides = None,
    run_dir: Annotated[str | None, typer.Option(help="Where the run's files go (default: run.dir/name).")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run that lies in the run directory.")] = False,
    trust_code: TrustCode = False,
    accept_changes: AcceptChanges = False,
) -> dict[str, Any]:
    """Meta-train, checkpoint, and meta-test at the end."""
    out, err = consoles()
    with _errors(), messages(err), interruptible() as check:
        loaded = load_config(config, overrides or (), trust_code=trust_code)
        from distmeta.runs.ahead import cluster_ahead  # now: it brings pyarrow, and a mistake is told at once
        from distmeta.storage.files import below

        location = run_dir or below(loaded.run.dir, loaded.name)
        with (
            cluster_ahead(loaded, location, resume),
            Display(err, loaded.run.steps, loaded.run.log_every) as display,
        ):
            steps = distmeta.train(
                loaded, location, resume=resume, check=check, progress=display.test, accept_changes=accept_changes
            )
            result, trained = _drain(steps, display)
        _show(out, result["meta_test"])
        if trained:  # a run that had ended before is left alone
            from distmeta.runs.report.writing import write_report

            write_report([location], trust_code=True)  # what was trained here was trusted
        for line in result_lines(result, location):
            out.print(line, markup=False, highlight=False, soft_wrap=True)
    return {**result, "run": mask(location), "report": f"{mask(location)}/report.html"}


def _drain(steps: Any, display: Display) -> tuple[dict[str, Any], bool]:
    """Show every record of a run; gives the run's result, and whether there was any step to do."""
    trained = False
    while True:
        try:
            display.step(next(steps))
            trained = True
        except StopIteration as end:
            return end.value, trained


def _show(out: Console, measured: dict[str, Any]) -> None:
    out.print(shots_table(measured["by_shots"]) if "by_shots" in measured else meta_test_table(measured))


@app.command()
@styled
def evaluate(
    run: Annotated[str, typer.Argument(metavar="RUN_OR_CHECKPOINT", help="A run directory or one checkpoint.")],
    overrides: Overrides = None,
    shots: Annotated[
        list[int] | None,
        typer.Option("--shots", min=1, help="Test with so many support examples; give it several times for a table."),
    ] = None,
    trust_code: TrustCode = False,
) -> dict[str, Any]:
    """Meta-test a run's best-validation checkpoint (else its last), or one checkpoint."""
    out, err = consoles()
    with _errors(), messages(err), interruptible() as check, Display(err, 0, 1) as display:
        measured = distmeta.evaluate(
            run, overrides or (), trust_code=trust_code, check=check, progress=display.test, shots=shots or ()
        )
    _show(out, measured)
    return measured


@app.command()
@styled
def plan(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML configuration file.")],
    overrides: Overrides = None,
    write: Annotated[
        Path | None, typer.Option(help="Write a configuration with the fastest plan's values; may be CONFIG itself.")
    ] = None,
    seconds: Annotated[float, typer.Option(help="Time to measure each plan for.")] = 2.0,
    trust_code: TrustCode = False,
) -> list[dict[str, Any]]:
    """Measure the ways to compute this configuration's meta-gradients here; check that they agree."""
    out, err = consoles()
    with _errors(), messages(err), Display(err, 0, 1) as display:
        if not 0 < seconds < math.inf:
            raise ConfigError(f"--seconds = {seconds}: expected the time to measure each plan for, more than 0")
        text = read_text(config, "configuration")  # now: measuring takes minutes
        if write:
            check_local(write, "file of --write")
        loaded = load_config(config, overrides or (), trust_code=trust_code)
        if write:  # what cannot be written is said before anything is measured
            check_target(write)
        if write and not overrides:
            with_engine(text, Plan(), str(write))
        from distmeta.runs.planning import fastest, measure_plans  # now: it brings torch, which takes seconds

        measured = measure_plans(loaded, seconds, display.measured)
        best = fastest(measured, loaded.run.steps * loaded.run.meta_batch)
        if write:
            if write.exists() and write.samefile(config) and read_text(config, "configuration") != text:
                raise ConfigError(f"{config} was changed while plans were measured; nothing is written, run this again")
            write_engine(write, dump_config(loaded) if overrides else text, best.plan)
    out.print(plan_table(measured, best, loaded))
    chosen = ", ".join(f"{key}: {value}" for key, value in best.plan.settings().items())
    out.print(f"engine: {{{chosen}}}", markup=False, highlight=False, soft_wrap=True)
    if write:
        out.print(f"written to {write}", markup=False, highlight=False, soft_wrap=True)
    return [asdict(each) for each in measured]


@app.command("list")
@styled
def list_entries(what: Annotated[Listing, typer.Argument(help="What to list.")]) -> list[dict[str, str]]:
    """List the entries of a registry, with their settings."""
    out, _ = consoles()
    table = Table(title=what.value)
    columns = {"algorithms": ("name", "adaptation", "estimator", "paper")}.get(what.value, ("kind", "settings"))
    for column in columns:
        table.add_column(column)
    rows = list(_entries(what))
    for row in rows:
        table.add_row(*row)
    out.print(table)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def _entries(what: Listing) -> Iterator[tuple[str, ...]]:
    from distmeta.algorithms import ALGORITHMS
    from distmeta.models import MODELS
    from distmeta.tasks import TASKS

    if what is Listing.algorithms:
        for name, row in ALGORITHMS.items():
            yield name, row.adaptation, row.estimator, row.paper
        return
    kinds: Mapping[str, type[Section]] = TASKS.options if what is Listing.tasks else MODELS.options
    for name, options in kinds.items():
        fields = options.model_fields.items()
        yield name, ", ".join(_setting(key, info) for key, info in fields if key != "kind")
    if what is Listing.models:
        yield "module:package.factory", "any keyword arguments of your own factory"


def _setting(key: str, info: FieldInfo) -> str:
    """A setting with its default; of a section stands what differs from its own defaults."""
    if info.is_required():
        return f"{key} (required)"
    default = info.get_default(call_default_factory=True)
    return f"{key}={default.model_dump(exclude_defaults=True) if isinstance(default, Section) else default}"


_IN_DATA: tuple[Callable[..., Any], ...] = (data.build, data.check, data.show, partition)
_OTHERS: tuple[Callable[..., Any], ...] = (
    reports.runs,
    reports.show,
    reports.report,
    learners.adapt,
    learners.export,
    serving.serve,
    watch,
)
for command in _IN_DATA:
    data_app.command()(styled(command))
for command in _OTHERS:
    app.command()(styled(command))
app.add_typer(cli_tune.app)
app.add_typer(data_app, name="data")
app.add_typer(cli_jobs.app)


def main() -> None:
    """Entry point of the console script."""
    try:
        with output():
            sys.exit(app(standalone_mode=False))
    except typer.Abort:
        sys.exit(1)
    except Exception as error:
        # A usage error, of whichever copy of click typer brings: its text quotes arguments, which may hold secrets.
        if not hasattr(error, "format_message"):
            raise
        where = getattr(getattr(error, "ctx", None), "command_path", "distmeta")
        print(f"error: {mask(error.format_message())} ({where} --help shows what there is)", file=sys.stderr)
        sys.exit(getattr(error, "exit_code", 2))
    finally:
        gc.freeze()  # else Python looks through all objects once more before it ends, for a second
