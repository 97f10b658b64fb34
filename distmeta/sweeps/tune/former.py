"""Sweeps that an older version of distmeta began: Ray Tune's state of them calls our classes by the names of then."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

FORMER = {
    "distmeta.sweep": "distmeta.sweeps.tune.search",
    "distmeta.sweep_config": "distmeta.sweeps.sweep",
    "distmeta.sweep_points": "distmeta.sweeps.points",
    "distmeta.sweep_schedulers": "distmeta.sweeps.tune.schedulers",
    "distmeta.sweep_sections": "distmeta.sweeps.sections",
    "distmeta.sweep_trial": "distmeta.sweeps.trial",
    "distmeta.sweep_watch": "distmeta.sweeps.tune.watch",
}
"""Modules of distmeta 0.1 that such states name, and where their content is now."""


@contextmanager
def former_names() -> Iterator[None]:
    """Within the block a pickle finds what these modules had."""
    added = {name: import_module(now) for name, now in FORMER.items() if name not in sys.modules}
    sys.modules.update(added)
    try:
        yield
    finally:
        for name in added:
            del sys.modules[name]
