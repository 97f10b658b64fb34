"""Transports: how shards reach workers and records come back. One file each, one line in the table."""

from __future__ import annotations

from importlib import import_module

from distmeta.config import Config
from distmeta.plan import Plan, RunPlan
from distmeta.transports.base import Check, Kind, Part, Transport, Workers

TRANSPORTS: dict[str, str] = {
    "local": "distmeta.transports.local:LocalTransport",
    "ray": "distmeta.transports.ray_actors:RayTransport",
}
"""Imported when used: in-process runs never import Ray."""


def open_transport(config: Config, plan: Plan | RunPlan | None, check: Check) -> Transport:
    """The configured transport with its workers ready: in process where ``cluster.workers`` is 0, else on Ray.

    Args:
        config: the resolved configuration.
        plan: the plan of a run that is resumed; that of a run that is evaluated, for the first worker to take or to
            replace; ``None`` lets the first worker decide.
        check: raises when the run should end.
    """
    module, _, name = TRANSPORTS["local" if config.cluster.workers == 0 else "ray"].partition(":")
    transport: Transport = getattr(import_module(module), name)(config, plan, check)
    return transport


__all__ = ["TRANSPORTS", "Check", "Kind", "Part", "Transport", "Workers", "open_transport"]
