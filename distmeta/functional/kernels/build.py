"""Compiles ``kernels.cpp``, with its headers, once a host and loads it."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from distmeta.errors import DataError
from distmeta.storage.cache import build_once, cache_dir, written_whole

log = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("kernels.cpp")

COMPILERS = ("g++", "c++", "clang++")
"""Tried in this order where ``CXX`` names none."""

_FLAGS = ("-O3", "-std=c++17", "-fPIC", "-fopenmp")
_TYPES = ("float", "double")
_WIDTH = {
    # As wide as what torch itself uses here, so that hosts with one fingerprint compute alike.
    "AVX512": ("-march=x86-64-v4", "-mprefer-vector-width=512"),
    "AVX2": ("-march=x86-64-v3",),
}


@dataclass(frozen=True)
class Compiler:
    """A C++ compiler of this host.

    Attributes:
        command: the program, and arguments that ``CXX`` gives it.
        version: its version line and those arguments: a part of a worker's fingerprint.
    """

    command: tuple[str, ...]
    version: str


@dataclass(frozen=True)
class Kernels:
    """The loaded library.

    Attributes:
        library: functions of ``kernels.cpp``, by name.
        vector_bytes: channels of a tensor must fill whole vectors of this size.
        compiler: what compiled them.
    """

    library: ctypes.CDLL
    vector_bytes: int
    compiler: Compiler


class Unavailable(Exception):
    """The kernels cannot be had here; the message says why."""


def find_compiler() -> Compiler:
    """The compiler that compiles the kernels; where none can, the first that answers.

    Raises:
        Unavailable: there is none.
    """
    outcome = _load(*_environment())
    if isinstance(outcome, Kernels):
        return outcome.compiler
    answers = answering_compiler()
    if answers is None:
        raise Unavailable(outcome)
    return answers


def answering_compiler() -> Compiler | None:
    """The first compiler that says its version, whatever it can do: nothing is compiled to find out."""
    found = map(_ask, _commands(os.environ.get("CXX")))
    return next((each for each in found if isinstance(each, Compiler)), None)


def program() -> str:
    """The compiler of the kernels as one program, for callers that can give it no arguments of its own.

    Raises:
        Unavailable: the kernels cannot be had.
        DataError: ``CXX`` has arguments, and the cache, where a script is written that adds them, cannot be written.
    """
    command = load().compiler.command
    if len(command) == 1:
        return command[0]
    text = f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n'
    kind = "clang++" if any("clang" in Path(word).name for word in command) else "g++"  # which Inductor reads off it
    name = f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    def write(path: Path) -> None:
        with written_whole(path) as temporary:
            temporary.write_text(text)
            temporary.chmod(0o755)

    return str(build_once(cache_dir() / "kernels" / name, write))


def load() -> Kernels:
    """The kernels, compiled on first use into ``DISTMETA_CACHE``.

    The first compiler counts that really compiles, links and loads them; the outcome holds for the process.

    Raises:
        Unavailable: there is no C++ compiler, none can compile them, or the cache cannot be written.
    """
    outcome = _load(*_environment())
    if isinstance(outcome, str):
        raise Unavailable(outcome)
    return outcome


def unavailable() -> str | None:
    """Why the kernels cannot be had here; ``None`` where they can."""
    outcome = _load(*_environment())
    return outcome if isinstance(outcome, str) else None


def _environment() -> tuple[str | None, ...]:
    """What decides whether they can be had."""
    return tuple(map(os.environ.get, ("CXX", "PATH", "DISTMETA_CACHE", "XDG_CACHE_HOME", "HOME")))


@functools.cache
def _load(cxx: str | None, *_: str | None) -> Kernels | str:
    """The kernels, or why they cannot be had."""
    problems = []
    for command in _commands(cxx):
        found = _ask(command)
        try:
            if isinstance(found, str):
                raise Unavailable(found)
            return _compiled(found)
        except Unavailable as error:
            problems.append(str(error))
        except DataError as error:
            return str(error)
    if problems:
        return "; ".join(dict.fromkeys(problems))
    return f"no C++ compiler is found (tried {', '.join(COMPILERS)}; CXX names another)"


def _commands(cxx: str | None) -> list[tuple[str, ...]]:
    """What to try as a compiler: ``CXX`` and nothing else where it is set."""
    if not cxx or not cxx.strip():
        return [(name,) for name in COMPILERS if shutil.which(name)]
    try:
        return [(cxx,) if shutil.which(cxx) else tuple(shlex.split(cxx))]
    except ValueError:  # a quotation that does not end
        return [(cxx,)]


def _ask(command: tuple[str, ...]) -> Compiler | str:
    """The compiler, or why it does not answer."""
    if shutil.which(command[0]) is None:
        return f"no C++ compiler is found (tried {command[0]}, which CXX names)"
    try:
        said = _run([*command, "--version"]).split("\n", 1)[0].strip()
    except Unavailable as error:
        return str(error)
    arguments = [word for word in command[1:] if word.startswith("-")]
    return Compiler(command, " ".join([said, *arguments])) if said else f"{command[0]} does not say its version"


def _compiled(compiler: Compiler) -> Kernels:
    flags = (*_FLAGS, *_WIDTH.get(torch.backends.cpu.get_cpu_capability(), ()))
    texts = [file.read_text() for file in sorted(SOURCE.parent.iterdir()) if file.suffix in (".cpp", ".h")]
    content = "\0".join([*texts, compiler.version, platform.machine(), *flags])
    name = f"kernels-{hashlib.sha256(content.encode()).hexdigest()[:16]}.so"

    def compile_to(path: Path) -> None:
        if path.exists():
            log.warning("the compiled kernels %s are damaged: compiling them again", path)
        with written_whole(path) as temporary:
            _compile(compiler, flags, temporary)
            if not temporary.exists():
                raise Unavailable(f"{compiler.command[0]} has written no library")
            library = temporary.read_bytes()
            temporary.write_bytes(library + hashlib.sha256(library).digest())

    path = build_once(cache_dir() / "kernels" / name, compile_to, _whole)
    try:
        library = ctypes.CDLL(str(path))
        return Kernels(library, int(library.vector_bytes_float()), compiler)
    except (OSError, AttributeError) as error:
        raise Unavailable(f"the kernels that {compiler.command[0]} has compiled cannot be loaded: {error}") from None


def _compile(compiler: Compiler, flags: Sequence[str], target: Path) -> None:
    """Write the library. Each type's part is compiled at once: a first run on a host waits for nothing longer."""
    command = [*compiler.command, *flags]
    try:
        with TemporaryDirectory(prefix="distmeta-kernels-") as folder, ThreadPoolExecutor() as executor:
            parts = {name: str(Path(folder, f"{name}.o")) for name in _TYPES}
            calls = [[*command, "-c", f"-DREAL={name}", "-o", part, str(SOURCE)] for name, part in parts.items()]
            list(executor.map(_run, calls))
            _run([*command, "-shared", "-o", str(target), *parts.values()])
    except OSError as error:
        raise Unavailable(f"there is no folder for temporary files: {error.strerror or error}") from None


def _whole(path: Path) -> bool:
    """Whether a library is there as it was written, with its hash at its end: loading a torn one ends the process."""
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise DataError(f"cannot read the compiled kernels {path}: {error.strerror or error}") from None
    return hashlib.sha256(content[:-32]).digest() == content[-32:]


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=300, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", "") or str(error)).strip().splitlines() or [str(error)]
        worst = next((line for line in said if "error" in line), said[0])
        raise Unavailable(f"{command[0]} failed: {worst.strip()}") from None
    return done.stdout
