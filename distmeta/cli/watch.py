"""``distmeta watch``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from distmeta.cli.common import Overrides, TrustCode, check_tasks, errors
from distmeta.cli.display import consoles, messages
from distmeta.config.text import check_local
from distmeta.errors import ConfigError

MOST_TASKS = 16


def watch(
    run: Annotated[str, typer.Argument(metavar="RUN_OR_CHECKPOINT", help="A run directory or one checkpoint.")],
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="Picture (.png) to write: paths, or rewards by time.")] = None,
    video: Annotated[
        Path | None, typer.Option(help="Film (.gif, .mp4) to write of tasks that MuJoCo simulates.")
    ] = None,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    tasks: Annotated[int, typer.Option(help="How many tasks.")] = 4,
    trust_code: TrustCode = False,
) -> dict[str, str | None]:
    """Look on at a policy before and after it adapts to a few tasks."""
    terminal, err = consoles()
    with errors(), messages(err):
        own = check_tasks(split, tasks, MOST_TASKS)
        if out is None and video is None:
            raise ConfigError("there is nothing to write; give --out FILE.png, or --video FILE.gif")
        for path, option in ((out, "--out"), (video, "--video")):
            if path is not None:
                check_local(path, f"file of {option}")
        from distmeta.runs import watching  # now: it brings torch, which takes seconds

        watched = watching.watch(
            run, overrides or (), split=own, tasks=tasks, drawn=video is not None, trust_code=trust_code
        )
        if out is not None:
            watching.picture(watched, out)
            terminal.print(str(out), markup=False, highlight=False, soft_wrap=True)
        if video is not None:
            watching.film(watched, video)
            terminal.print(str(video), markup=False, highlight=False, soft_wrap=True)
    return {"picture": None if out is None else str(out), "video": None if video is None else str(video)}
