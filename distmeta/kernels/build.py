"""Compiles ``kernels.cpp`` once a host and loads it."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import torch

from distmeta.cache import build_once, cache_dir, written_whole

SOURCE = Path(__file__).with_name("kernels.cpp")

_FLAGS = ("-O3", "-std=c++17", "-shared", "-fPIC", "-fopenmp")
_WIDTH = {
    # As wide as what torch itself uses here, so that hosts with one fingerprint compute alike.
    "AVX512": ("-march=x86-64-v4", "-mprefer-vector-width=512"),
    "AVX2": ("-march=x86-64-v3",),
}


@dataclass(frozen=True)
class Kernels:
    """The loaded library.

    Attributes:
        library: functions of ``kernels.cpp``, by name.
        vector_bytes: channels of a tensor must fill whole vectors of this size.
    """

    library: ctypes.CDLL
    vector_bytes: int


class Unavailable(Exception):
    """The kernels cannot be had here; the message says why."""


def find_compiler() -> tuple[str, str]:
    """The C++ compiler of this host, and its version line, which is a part of a worker's fingerprint.

    Raises:
        Unavailable: there is none, or it does not say its version.
    """
    compiler = os.environ.get("CXX") or next(filter(shutil.which, ("g++", "c++", "clang++")), None)
    if compiler is None or shutil.which(compiler) is None:
        raise Unavailable(f"no C++ compiler is found (tried {compiler or 'g++, c++, clang++'}; CXX names another)")
    return compiler, _run([compiler, "--version"]).splitlines()[0]


@functools.cache
def load() -> Kernels:
    """The kernels, compiled on first use into ``DISTMETA_CACHE`` (about 3 seconds).

    Raises:
        Unavailable: there is no C++ compiler, or it cannot compile them.
    """
    compiler, version = find_compiler()
    flags = (*_FLAGS, *_WIDTH.get(torch.backends.cpu.get_cpu_capability(), ()))
    content = "\0".join([SOURCE.read_text(), version, platform.machine(), *flags])
    name = f"kernels-{hashlib.sha256(content.encode()).hexdigest()[:16]}.so"

    def compile_to(path: Path) -> None:
        with written_whole(path) as temporary:
            _run([compiler, *flags, "-o", str(temporary), str(SOURCE)])

    path = build_once(cache_dir() / "kernels" / name, compile_to)
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise Unavailable(f"the compiled kernels cannot be loaded: {error}") from None
    return Kernels(library, int(library.vector_bytes()))


def unavailable() -> str | None:
    """Why the kernels cannot be had here; ``None`` where they can."""
    try:
        load()
    except Unavailable as error:
        return str(error)
    return None


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
        raise Unavailable(f"{command[0]} failed: {said[0] if said else error}") from None
    return done.stdout
