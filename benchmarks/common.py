"""What the benchmarks share: a description of the machine, its matrix-product rate, tables and files."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table


def machine() -> dict[str, Any]:
    """What figures depend on: processor, cores, GPU, versions."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return {
        "cpu": model,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "cores": len(os.sched_getaffinity(0)),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def product_rate(threads: int = 1, seconds: float = 1.0, size: int = 1536) -> float:
    """FLOP/s of float32 products of square matrices in this process, the best of repeated runs."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        a, b = torch.randn(size, size), torch.randn(size, size)
        out = torch.empty(size, size)
        best, until = float("inf"), time.perf_counter() + seconds
        while time.perf_counter() < until:
            began = time.perf_counter()
            torch.mm(a, b, out=out)
            best = min(best, time.perf_counter() - began)
        return 2 * size**3 / best
    finally:
        torch.set_num_threads(before)


_SHOWN: list[dict[str, Any]] = []
"""What was shown, which goes into the file as well, so that documents show the same."""


def show(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows that share their keys as a table; the first column is left-aligned."""
    cells = [[f"{value:.3g}" if isinstance(value, float) else str(value) for value in row.values()] for row in rows]
    _SHOWN.append({"title": title, "columns": list(rows[0]), "rows": cells})
    table = Table(title=title)
    for place, column in enumerate(rows[0]):
        table.add_column(column, justify="right" if place else "left")
    for row in cells:
        table.add_row(*row)
    Console().print(table)


def say(text: str) -> None:
    """Print a line that belongs to the figures."""
    _SHOWN.append({"text": text})
    Console().print(text)


def write(path: Path | None, name: str, figures: Mapping[str, Any]) -> None:
    """Write the figures beside the machine's description and all that was shown as JSON, if a path is given."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"benchmark": name, "machine": machine(), **figures, "shown": _SHOWN}
        path.write_text(json.dumps(content, indent=2) + "\n")
