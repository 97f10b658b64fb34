"""What all commands share."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from distmeta.cli.display import printable
from distmeta.core.records import SPLITS, Split
from distmeta.errors import ConfigError, DistmetaError, Interrupted

Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Settings that replace the file's; later ones win."),
]

TrustCode = Annotated[
    bool,
    typer.Option(
        "--trust-code", help="Run code that a run directory, a checkpoint or a sweep's folder names or holds."
    ),
]
AcceptChanges = Annotated[
    bool,
    typer.Option(
        "--accept-changes",
        help="With --resume: go on though data, code or frozen weights have changed; it is recorded.",
    ),
]


@contextmanager
def errors() -> Iterator[None]:
    """One clear message and an exit code for what users can cause; tracebacks are for bugs."""
    try:
        yield
    except DistmetaError as error:
        word = "" if isinstance(error, Interrupted) else "error: "
        print(f"{word}{printable(str(error))}", file=sys.stderr)
        raise typer.Exit(error.exit_code) from None
    except (MemoryError, RuntimeError) as error:
        if not _is_memory(error):
            raise
        line = (str(error).splitlines() or ["no memory is left"])[0]
        print(f"error: there is not enough memory: {line}; ask for less: {_LESS}", file=sys.stderr)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise typer.Exit(130) from None


_NO_MORE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EPIPE)


@contextmanager
def output() -> Iterator[None]:
    """Around a whole command: one clear message where standard output, such as a file on a full disk, takes no more."""
    try:
        try:
            yield
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # not when Python ends, where nobody could catch what it raises
    except OSError as error:
        if error.errno not in _NO_MORE or error.filename is not None:  # of a named file
            raise
        if error.errno != errno.EPIPE:  # whoever read it has seen enough
            print(f"error: cannot write the output: {error.strerror}; send it elsewhere", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for what is still to be flushed
        raise SystemExit(1) from None


_LESS = "a smaller model, smaller tasks (ways, shots, queries), run.tasks_per_shard, engine.chunk"


def _is_memory(error: Exception) -> bool:
    """Whether NumPy, torch or Python itself could not have what they asked for; torch says it in words alone."""
    return isinstance(error, MemoryError) or "memory" in str(error).lower()


def check_tasks(split: str, tasks: int, most: int) -> Split:
    """The split; refuses one that there is not, and no or too many tasks to look at."""
    if split not in SPLITS:
        raise ConfigError(f"--split = {split}: expected {', '.join(SPLITS[:-1])} or {SPLITS[-1]}")
    if not 1 <= tasks <= most:
        raise ConfigError(f"--tasks = {tasks}: expected 1 to {most}")
    return split
