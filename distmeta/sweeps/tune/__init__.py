"""Sweeps from Python; Ray comes with the first one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from distmeta.runs.evaluate import Progress
from distmeta.sweeps.sweep import Sweep, load_sweep
from distmeta.sweeps.view import View
from distmeta.workers import Check


def tune(
    sweep: Sweep | str | Path | Mapping[str, Any],
    overrides: Iterable[str] = (),
    run_dir: str | Path | None = None,
    *,
    resume: bool = False,
    address: str | None = None,
    trust_code: bool = False,
    accept_changes: bool = False,
    check: Check = lambda: None,
    view: View | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Search settings over whole runs, and meta-test the best one.

    Args:
        sweep: from :func:`~distmeta.sweeps.sweep.load_sweep`, or what that takes.
        overrides: ``key=value`` changes, for what is not loaded yet.
        run_dir: where the sweep's files go, a path or a URI; ``run.dir``/``name`` by default.
        resume: continue the sweep that lies there: trials that have ended are kept, the others go on from their
            checkpoints. Without a sweep there it starts one, finished it does nothing.
        address: of a running Ray cluster; without one Ray starts on this machine alone.
        trust_code: run code that a file in the folder of a run or a sweep names, where ``sweep`` is one, and resume a
            sweep whose folder is not the caller's alone, though Ray Tune's state in it is unpickled.
        accept_changes: resume though the data, the user's code or frozen weights are not those that the trials were
            computed with; what has changed is recorded in each trial's ``metrics.jsonl`` and checkpoints.
        check: called often; raises when the sweep should end.
        view: is shown the trials as they go.
        progress: called as the meta-test at the end advances.

    Returns:
        The content of ``results.json``: ``best`` (``trial``, ``values``, ``score``, ``step``, ``checkpoint``,
        ``meta_test``) and all ``trials``, the best first.

    Raises:
        DistmetaError: see its subclasses; what the trials have done is kept.
    """
    from distmeta.sweeps.tune.search import run_sweep

    loaded = sweep if isinstance(sweep, Sweep) else load_sweep(sweep, overrides, trust_code=trust_code)
    return run_sweep(
        loaded,
        run_dir,
        resume=resume,
        address=address,
        trust_code=trust_code,
        accept_changes=accept_changes,
        check=check,
        view=view,
        progress=progress,
    )
