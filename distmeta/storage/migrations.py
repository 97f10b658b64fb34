"""Manifests of older checkpoints, brought to the present format; their hashes are checked before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distmeta.config.migrations import Migration, renamed


def three_ways_of_running(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Version 2: ``plan.running`` takes the place of ``plan.mapped``, which was true or false; ``identity`` is there.

    Manifests of version 1 hold either, since the names changed before the version did.
    """
    changed = renamed({"identity": {}, **manifest}, "plan.mapped", "plan.running")
    plan = changed.get("plan")
    if isinstance(plan, dict) and isinstance(mapped := plan.get("running"), bool):
        changed["plan"] = {**plan, "running": "mapped" if mapped else "looped"}
    return changed


def frozen_weights_apart(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Version 3: ``frozen`` names the file of frozen weights that lies beside the checkpoints; there was none."""
    return {"frozen": None, **manifest}


MANIFEST_MIGRATIONS: dict[int, Migration] = {1: three_ways_of_running, 2: frozen_weights_apart}
"""By the version that each takes."""

ARTEFACT_MIGRATIONS: dict[int, Migration] = {}
"""The same of ``artefact.json``."""
