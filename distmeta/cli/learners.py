"""``distmeta adapt`` and ``distmeta export``: trained learners, used and handed on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from distmeta.cli.common import Overrides, TrustCode, errors
from distmeta.cli.display import Display, consoles, messages, size_of
from distmeta.config.text import check_local
from distmeta.runs.interrupts import interruptible

RunOrArtefact = Annotated[
    str,
    typer.Argument(
        metavar="RUN_OR_ARTEFACT", help="A run directory, a checkpoint, an artefact, or hf://owner/name on the hub."
    ),
]


def adapt(
    learner: RunOrArtefact,
    support: Annotated[
        str, typer.Option(help="Labelled examples: a folder of class folders, a table, texts, or arrays (.npz).")
    ],
    query: Annotated[str, typer.Option(help="What to predict: likewise; labels are only compared with.")],
    out: Annotated[Path, typer.Option(help="Parquet file to write, a row for each prediction.")],
    overrides: Overrides = None,
    steps: Annotated[int | None, typer.Option(help="Inner steps (default: those of the run's meta-test).")] = None,
    workers: Annotated[int, typer.Option(help="Processes on Ray that compute; 0: this one alone.")] = 0,
    statistics: Annotated[
        str, typer.Option(help="Whose batch statistics normalise queries, where there are such: support or query.")
    ] = "support",
    trust_code: TrustCode = False,
) -> dict[str, Any]:
    """Adapt to given tasks, one or thousands, and predict in each of them."""
    terminal, err = consoles()
    with errors(), messages(err), interruptible() as check:
        check_local(out, "file of --out")
        import distmeta
        from distmeta.runs.predictions import predict_files  # now: it brings torch, which takes seconds

        loaded = distmeta.load(learner, overrides or (), trust_code=trust_code)
        with Display(err, 0, 1) as display:
            found = predict_files(
                loaded,
                support,
                query,
                out,
                steps=steps,
                statistics=statistics,  # type: ignore[arg-type]
                workers=workers,
                check=check,
                progress=display.adapted,
            )
    if table := _figures(found):
        terminal.print(table)
    line = f"{found['queries']:,} predictions of {found['tasks']:,} tasks: {out}"
    terminal.print(line, markup=False, highlight=False, soft_wrap=True)
    return {**found, "out": str(out)}


def export(
    learner: RunOrArtefact,
    out: Annotated[str, typer.Option(help="Folder or URI to write.")],
    overrides: Overrides = None,
    program: Annotated[
        bool, typer.Option("--program", help="Programs of torch.export too, which run without distmeta.")
    ] = False,
    onnx: Annotated[bool, typer.Option("--onnx", help="The prediction of an adapted model in ONNX too.")] = False,
    support: Annotated[
        str | None, typer.Option(help="A task to adapt to, whose model is then in the programs; as for distmeta adapt.")
    ] = None,
    trust_code: TrustCode = False,
) -> dict[str, Any]:
    """Write an artefact that needs no run directory: parameters, settings, code, hashes, and a card for people."""
    terminal, err = consoles()
    with errors(), messages(err):
        import distmeta

        given = None
        if support is not None:
            from distmeta.runs.given.joining import one_support

            loaded = distmeta.load(learner, overrides or (), trust_code=trust_code)
            given = one_support(loaded, support)
        exported = distmeta.export(
            learner, out, overrides or (), trust_code=trust_code, program=program, onnx=onnx, support=given
        )
    table = Table(title=f"artefact {exported.location}", title_justify="left")
    table.add_column("file")
    table.add_column("size", justify="right")
    for name, size in exported.files.items():
        table.add_row(name, size_of(size))
    terminal.print(table)
    return {"location": exported.location, "files": dict(exported.files)}


def _figures(found: dict[str, Any]) -> Table | None:
    figures = {name: value for name, value in found.items() if isinstance(value, dict)}
    if not figures:
        return None
    table = Table(title="predictions")
    for column in ("", "mean", "± 95 %", "tasks"):
        table.add_column(column, justify="left" if not column else "right")
    for name, value in figures.items():
        scale, form = (100, "{:.2f} %") if name == "accuracy" else (1, "{:.4g}")
        ci95 = "" if value["ci95"] is None else form.format(scale * value["ci95"])
        table.add_row(name, form.format(scale * value["mean"]), ci95, f"{value['tasks']:,}")
    return table
