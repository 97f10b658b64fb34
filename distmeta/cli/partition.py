"""``distmeta data partition``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from distmeta.cli.common import Overrides, TrustCode, errors
from distmeta.cli.display import Display, consoles, messages
from distmeta.config.text import check_local
from distmeta.errors import ConfigError
from distmeta.loading import load_config


def partition(
    config: Annotated[
        Path,
        typer.Argument(
            metavar="CONFIG", help="Configuration whose tasks, or their source, are the images: their training classes."
        ),
    ],
    overrides: Overrides = None,
    embedding: Annotated[
        str,
        typer.Option(metavar="RUN|pixels", help="Features of a run or checkpoint, or whitened pixels."),
    ] = "pixels",
    clusters: Annotated[int, typer.Option(help="Clusters of a partition.")] = 500,
    partitions: Annotated[int, typer.Option(help="Partitions, each with the dimensions scaled at random.")] = 100,
    out: Annotated[str | None, typer.Option(help="File to write (default: tasks.partition of CONFIG).")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Fixes scales and first centres.")] = 0,
    trust_code: TrustCode = False,
) -> dict[str, str]:
    """Cluster training images, of whose classes nothing is used, for tasks of method cactus."""
    terminal, err = consoles()
    with errors(), messages(err), Display(err, 0, 1) as display:
        loaded = load_config(config, overrides or (), trust_code=trust_code)
        target = out or getattr(loaded.tasks, "partition", None)
        if target is None:
            raise ConfigError(f"--out: expected a file to write, since {config} sets no tasks.partition")
        check_local(target, "file of --out")
        from distmeta.runs.partitioning import make_partitions  # now: it brings torch, which takes seconds

        path = make_partitions(
            loaded,
            embedding,
            target,
            clusters=clusters,
            partitions=partitions,
            seed=seed,
            trust_code=trust_code,
            progress=display.partitioned,
        )
    terminal.print(str(path), markup=False, highlight=False, soft_wrap=True)
    return {"partition": str(path)}
