"""The commands for jobs on a Ray cluster: ``distmeta submit``, ``jobs``, ``logs``, ``stop``."""

from __future__ import annotations

import sys
import time
from datetime import datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from distmeta.cli.common import AcceptChanges, Overrides, TrustCode, errors
from distmeta.cli.display import consoles
from distmeta.cli.style import STYLE, styled
from distmeta.core.secrets import mask

if TYPE_CHECKING:  # it brings Ray
    from distmeta.jobs.submit import JobCluster, JobDetails

app = typer.Typer()

Address = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="The cluster's dashboard (default: RAY_API_SERVER_ADDRESS, else RAY_ADDRESS, else http://127.0.0.1:8265).",
    ),
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The job's name.")]


class Command(str, Enum):
    """What a job can do: the entries of :data:`distmeta.jobs.packing.COMMANDS`."""

    train = "train"
    evaluate = "evaluate"
    tune = "tune"


@app.command()
@styled
def submit(
    source: Annotated[
        str,
        typer.Argument(
            metavar="CONFIG", help="YAML configuration or sweep file; to evaluate, a run directory or checkpoint."
        ),
    ],
    overrides: Overrides = None,
    address: Address = None,
    follow: Annotated[bool, typer.Option(help="Show the job's log until it ends, and exit with its code.")] = True,
    name: Annotated[
        str | None, typer.Option(help="The job's name (default: the configuration's and the time).")
    ] = None,
    command: Annotated[Command, typer.Option(help="What the job does.")] = Command.train,
    run_dir: Annotated[
        str | None,
        typer.Option(help="Absolute path on the cluster's head, or URI (default: ~/distmeta-runs/NAME there)."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run that lies in the run directory.")] = False,
    module: Annotated[
        list[str] | None,
        typer.Option(help="A module of your own to send along; that of model.kind is. May be repeated."),
    ] = None,
    trust_code: TrustCode = False,
    accept_changes: AcceptChanges = False,
) -> dict[str, Any]:
    """Send a run to a Ray cluster as a job, with this package, the configuration and your own modules."""
    from distmeta.jobs.packing import Submission, prepare

    with errors():
        request = Submission(
            source, tuple(overrides or ()), name, run_dir, resume, tuple(module or ()), trust_code, accept_changes
        )
        job = prepare(command.value, request)
        cluster = _cluster(address)
        for note in (*job.notes, *cluster.submit(job)):
            _say(note)
        _say(f"job {job.name} is sent to {cluster.address}")
        if command is not Command.evaluate:
            _say(f"run directory, on the cluster: {job.run_dir}")
        if follow:
            cluster.follow(job.name, _write)
            return {"job": job.name, "address": cluster.address, "run": job.run_dir}
        _say(f"{cluster.hint('logs', job.name)} follows it, {cluster.hint('stop', job.name)} ends it")
    _result(job.name)
    return {"job": job.name, "address": cluster.address, "run": job.run_dir}


@app.command()
@styled
def jobs(address: Address = None) -> list[dict[str, Any]]:
    """List the jobs of a cluster."""
    out, _ = consoles()
    table = Table(box=SIMPLE_HEAD)
    table.add_column("job", overflow="fold")  # with its command below, so that all fits 80 columns
    for column in ("status", "started", "took"):
        table.add_column(column, no_wrap=True)
    with errors():
        found = _cluster(address).jobs()
        for job in found:
            table.add_row(Text(_story(job)), str(job.status), _started(job), _took(job))
    out.print(table)
    return [_plain(job) for job in found]


@app.command()
@styled
def logs(
    name: Name,
    address: Address = None,
    follow: Annotated[bool, typer.Option(help="Go on until the job ends, and exit with its code.")] = True,
) -> dict[str, Any]:
    """Show a job's log from its beginning."""
    with errors():
        cluster = _cluster(address)
        if follow:
            cluster.follow(name, _write)
        else:
            _write(cluster.log(name))
        return _plain(cluster.find(name))


@app.command()
@styled
def stop(name: Name, address: Address = None) -> dict[str, Any]:
    """Let a job checkpoint and end; waits until it has."""
    with errors():
        cluster = _cluster(address)
        if (job := cluster.find(name)).status.is_terminal():
            _say(f"job {name} has ended already: {job.status}")
            return _plain(job)
        _say(f"stopping job {name}")
        job = cluster.stop(name)
    _say(f"job {name} has ended: {job.status}")
    return _plain(job)


def _cluster(address: str | None) -> JobCluster:
    from distmeta.jobs.submit import JobCluster

    return JobCluster(address)


def _say(line: str) -> None:
    if not STYLE.get().quiet:
        print(mask(line), file=sys.stderr, flush=True)


def _result(line: str) -> None:
    if not STYLE.get().json:
        print(line)


def _write(text: str) -> None:
    """A job's log is its output; beside a result in JSON it is a message."""
    style = STYLE.get()
    if not (style.json and style.quiet):
        print(text, end="", file=sys.stderr if style.json else sys.stdout, flush=True)


def _plain(job: JobDetails) -> dict[str, Any]:
    """A job as plain values."""
    return {
        "job": job.submission_id,
        "status": str(job.status),
        "command": mask(job.entrypoint),
        "message": mask(job.message or ""),
        "started": job.start_time,
        "ended": job.end_time,
    }


def _started(job: JobDetails) -> str:
    return f"{datetime.fromtimestamp(job.start_time / 1000):%m-%d %H:%M}" if job.start_time else ""


def _took(job: JobDetails) -> str:
    if not job.start_time:
        return ""
    return str(timedelta(seconds=round((job.end_time or 1000 * time.time()) / 1000 - job.start_time / 1000)))


def _story(job: JobDetails) -> str:
    """A job's name, its command, and of a failed one the last thing it said."""
    lines = (job.message or "").splitlines() if str(job.status) == "FAILED" else []
    return "\n  ".join([job.submission_id or "", job.entrypoint.removeprefix("python -m distmeta "), *lines[-1:]])
