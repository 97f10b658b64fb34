"""The command ``distmeta tune``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from distmeta.cli.common import AcceptChanges, Overrides, TrustCode, errors
from distmeta.cli.display import consoles, messages, meta_test_table
from distmeta.cli.style import styled
from distmeta.runs.interrupts import interruptible

app = typer.Typer()


@app.command()
@styled
def tune(
    sweep: Annotated[Path, typer.Argument(metavar="SWEEP", help="YAML sweep file.")],
    overrides: Overrides = None,
    run_dir: Annotated[str | None, typer.Option(help="Where the sweep's files go (default: run.dir/name).")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the sweep that lies in the run directory.")
    ] = False,
    address: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="A running Ray cluster (default: this machine alone).")
    ] = None,
    trust_code: TrustCode = False,
    accept_changes: AcceptChanges = False,
) -> dict[str, Any]:
    """Search settings over whole runs with Ray Tune, and meta-test the best."""
    import distmeta
    from distmeta.cli.sweep_view import SweepDisplay, ranking, told
    from distmeta.core.secrets import mask
    from distmeta.storage.files import below
    from distmeta.sweeps.sweep import load_sweep

    out, err = consoles()
    with errors(), messages(err), interruptible() as check:
        loaded = load_sweep(sweep, overrides or (), trust_code=trust_code)
        location = run_dir or below(loaded.config.run.dir, loaded.options.name)
        with SweepDisplay(err, loaded) as view:
            results = distmeta.tune(
                loaded,
                run_dir=location,
                resume=resume,
                address=address,
                trust_code=trust_code,
                accept_changes=accept_changes,
                check=check,
                view=view,
                progress=view.test,
            )
        out.print(ranking(results))
        out.print(meta_test_table(results["best"]["meta_test"]))
        best = results["best"]
        lines = (
            f"best: trial {best['trial']}, {told(best['values'])}",
            f"run directory: {mask(location)} (tested {best['checkpoint']})",
            "in it: " + ", ".join(results["files"]),
        )
        for line in lines:
            out.print(line, markup=False, highlight=False, soft_wrap=True)
    return {**results, "run": mask(location)}
