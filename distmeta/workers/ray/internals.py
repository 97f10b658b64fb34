"""What distmeta uses of Ray that Ray does not promise to keep: all of it, each name in one function.

A release of Ray that takes one away makes a test of ``tests/workers/test_ray_internals.py`` fail, which names it. Of
Tune: :mod:`distmeta.sweeps.tune.internals`; of Serve: :mod:`distmeta.serving.internals`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray import _raylet
from ray._private import parameter, ray_constants
from ray._private import worker as ray_worker
from ray._private.node import Node
from ray._private.state import state as cluster_state

RAY_LOGGERS = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
"""Loggers of Ray's job client that tell of every step."""

HELPERS = ("start_monitor", "start_log_monitor", "start_api_server")
"""Methods of a Ray node that start what a private cluster goes without."""


@contextmanager
def on_loopback() -> Iterator[None]:
    """Let Ray use the loopback address.

    It does so only where it believes that the platform has no clusters (as on macOS); on Linux it replaces 127.0.0.1 by
    the machine's own address.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = "0"
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
        del os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR]


@contextmanager
def without_helpers() -> Iterator[None]:
    """Let Ray start without processes of which a run on this machine has no use: ``ray.init`` has no switch for them.

    They are the autoscaler's, the one that forwards logs, and a dashboard's that shows nothing; all are Python, and
    importing what they need takes as long as a worker's start.
    """
    before = {name: getattr(Node, name) for name in HELPERS}

    def no_dashboard(node: Any, **_: Any) -> None:
        node._webui_url = ""

    Node.start_monitor = Node.start_log_monitor = lambda _: None
    Node.start_api_server = no_dashboard
    try:
        yield
    finally:
        for name, start in before.items():
            setattr(Node, name, start)


@contextmanager
def on_free_agent_port() -> Iterator[None]:
    """Let Ray's agent listen on a port that is free: ``ray.init`` has no switch for it.

    Its own is the same for every Ray of a machine, and only the first gets it: the others try for three seconds, in
    which they do nothing else.
    """
    before: Any = parameter.RayParams

    class Parameters(before):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{"dashboard_agent_listen_port": 0, **options})

    parameter.RayParams = Parameters
    try:
        yield
    finally:
        parameter.RayParams = before


def forget_token() -> None:
    """Make Ray read its mode of authentication and its token from the environment again.

    In this order: a thread that is just ending could ask for a token that is gone.
    """
    raylet: Any = _raylet  # compiled, without types
    raylet.Config.initialize("")
    raylet.AuthenticationTokenLoader.instance().reset_cache()


def silence_errors() -> None:
    """Keep what Ray says of lost workers off standard output; for it Ray has no switch.

    Its thread that prints what the cluster reports ends here.
    """
    ray_worker.global_worker.threads_stopped.set()
    ray_worker.global_worker.gcs_error_subscriber.close()


def draining_nodes() -> dict[str, int]:
    """Ids of nodes that are about to leave, and when (milliseconds since 1970; 0 where nobody said)."""
    deadlines: dict[str, int] = cluster_state.get_draining_nodes()
    return deadlines


def most_resources() -> dict[str, float]:
    """What the autoscaler may bring the cluster to; nothing where there is none."""
    return dict(cluster_state.get_max_resources_from_cluster_config() or {})


def job_client(timeout: tuple[float, float]) -> Any:
    """Ray's job client, with a time limit for every request; of its own it has none.

    Args:
        timeout: seconds to connect, and to wait for an answer.
    """
    from ray.job_submission import JobSubmissionClient

    class Client(JobSubmissionClient):  # type: ignore[misc]
        def _do_request(self, *args: Any, **options: Any) -> Any:
            return super()._do_request(*args, timeout=timeout, **options)

    return Client()
