"""Transports: how shards reach workers and records come back. One file each, one line in the table."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from importlib import import_module
from threading import Thread
from typing import TYPE_CHECKING

from distmeta.config.schema import Config
from distmeta.core.plan import Plan
from distmeta.workers.base import Check, Part, Transport, Workers

if TYPE_CHECKING:
    from distmeta.programs.deciding import RunPlan

TRANSPORTS: dict[str, str] = {
    "local": "distmeta.workers.local:LocalTransport",
    "ray": "distmeta.workers.ray.actors:RayTransport",
}
"""Imported when used: in-process runs never import Ray."""


def start_transport(config: Config, check: Check, meanwhile: Callable[[], None]) -> Transport:
    """The configured transport, its workers on their way: in process where ``cluster.workers`` is 0, else on Ray.

    Args:
        config: the resolved configuration.
        check: raises when the run should end.
        meanwhile: what has to be done before workers can open; on Ray it is done beside Ray's start, in a thread. What
            it raises is raised here, and the transport is closed.
    """
    local = config.cluster.workers == 0
    module, _, name = TRANSPORTS["local" if local else "ray"].partition(":")
    if local:
        meanwhile()
        opened: Transport = getattr(import_module(module), name)(config, check)
        return opened
    outcome: Future[None] = Future()
    # Ray itself has to be started by this thread: the processes that it starts end with the thread that started them.
    Thread(target=_settle, args=(outcome, meanwhile), name="prepare", daemon=True).start()
    transport: Transport = getattr(import_module(module), name)(config, check)
    try:
        outcome.result()
    except BaseException:
        transport.close()
        raise
    return transport


def _settle(outcome: Future[None], work: Callable[[], None]) -> None:
    try:
        work()
    except BaseException as error:
        outcome.set_exception(error)
    else:
        outcome.set_result(None)


def open_transport(config: Config, plan: Plan | RunPlan | None, check: Check) -> Transport:
    """The configured transport with its workers ready; see :func:`start_transport` and :meth:`Transport.open`."""
    transport = start_transport(config, check, lambda: None)
    try:
        transport.open(plan)
    except BaseException:
        transport.close()
        raise
    return transport


__all__ = ["TRANSPORTS", "Check", "Part", "Transport", "Workers", "open_transport", "start_transport"]
