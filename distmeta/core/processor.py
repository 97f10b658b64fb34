"""What this host's processor says of itself."""

from __future__ import annotations

import platform
from pathlib import Path


def processor(*starts: str) -> list[str]:
    """The lines of ``/proc/cpuinfo`` that start so, each once and sorted; elsewhere what Python knows, in a line.

    >>> processor("there is no such line")
    []
    """
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return [platform.processor()]
    return sorted({line for line in lines if line.startswith(starts)})
