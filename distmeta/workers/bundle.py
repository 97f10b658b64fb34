"""What workers on other hosts need of the driver's: the data set's store and the user's module. Knows nothing of Ray.

A host gets each file once, into its ``DISTMETA_CACHE``, in pieces and checked by hash; no shared file system is needed.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from distmeta.config.importing import sources
from distmeta.config.migrations import CONFIG_MIGRATIONS, SCHEMA, newest
from distmeta.config.modules import code_of, kinds
from distmeta.config.schema import CALLBACKS, Config
from distmeta.errors import ChangedError, DataError
from distmeta.loading import load_config
from distmeta.storage.cache import build_once, cache_for, written_whole
from distmeta.tasks import TASKS, with_fitted

CHUNK = 32 * 2**20
"""Bytes of a file that travel at a time."""

Read = Callable[[str, int, int], bytes]
"""Reads ``length`` bytes at ``offset`` of one of the bundle's files, by its name."""


@dataclass(frozen=True)
class Content:
    """A file of the driver's.

    Attributes:
        path: where it lies on the driver's host.
        size: bytes.
        sha256: of all of them.
    """

    path: Path
    size: int
    sha256: str


@dataclass(frozen=True)
class Bundle:
    """What a run's workers elsewhere need.

    Attributes:
        files: data, by the name under which the task family looks for it.
        modules: sources of the user's modules, by their path below a folder of ``sys.path``.
        code: hashes of the user's files as the run begins, for workers that read these files themselves.
        fitted: what the task family has learned, which is no part of a configuration's plain values.
    """

    files: Mapping[str, Content] = field(default_factory=dict)
    modules: Mapping[str, bytes] = field(default_factory=dict)
    code: Mapping[str, str] = field(default_factory=dict)
    fitted: Mapping[str, Any] | None = None


def pack(config: Config, elsewhere: bool = True) -> Bundle:
    """What this configuration's workers need; the family is prepared and the model built before.

    Args:
        config: the resolved configuration.
        elsewhere: whether there may be workers on other hosts.
    """
    code = code_of(config.model_dump(mode="json", exclude={CALLBACKS}))
    if not elsewhere:
        return Bundle(code=code, fitted=config.tasks.fitted)
    files = TASKS[config.tasks.kind].holdings(config.tasks)
    contents = {name: _content(path) for name, path in files.items()}
    return Bundle(contents, modules_of(config), code, config.tasks.fitted)


def modules_of(config: Config) -> dict[str, bytes]:
    """Sources of the user's modules that a configuration names, by their path below a folder of ``sys.path``."""
    modules: dict[str, bytes] = {}
    for key, kind in kinds(config.model_dump(mode="json", exclude={CALLBACKS})).items():
        modules |= sources(kind, key)
    return modules


def values_of(config: Config) -> dict[str, Any]:
    """A configuration as plain values, which a host takes that has none of the user's code yet; secrets and all."""
    return {SCHEMA: newest(CONFIG_MIGRATIONS), **config.model_dump(mode="json", exclude={CALLBACKS})}


def check_code(bundle: Bundle, values: Mapping[str, Any]) -> None:
    """Refuse to open a worker on the driver's host with other code of the user's than the run began with.

    Raises:
        ChangedError: naming the files.
    """
    now = code_of(values, bundle.code)
    changed = [name for name, digest in bundle.code.items() if now.get(name) != digest]
    if changed:
        raise ChangedError(
            f"{', '.join(changed)} changed after the run began, and a worker that starts now would compute something "
            "else; restore what has changed, or end the run and go on with --resume --accept-changes"
        )


def read_config(bundle: Bundle, values: Mapping[str, Any]) -> Config:
    """The driver's configuration, of its plain values and what its task family has learned."""
    return with_fitted(load_config(values), bundle.fitted)


def unpack(bundle: Bundle, values: Mapping[str, Any], read: Read) -> Config:
    """Fetch on this host what is not here yet; gives the configuration that finds it here.

    The user's code comes first: his own sections of the configuration are of its classes.

    Raises:
        DataError: a file did not arrive as it was sent, or cannot be written.
    """
    unpack_modules(bundle.modules)
    config = read_config(bundle, values)
    if not bundle.files:
        return config
    digest = hashlib.sha256("".join(each.sha256 for _, each in sorted(bundle.files.items())).encode()).hexdigest()
    folder = cache_for(*bundle.files, folder=f"received/{digest[:16]}")
    for name, content in bundle.files.items():
        build_once(folder / name, partial(_fetch, name, content, read))
    tasks = TASKS[config.tasks.kind].moved(config.tasks, folder)
    return config.model_copy(update={"tasks": tasks})


def _content(path: Path) -> Content:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(CHUNK):
            digest.update(chunk)
        return Content(path.absolute(), file.tell(), digest.hexdigest())


def _fetch(name: str, content: Content, read: Read, path: Path) -> None:
    digest = hashlib.sha256()
    with written_whole(path) as temporary, temporary.open("wb") as file:
        for offset in range(0, content.size, CHUNK):
            chunk = read(name, offset, min(CHUNK, content.size - offset))
            digest.update(chunk)
            file.write(chunk)
        if digest.hexdigest() != content.sha256:
            raise DataError(
                f"{name} did not arrive as it is on the driver's host ({content.path}); if the file was changed "
                "since the run began, start the run again"
            )


def unpack_modules(modules: Mapping[str, bytes]) -> None:
    """Make these modules importable, before what this host may have of the same name."""
    if not modules:
        return
    digest = hashlib.sha256(b"".join(name.encode() + b"\0" + text for name, text in sorted(modules.items())))
    folder = cache_for(*modules, folder=f"modules/{digest.hexdigest()[:16]}")
    for name, text in modules.items():
        build_once(folder / name, partial(_write, text))
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _write(text: bytes, path: Path) -> None:
    with written_whole(path) as temporary:
        temporary.write_bytes(text)
