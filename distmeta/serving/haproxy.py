"""Stands for HAProxy's program before Ray Serve: starts it with what Ray has written for it, mended.

Ray Serve's configuration shows HAProxy's statistics at all of this machine's addresses, does not tell replicas who
asks, gives a client an hour for a request's head, and lets clients share connections, of which a dying replica cuts off
those that come just after. And a HAProxy whose Ray is killed would go on listening.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

HEAD_WITHIN = 20
"""Seconds in which a request's head has to arrive."""

DIES_WITH_PARENT = 1
"""``PR_SET_PDEATHSIG`` of Linux."""


def mended(configuration: str, ports: Sequence[str]) -> str:
    """Ray's configuration with all of that changed.

    Args:
        configuration: as Ray has written it.
        ports: of the statistics.

    >>> print(mended("    option httplog\\n    bind :9101\\n    bind *:8000", ["9101"]))
        option forwardfor
        timeout http-request 20s
        bind 127.0.0.1:9101
        bind *:8000
    """
    shown = re.compile(rf"^( *bind )\*?:({'|'.join(ports)})$", re.MULTILINE)
    configuration = shown.sub(r"\g<1>127.0.0.1:\2", configuration)
    head = f"    option forwardfor\n    timeout http-request {HEAD_WITHIN}s"
    configuration = re.sub("^    option httplog$", head, configuration, flags=re.MULTILINE)
    return re.sub("^    http-reuse always$", "    http-reuse never", configuration, flags=re.MULTILINE)


def main(binary: str, statistics: str, metrics: str, *given: str) -> None:
    """Become HAProxy.

    Args:
        binary: HAProxy's program.
        statistics: a port.
        metrics: likewise.
        given: Ray's arguments.
    """
    for name in given:
        if name.endswith(".cfg"):
            file = Path(name)
            file.write_text(mended(file.read_text(), [statistics, metrics]))
    parent = os.getppid()
    ctypes.CDLL(None).prctl(DIES_WITH_PARENT, int(signal.SIGKILL))
    if os.getppid() == parent:  # it has not died before that
        os.execv(binary, [binary, *given])


if __name__ == "__main__":
    main(*sys.argv[1:])
