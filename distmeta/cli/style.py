"""What every command takes beside its own options: ``--quiet`` and ``--json``."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Annotated, Any

import typer

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no messages: results and errors alone.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else, on standard output.")]


@dataclass(frozen=True)
class Style:
    """How the running command speaks.

    Attributes:
        quiet: without progress and messages.
        json: its result is JSON.
    """

    quiet: bool = False
    json: bool = False


_PLAIN = Style()
STYLE: ContextVar[Style] = ContextVar("STYLE", default=_PLAIN)


def styled(command: Callable[..., Any]) -> Callable[..., None]:
    """A command with both options more; what it returns is its result as plain values."""

    @functools.wraps(command)
    def run(*args: Any, quiet: bool = False, as_json: bool = False, **options: Any) -> None:
        token = STYLE.set(Style(quiet, as_json))
        try:
            result = command(*args, **options)
        finally:
            STYLE.reset(token)
        if as_json:
            from distmeta.runs.directory import to_json

            print(to_json(result, indent=2))

    signature = inspect.signature(command, eval_str=True)
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=kind)
        for name, kind in (("quiet", Quiet), ("as_json", AsJson))
    ]
    parameters = [*signature.parameters.values(), *added]
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    return run
