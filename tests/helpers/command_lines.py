"""Find the command lines of distmeta and Ray in shell text, and parse them by the programs' own command trees."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import PurePath
from typing import Any

import typer

OPERATORS = frozenset("();|&<>")
KEYWORDS = frozenset({"if", "then", "else", "until", "while", "do", "!", "exec", "export"})
# Takes options, then a command.
WRAPPERS = frozenset({"srun"})


def command_lines(shell: str) -> Iterator[list[str]]:
    """The command lines of distmeta and Ray in a shell script, program name first; also those inside `ray exec`."""
    for line in shell.replace("\\\n", " ").splitlines():
        for words in _simple_commands(line):
            command = _command(words)
            if not command or PurePath(command[0]).name not in ("distmeta", "ray"):
                continue
            command[0] = PurePath(command[0]).name
            yield command
            if command[:2] == ["ray", "exec"]:
                yield from command_lines(command[-1])


def _simple_commands(line: str) -> Iterator[list[str]]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars="();|&<>")
    lexer.whitespace_split = True
    words: list[str] = []
    for token in lexer:
        if set(token) <= OPERATORS:
            yield words
            words = []
        else:
            words.append(token)
    yield words


def _command(words: list[str]) -> list[str]:
    """Without assignments, keywords, and programs that run other programs."""
    while words and (words[0] in KEYWORDS or (words[0].partition("=")[0].isidentifier() and "=" in words[0])):
        words = words[1:]
    if words and words[0] in WRAPPERS:
        words = words[1:]
        while words and words[0].startswith("--"):
            words = words[1:]
    return words


@cache
def tree(program: str) -> Any:
    """The program's tree of commands."""
    if program == "ray":
        from ray.scripts.scripts import cli

        return cli
    import distmeta.cli.main

    return typer.main.get_command(distmeta.cli.main.app)


def parse(command: list[str]) -> dict[str, Any]:
    """What the program's own parser makes of a command line; raises its usage error for what it does not know."""
    node, name, words = tree(command[0]), command[0], command[1:]
    context = node.make_context(name, list(words))
    while hasattr(node, "resolve_command"):
        name, node, words = node.resolve_command(context, [*context._protected_args, *context.args])
        context = node.make_context(name, list(words), parent=context)
    params: dict[str, Any] = context.params
    return params
