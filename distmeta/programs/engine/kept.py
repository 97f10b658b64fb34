"""Recordings and compiled code, kept in the cache: one process of a host makes them, all others load them.

What is kept is pickled Python and machine code, so it is loaded only from a folder that nobody but this user can write
to, and only where its hash says that it is as it was written. Whatever decides its content is in its name.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from distmeta.config.modules import kinds
from distmeta.config.schema import Config
from distmeta.core.processor import processor
from distmeta.errors import DataError
from distmeta.functional.kernels.build import answering_compiler
from distmeta.storage.cache import build_once, cache_for, written_whole
from distmeta.storage.ownership import intruder

log = logging.getLogger(__name__)

FOLDER = "compiled"
"""Folder of the cache."""

LARGEST = 2 * 2**30
"""Bytes of the folder, beyond which what was not used for longest is deleted."""

_HASH = hashlib.sha256().digest_size
_Thing = TypeVar("_Thing")


def kept(
    kind: str,
    parts: Any,
    make: Callable[[], _Thing],
    dump: Callable[[_Thing], bytes],
    load: Callable[[bytes], _Thing],
) -> _Thing:
    """What ``make`` gives, or gave on this host before.

    Of several processes that ask at the same time one makes it and the others wait. Where the cache cannot be used, or
    what is in it is damaged or cannot be loaded, it is made here.

    Args:
        kind: the beginning of the file's name.
        parts: everything that decides what ``make`` gives, as plain values.
        make: must not depend on anything else.
        dump: may raise where it cannot be kept.
        load: of what ``dump`` gave.

    Raises:
        Exception: whatever ``make`` raises.
    """
    made: list[_Thing] = []
    failed: list[BaseException] = []

    def build(path: Path) -> None:
        try:
            made.append(make())
        except BaseException as error:
            failed.append(error)
            raise
        content = dump(made[0])
        with written_whole(path) as temporary:
            temporary.write_bytes(content + hashlib.sha256(content).digest())

    name = f"{kind}-{_digest(parts)}"
    try:
        folder = cache_for(name, folder=FOLDER)
        if problem := intruder(folder, [name]):
            raise DataError(f"{problem}, so nothing is loaded from {folder}")
        path = build_once(folder / name, build, _whole)
        if not made:
            os.utime(path)  # it was used
            return load(path.read_bytes()[:-_HASH])
        _bound(folder)
    except Exception as error:  # of a disk, of a damaged file: it is only a cache
        if failed:
            raise
        log.debug("%s is not kept: %s: %s", kind, type(error).__name__, error)
        if not made:
            return make()
    return made[0]


def is_kept(kind: str, parts: Any) -> bool:
    """Whether :func:`kept` would find it."""
    try:
        name = f"{kind}-{_digest(parts)}"
        return (cache_for(name, folder=FOLDER) / name).exists()
    except DataError:
        return False


def origin(config: Config) -> dict[str, Any] | None:
    """What decides the operations of a configuration's functions, beside the plan and the arguments' shapes.

    ``None`` where a user's own code takes part: that may depend on anything.
    """
    how_many = {"evaluation": {"tasks", "validation_tasks"}}
    values = config.model_dump(mode="json", include={"model", "algorithm", "tasks", "evaluation"}, exclude=how_many)
    if kinds(values):
        return None
    if config.tasks.fitted is not None:
        values["fitted"] = config.tasks.fitted
    return {"config": values, "code": _code(), "torch": torch.__version__}


@functools.cache
def host() -> dict[str, Any]:
    """What decides machine code, beside the operations."""
    cpu = processor("model name", "flags", "Features")
    compiler = answering_compiler()
    return {
        "cpu": [platform.machine(), torch.backends.cpu.get_cpu_capability(), *cpu],
        "compiler": compiler.version if compiler else None,
        "torch": torch.__version__,
    }


@functools.cache
def _code() -> str:
    """Hash of this package's own code."""
    package = Path(__file__).parents[2]
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*")):
        if file.suffix in (".py", ".cpp", ".h"):
            digest.update(file.read_bytes())
    return digest.hexdigest()


def _digest(parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _whole(path: Path) -> bool:
    try:
        content = path.read_bytes()
    except OSError:
        return False
    if hashlib.sha256(content[:-_HASH]).digest() == content[-_HASH:]:
        return True
    log.warning("%s is damaged: it is made again", path)
    return False


def _bound(folder: Path) -> None:
    """Delete what was not used for longest, beyond ``LARGEST`` bytes."""
    found = [(entry.stat(), Path(entry)) for entry in os.scandir(folder) if entry.is_file()]
    used = 0
    for status, path in sorted(found, key=lambda each: -each[0].st_mtime):
        used += status.st_size
        if used > LARGEST:
            path.unlink(missing_ok=True)
