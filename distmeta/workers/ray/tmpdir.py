"""The folder in which a Ray that starts on this machine keeps its session: whether it can."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from distmeta.errors import ClusterError

LONGEST_SOCKET = 103 if sys.platform == "darwin" else 107
"""Bytes of a Unix socket's path, a limit of the operating system."""

_SOCKET = "ray/session_2026-01-01_00-00-00_000000_{pid}/sockets/plasma_store"
"""Where Ray puts the socket with the longest path, below the temporary folder."""


def check_tmpdir() -> None:
    """Check the folder for Ray's session: ``RAY_TMPDIR``, else ``TMPDIR``, else ``/tmp``.

    Raises:
        ClusterError: it is not an absolute path, too long for Ray's sockets, or cannot be written.
    """
    name = next((name for name in ("RAY_TMPDIR", "TMPDIR") if name in os.environ), None)
    place = os.environ[name] if name else "/tmp"
    said = f"{name} = {place}" if name else place
    if not os.path.isabs(place):
        raise _refusal(said, "Ray's sockets need an absolute path")
    size, room = len(os.fsencode(place)), LONGEST_SOCKET - len(_SOCKET.format(pid=os.getpid())) - 1
    if size > room:
        raise _refusal(
            said,
            f"its {size} bytes are too long for Ray's sockets, whose paths may have {LONGEST_SOCKET} bytes; at most "
            f"{room} are left for this folder",
        )
    folder = Path(place, "ray")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _refusal(said, f"Ray cannot write to {folder} ({error.strerror or error})") from None


def _refusal(said: str, problem: str) -> ClusterError:
    return ClusterError(
        f"cannot start Ray on this machine: {said}: {problem}. Set RAY_TMPDIR (for Ray alone) or TMPDIR to a short "
        "path that can be written, for example /tmp, or use cluster.workers=0 to compute in this process"
    )
