"""Writes the report of a sweep's folder."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distmeta.errors import StorageError
from distmeta.runs.report.page import write_page
from distmeta.storage.files import Storage
from distmeta.sweeps.report import Curves, sweep_page
from distmeta.sweeps.results import TRIALS_FOLDER, read_results
from distmeta.sweeps.sweep import SWEEP
from distmeta.sweeps.trial import read_parts, read_validations


def is_sweep(storage: Storage) -> bool:
    """Whether a folder is a sweep's."""
    return storage.exists(SWEEP) and storage.exists(TRIALS_FOLDER)


def write_sweep_report(home: str | Path | Storage, out: str | Path | None = None) -> str:
    """Write the report of a sweep that has ended.

    Args:
        home: the sweep's folder.
        out: the file; ``report.html`` in the folder by default.

    Returns:
        Where it was written.

    Raises:
        StorageError: the sweep has not ended, or the file cannot be written.
    """
    storage = home if isinstance(home, Storage) else Storage.at(home)
    found = read_results(storage)
    if found is None:
        raise StorageError(f"the sweep {storage.location} has not ended; go on with distmeta tune ... --resume")
    html = sweep_page(found, _curves(storage, found), storage.location)
    return write_page(html, storage, out)


def _curves(storage: Storage, found: Mapping[str, Any]) -> Curves:
    """Validations of every trial, of its first run, in all its parts."""
    curves: dict[str, list[tuple[float, float]]] = {}
    seed = found.get("seeds", [0])[0]
    for trial in found["trials"]:
        measured: dict[int, float] = {}
        for part in read_parts(storage.child(TRIALS_FOLDER, trial["name"])):
            for step, values in read_validations(part.run(seed)).items():
                measured[step] = values.get(found["metric"], math.nan)
        curves[trial["name"]] = [(float(step), measured[step]) for step in sorted(measured)]
    return curves
