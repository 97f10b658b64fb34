"""Writing a plan into a configuration's file, and nothing else."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from distmeta.config.text import parse_yaml
from distmeta.core.plan import Plan
from distmeta.errors import ConfigError

_BREAKS = "\n\r\x85\u2028\u2029"
_LINE = re.compile(f"[^{_BREAKS}]*(?:\r\n|[{_BREAKS}])")
"""A line as YAML counts them."""


def with_engine(text: str, plan: Plan, name: str = "the configuration") -> str:
    """A configuration's YAML text whose section ``engine`` asks for exactly this plan; the rest stays as it is.

    The section is found by parsing, taken out, comments within it included, and written anew at the end. The result is
    parsed again and compared.

    Args:
        text: the configuration; a key ``engine`` at its top may be written in any way that YAML knows.
        plan: what the section shall ask for.
        name: of the file, for messages.

    Raises:
        ConfigError: the section cannot be exchanged without a change to something else, for example where another part
            of the file refers to it.

    >>> print(with_engine("name: mine\\nengine:\\n  chunk: 2\\nseed: 1\\n", Plan(chunk=4)), end="")
    name: mine
    seed: 1
    engine:
      chunk: 4
      compile: none
      precision: float32
      differentiation: reverse
      layers: general
    """
    before = parse_yaml(text, name)
    expected = {**before, "engine": plan.settings()}
    written = _exchange(text, plan)
    try:
        if written is not None and parse_yaml(written, name) == expected:
            return written
        reason = "it is not written as lines of 'key: value'"
    except ConfigError as error:
        reason = str(error)
    values = yaml.safe_dump(plan.settings(), default_flow_style=True, sort_keys=False, width=1000).strip()
    raise ConfigError(
        f"cannot put the plan into {name} and leave everything else as it is: {reason}; nothing was changed. "
        f"Write a new file (--write OTHER.yaml, with any override), or set these values by hand: engine: {values}"
    )


def write_engine(path: Path, text: str, plan: Plan) -> None:
    """Write a configuration's text with this plan's values, the whole file at once or not at all.

    A file that is there keeps its permissions, and a symbolic link stays one.

    Raises:
        ConfigError: the plan cannot be put into the text, or the file cannot be written.
    """
    content = with_engine(text, plan, str(path)).encode()
    with _explained(path):
        target = _target(path)
        if target.exists() and not target.is_file():  # a device or a pipe, which cannot be replaced
            target.write_bytes(content)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = _beside(target)
        try:
            with temporary.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            if target.exists():
                shutil.copymode(target, temporary)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)


def check_target(path: Path) -> None:
    """See that :func:`write_engine` will be able to write a file; nothing is left there.

    Raises:
        ConfigError: it will not, and why.
    """
    with _explained(path):
        target = _target(path)
        if target.exists() and not target.is_file():
            return
        folder = target.parent
        while not folder.exists():
            folder = folder.parent
        # Each part by itself: below a missing folder, nobody says that a name is too long.
        for name in target.relative_to(folder).parts:
            (folder / name).exists()
        temporary = _beside(folder / "any")
        try:
            temporary.open("xb").close()
        finally:
            temporary.unlink(missing_ok=True)


def _target(path: Path) -> Path:
    """The file behind symbolic links, which may be missing; raises ``OSError`` where none can be written."""
    target = Path(os.path.realpath(path))
    if any(part.is_symlink() for part in (target, *target.parents)):  # a loop: all others are followed
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, "it is a folder; name a file")
    if target.exists() and not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, "the file is read-only")
    return target


def _beside(target: Path) -> Path:
    """A name for a temporary file; it is short, however long that of the target is."""
    return target.with_name(f".distmeta-{secrets.token_hex(4)}")


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(f"cannot write the configuration {path}: {error.strerror or error}") from None


def _exchange(text: str, plan: Plan) -> str | None:
    """The text with another section at its end; ``None`` where its settings are not lines of a block."""
    root = yaml.compose(text, yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode) or root.flow_style:
        return None
    end = "\r\n" if "\r\n" in text else "\n"
    lines = _LINE.findall(text if text.endswith("\n") else text + end)
    for key, value in root.value:
        if key.value == "engine":
            # The value may stand elsewhere, if this is an alias of it.
            del lines[key.start_mark.line : max(_last_line(value), key.start_mark.line) + 1]
            break
    indent = " " * root.start_mark.column
    section = yaml.safe_dump({"engine": plan.settings()}, sort_keys=False).splitlines()
    place = next((number for number, line in enumerate(lines) if line.split()[:1] == ["..."]), len(lines))
    lines[place:place] = [indent + line + end for line in section]
    return "".join(lines)


def _last_line(node: yaml.Node) -> int:
    """The last line that a value stands on: a block's own end is where the next key begins."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _last_line(last[1] if isinstance(last, tuple) else last)
    mark = node.end_mark
    ends_before = mark.column == 0 and mark.line > node.start_mark.line
    return int(mark.line - 1 if ends_before else mark.line)
