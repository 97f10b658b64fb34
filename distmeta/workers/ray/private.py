"""A Ray of a run's own: on this machine's loopback address alone, and for whoever has its token."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from pathlib import Path
from typing import Any

import ray

from distmeta.workers.ray.internals import forget_token, on_free_agent_port, on_loopback, without_helpers

MODE = "RAY_AUTH_MODE"
"""Environment variable by which the user says how Ray is to know its clients; what it says is obeyed."""

_TOKEN, _TOKEN_PATH = "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"


class Connection:
    """A connection of this process to Ray, from before it is made until :meth:`close`.

    At the end this process's environment is as it was, and a private cluster's token is gone.
    """

    def __init__(self) -> None:
        self._before = dict(os.environ)
        self._after: dict[str, str] = {}
        self._folder: str | None = None

    def start_private(self, cores: int, **options: Any) -> None:
        """Start Ray on this machine, whatever else runs here; it prepares a process for a worker on each core."""
        if not os.environ.get(MODE):
            self._ask_for_token()
        # Ray's own niceness of 15 keeps a shared cluster's head alive; here workers would starve beside other work.
        os.environ.setdefault("RAY_worker_niceness", "0")
        with on_loopback(), on_free_agent_port(), without_helpers():
            ray.init(address="local", num_cpus=cores, include_dashboard=False, **options)

    def made(self) -> None:
        """Note what Ray has changed in the environment."""
        self._after = dict(os.environ)

    def close(self) -> None:
        """Disconnect; a private cluster ends."""
        ray.shutdown()
        self._after = self._after or dict(os.environ)  # Ray did not start
        for name in self._before.keys() | self._after.keys():
            ours = self._after.get(name)
            if ours == self._before.get(name) or os.environ.get(name) != ours:
                continue
            if name in self._before:
                os.environ[name] = self._before[name]
            else:
                del os.environ[name]
        if self._folder is not None:
            forget_token()
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _ask_for_token(self) -> None:
        """Have Ray take a token of this cluster's own, from a file that only this user can read.

        Ray's own way writes one into the user's home, which later clusters trip over.
        """
        self._folder = tempfile.mkdtemp(prefix="distmeta-ray-")  # its owner's alone
        file = Path(self._folder, "token")
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as stream:
            stream.write(secrets.token_hex(32))
        os.environ.pop(_TOKEN, None)
        os.environ |= {MODE: "token", _TOKEN_PATH: str(file)}
        forget_token()
