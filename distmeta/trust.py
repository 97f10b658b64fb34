"""What may run when something is loaded: checkpoints, artefacts and run directories are data, whatever they name.

Code that they name by a ``module:`` kind is imported only where the caller allows it, names the same kind, or has it in
the working directory, file by file as the run recorded it.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from shlex import quote
from types import CodeType, ModuleType
from typing import Any

from distmeta.config.importing import find_own
from distmeta.config.modules import folder_of, importable, is_name, is_own, kinds, lexical, reached, split
from distmeta.core.hashing import sha256
from distmeta.core.hosts import hosts_in
from distmeta.core.secrets import mask
from distmeta.errors import TrustError
from distmeta.origins import Origin

_LONGEST = 200  # characters of a call's arguments that are shown


@dataclass(frozen=True)
class _Code:
    """Code that only its hashes speak for.

    Attributes:
        kind: ``module:package.factory``.
        root: the folder of ``sys.path`` where it lies: the working directory or one below.
        files: what importing it can load from there, by module.
        record: what a run has recorded, which has all of them.
    """

    kind: str
    root: Path
    files: Mapping[str, Path]
    record: Mapping[str, str]


@dataclass(frozen=True)
class Allowed:
    """What :func:`check` has let pass."""

    origin: Origin
    recorded: Sequence[_Code] = ()

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Import the recorded code, and let nothing else of the working directory be imported meanwhile.

        Raises:
            TrustError: it would load a file that is not as the run recorded it, or not the one that was compared.
        """
        if not self.recorded:
            yield
            return
        with _imports_watched(self) as watch:
            try:
                for code in self.recorded:
                    _import(code, self.origin)
                yield
            finally:
                if watch.refused:  # the code itself may have gone on without it, or said something else
                    raise watch.refused[0]


def check(values: Mapping[str, Any], named: Iterable[str], origin: Origin, trust_code: bool) -> Allowed:
    """Refuse code that loaded settings name and nobody has allowed; nothing is imported.

    Args:
        values: the settings.
        named: kinds that the caller's own settings name.
        origin: where ``values`` come from.
        trust_code: whether the caller trusts them.

    Raises:
        TrustError: naming the code, its arguments, and how to allow it.

    >>> check({"model": {"kind": "module:os.system", "command": "true"}}, (), Origin("runs/found"), False)
    Traceback (most recent call last):
    distmeta.errors.TrustError: runs/found asks to run code, which was refused: model.kind = module:os.system, ...
    """
    recorded: dict[str, _Code] = {}
    for key, kind in kinds(values).items():
        if trust_code or kind in named:
            continue
        problem, code = _compare(kind, origin) if is_name(kind) else ("that is no name of Python code", None)
        if code is None:
            raise TrustError(
                f"{origin.location} asks to run code, which was refused: {_told(values, key, kind)}. Nothing of it was "
                f"run: {problem}. If you trust whoever made it, allow its code with --trust-code (trust_code=True in "
                "Python), or name it in settings of your own, for example the override "
                f"{_quoted(f'{key}={kind}')}"
            )
        recorded[kind] = code
    return Allowed(origin, list(recorded.values()))


def check_hosts(values: Mapping[str, Any], own: Iterable[str], location: str) -> None:
    """Refuse hosts that loaded settings name: to connect there is to send them the user's credentials.

    Args:
        values: the settings.
        own: dotted keys of the caller's own settings.
        location: where ``values`` come from, for people.

    Raises:
        TrustError: naming the setting, and how to allow it.
    """
    for key, text in hosts_in(values, own).items():
        again = key.removeprefix("base.").removeprefix("settings.")
        raise TrustError(
            f"{location} names a host, which was refused: {_plain(f'{key} = {mask(text)}')}. Nothing was sent "
            "there, but your credentials would be sent to the host that it names. If that is yours, say so with the "
            f"override {_quoted(f'{again}={mask(text)}')}, or with --trust-code (trust_code=True in Python)"
        )


def _told(values: Mapping[str, Any], key: str, kind: str) -> str:
    """What would be run, and with what."""
    section = values.get(key.partition(".")[0])
    given = section.items() if isinstance(section, Mapping) else ()
    settings = mask(", ".join(f"{_plain(str(name))}={value!r}" for name, value in given if value != kind))
    shown = settings if len(settings) <= _LONGEST else f"{settings[:_LONGEST]} ..."
    return _plain(f"{key} = {kind}") + (f", with {shown}" if shown else "")


def _plain(text: str) -> str:
    """Text of a file, without what would change a terminal."""
    return text if text.isprintable() else repr(text)


def _quoted(override: str) -> str:
    """An override as a shell takes it, whatever a file has put into it."""
    return quote(_plain(override))


def _compare(kind: str, origin: Origin) -> tuple[str, _Code | None]:
    """Why a kind's files are not those of a record, or what was compared."""
    here, (module, _) = _working_directory(), split(kind)
    found = folder_of(module)
    root = here if found is None else _seen_from(here, str(found))
    files = reached(root, module)
    if not root.is_relative_to(here) or module not in files:
        elsewhere = "" if root == here else f" (Python finds it in {root})"
        return f"{_plain(module)} is no file of the working directory, {here}{elsewhere}", None
    if came_with := next(filter(None, (_came_with(path, origin) for path in files.values())), None):
        return f"{files[module]} may have come with it, in {came_with}", None
    if not origin.records:
        return "it has no record of its code to compare yours with (older versions of distmeta kept none)", None
    problems = []
    for record in origin.records:
        wrong = [why for path in files.values() if (why := _differs(path, root, record, origin))]
        if not wrong:
            return "", _Code(kind, root, files, record)
        problems.append(wrong[0])
    return problems[0], None


def _came_with(path: Path, origin: Origin) -> Path | None:
    """The folder with which a file may have come: that of the origin, or one that is not on the way to the user's own.

    Whoever unpacks an archive in the working directory has all of it in a folder there, the code beside the run too.
    Links are followed, and not: either way leads there.
    """
    if origin.folder is None:
        return None
    here, homes = Path.cwd(), {_run_of(lexical(origin.folder)), _run_of(origin.folder.resolve())}
    shared = (Path(os.path.commonpath([file, home])) for file in (lexical(path), path.resolve()) for home in homes)
    return next((folder for folder in shared if folder in homes or not here.is_relative_to(folder)), None)


def _run_of(folder: Path) -> Path:
    """The run of a checkpoint; any other folder itself."""
    return folder.parent.parent if folder.parent.name == "checkpoints" else folder


def _unrecorded(path: Path, allowed: Allowed, data: bytes) -> str:
    """Why a file of the working directory is not as recorded; empty where it is."""
    codes = [code for code in allowed.recorded if path.is_relative_to(code.root)]
    problems = [_differs(path, code.root, code.record, allowed.origin, data) for code in codes]
    return "" if "" in problems else next(iter(problems), f"{path} is not beside the code that the run recorded")


def _differs(path: Path, root: Path, record: Mapping[str, str], origin: Origin, data: bytes | None = None) -> str:
    """Why a file is not as a record has it; empty where it is."""
    name = path.relative_to(root).as_posix()
    if came_with := _came_with(path, origin):
        return f"{path} may have come with it, in {came_with}"
    if name not in record:
        return f"{path} is not among the files that the run in {origin.location} recorded"
    if sha256(path.read_bytes() if data is None else data) != record[name]:
        return f"{path} has changed since the run in {origin.location} recorded it"
    return ""


# Importing --------------------------------------------------------------------------------------------------------


class _Verified(SourceFileLoader):
    """Runs the source that was compared, whatever a cached bytecode file says or the file becomes meanwhile."""

    def __init__(self, name: str, path: str, source: bytes) -> None:
        super().__init__(name, path)
        self._source = source

    def get_code(self, fullname: str) -> CodeType:
        """The compared source, compiled."""
        return self.source_to_code(self._source, self.path)


class _ImportGuard(MetaPathFinder):
    """Finds modules as Python does, and refuses files of the working directory that the record does not have."""

    def __init__(self, allowed: Allowed) -> None:
        self.refused: list[TrustError] = []
        self._allowed, self._here = allowed, _working_directory()
        self._expected = {name: path for code in allowed.recorded for name, path in _packages(code).items()}
        self._thread = threading.get_ident()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """What the other finders find, if it may be loaded."""
        if threading.get_ident() != self._thread:  # what other threads import is not what was asked for here
            return None
        others = (finder for finder in list(sys.meta_path) if finder is not self and hasattr(finder, "find_spec"))
        found = (finder.find_spec(fullname, path, target) for finder in others)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is not None:
            self._check(fullname, spec)
        return spec

    def _check(self, name: str, spec: ModuleSpec) -> None:
        file = _seen_from(self._here, spec.origin) if spec.has_location and spec.origin else None
        if name in self._expected and file != self._expected[name]:
            self._refuse(_elsewhere(name, str(file or spec.origin), self._expected[name]))
        if file is None or not is_own(file, self._here):
            return
        data = file.read_bytes()
        if problem := _unrecorded(file, self._allowed, data):
            self._refuse(f"it would import {name}, but {problem}")
        if isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Verified(name, spec.loader.path, data)

    def _refuse(self, problem: str) -> None:
        self.refused.append(_refusal(self._allowed.origin, problem))
        raise self.refused[-1]


@contextmanager
def _imports_watched(allowed: Allowed) -> Iterator[_ImportGuard]:
    watch = _ImportGuard(allowed)
    sys.meta_path.insert(0, watch)
    try:
        with importable(os.getcwd()):
            yield watch
    finally:
        sys.meta_path.remove(watch)


def _import(code: _Code, origin: Origin) -> None:
    """Import a kind's module, and see that its factory is the user's own: ``module:my_model:os.system`` is not."""
    here = _working_directory()
    for name, path in _packages(code).items():  # what was loaded before, from wherever
        file = getattr(sys.modules.get(name), "__file__", None)
        if name in sys.modules and (file is None or _seen_from(here, file) != path):
            raise _refusal(origin, _elsewhere(name, str(file), path))
    factory: Any = find_own(code.kind, "the setting", "a class or a function")
    while isinstance(factory, functools.partial):
        factory = factory.func
    home = getattr(factory, "__module__", None)
    file = getattr(sys.modules.get(home or ""), "__file__", None)
    place = _seen_from(here, file) if file is not None else None
    if place is None or not is_own(place, code.root) or _differs(place, code.root, code.record, origin):
        raise _refusal(origin, f"{code.kind} is not defined in the user's own code, but in {home or 'no module'}")


def _packages(code: _Code) -> dict[str, Path]:
    """The files of a kind's module and of the packages above it."""
    module = f"{split(code.kind)[0]}."
    return {name: path for name, path in code.files.items() if module.startswith(f"{name}.")}


def _working_directory() -> Path:
    return lexical(os.getcwd())


def _seen_from(root: Path, file: str) -> Path:
    """A file's path, by way of the root where it lies below that, whichever way Python came to it."""
    path = lexical(file)
    for folder in () if path.is_relative_to(root) else path.parents:
        if folder.exists() and folder.samefile(root):
            return root / path.relative_to(folder)
    return path


def _elsewhere(name: str, file: str, expected: Path) -> str:
    return f"Python finds {name} in {file}, and not in {expected}, which was compared"


def _refusal(origin: Origin, problem: str) -> TrustError:
    return TrustError(
        f"{origin.location} asks to run code, which was refused: {problem}. If you trust whoever made it, allow its "
        "code with --trust-code (trust_code=True in Python)"
    )
