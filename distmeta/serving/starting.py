"""Starts and ends a service."""

from __future__ import annotations

import logging
import os
import pickle
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from importlib.util import find_spec
from typing import Any
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

from distmeta.config.schema import Config
from distmeta.errors import ClusterError, ConfigError
from distmeta.runs.inference import MetaLearner
from distmeta.runs.policies import PolicyLearner
from distmeta.serving.proxy import through_haproxy
from distmeta.serving.settings import ServeSettings
from distmeta.workers.bundle import modules_of

NAME = "distmeta"
ALL_HOSTS = "0.0.0.0"

STARTING_TIME = 30.0
"""Seconds in which what has been started has to answer."""

ENDING_TIME = 60.0
"""Seconds in which a service that is being ended has to be gone."""


@contextmanager
def serving(
    learner: MetaLearner, settings: ServeSettings, *, host: str = "127.0.0.1", port: int = 8000, replicas: int = 1
) -> Iterator[str]:
    """Serve a learner within the block; gives the address.

    It joins the cluster at the learner's ``cluster.address``, or starts a Ray of its own on this machine.

    Args:
        learner: of :func:`~distmeta.runs.learners.load`.
        settings: limits and the like.
        host: to listen at.
        port: likewise.
        replicas: processes that answer.

    Raises:
        ConfigError: the learner is a policy, or ``ray[serve]`` is missing.
        ClusterError: Ray or its HTTP server cannot be started, or this Ray serves something else there.
    """
    if isinstance(learner, PolicyLearner):
        raise ConfigError("a policy adapts by acting in its task, which no request can; serve learners of examples")
    if find_spec("starlette") is None:
        raise ConfigError("serving needs an extra package: pip install distmeta[serve]")
    from ray.exceptions import RayError

    from distmeta.workers.ray.cluster import first_line

    os.environ.setdefault("RAY_SERVE_LOG_TO_STDERR", "0")
    with ExitStack() as started:
        own = started.enter_context(_joined(_for_replicas(learner, replicas)))
        if own:
            _check_free(host, port)
        started.callback(_ending(host, port))
        try:
            store = _launch(learner, settings, host, port, replicas)
        except (RayError, RuntimeError, OSError, ValueError) as error:
            raise ClusterError(f"the service cannot start at {host}:{port}: {first_line(error)}") from None
        started.callback(_end_store, store)
        address = f"http://{'127.0.0.1' if host == ALL_HOSTS else host}:{port}"
        if own:
            _await(address)
        yield address


@contextmanager
def _joined(config: Config) -> Iterator[bool]:
    """A connection to the Ray that serves; gives whether it is this service's own."""
    import ray

    from distmeta.workers.ray.cluster import connect

    own = not (config.cluster.address or os.environ.get("RAY_ADDRESS") or ray.is_initialized())
    with through_haproxy() if own else nullcontext():
        connection = connect(config)
        try:
            yield own
        finally:
            if connection is not None:
                connection.close()


def _check_free(host: str, port: int) -> None:
    """Refuse a port that another program has: Serve's would share it, and each get some of the requests."""
    try:
        with socket.create_server((host, port)):
            pass
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise ClusterError(f"the service cannot listen at {host}:{port} ({reason}); choose another --port") from None


def _ending(host: str, port: int) -> Callable[[], None]:
    """What ends the service, and of Ray Serve what nobody else uses.

    Raises:
        ClusterError: this Ray has a service already, or its Serve listens elsewhere.
    """
    from ray import serve

    from distmeta.serving.internals import listening

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    there = listening()
    if there is None:
        return lambda: serve.delete(NAME) if set(serve.status().applications) - {NAME} else serve.shutdown()
    if _is_there():
        raise ClusterError(
            "this Ray cluster has a service of distmeta already; end it, or leave out cluster.address and RAY_ADDRESS "
            "to start this one on a Ray of its own"
        )
    if there != (host, port):
        raise ClusterError(
            f"the service cannot listen at {host}:{port}: Ray Serve on this cluster listens at {there[0]}:{there[1]} "
            f"already, with all that it serves; pass --host {there[0]} --port {there[1]}, or end it by `serve shutdown`"
        )
    return lambda: serve.delete(NAME)


def _is_there() -> bool:
    """Whether this Ray has a service, after the end of one that is being ended: its replicas may take their time."""
    from ray import serve
    from ray.exceptions import RayError

    end = time.monotonic() + ENDING_TIME
    while True:
        try:
            found = serve.status().applications.get(NAME)
        except RayError:
            raise ClusterError("Ray Serve on this cluster is just being ended; start the service again") from None
        if found is None or found.status != "DELETING" or time.monotonic() > end:
            return found is not None
        time.sleep(0.5)


def _end_store(store: Any) -> None:
    import ray

    ray.kill(store)


def _await(address: str) -> None:
    """Wait until the address answers: what stands before the replicas hears of them a moment later than we do."""
    end = time.monotonic() + STARTING_TIME
    opener = build_opener(ProxyHandler({}))  # whatever proxy the environment names for others
    while True:
        try:
            with opener.open(f"{address}/health", timeout=STARTING_TIME):
                return
        except (URLError, OSError) as error:
            if time.monotonic() > end:
                raise ClusterError(f"the service has started and does not answer at {address}: {error}") from None
        time.sleep(0.05)


def _launch(learner: MetaLearner, settings: ServeSettings, host: str, port: int, replicas: int) -> Any:
    """Start what answers; gives the store of its models."""
    from ray import serve
    from ray.serve.config import HTTPOptions
    from ray.serve.schema import LoggingConfig

    from distmeta.serving.models import ModelStore
    from distmeta.serving.service import Service

    quiet = LoggingConfig(log_level="WARNING", enable_access_log=False)
    serve.start(http_options=HTTPOptions(host=host, port=port, request_timeout_s=120), logging_config=quiet)
    store_class: Any = ModelStore  # Ray's decorators add to the classes
    service: Any = Service
    store = store_class.options(max_restarts=0).remote(settings.models, settings.kept_bytes, settings.ttl)
    given = (pickle.dumps(learner), modules_of(learner.config), settings, store)
    actor = {"num_cpus": learner.config.run.threads, "num_gpus": 1 if learner.device.type == "cuda" else 0}
    bound = service.options(num_replicas=replicas, ray_actor_options=actor).bind(*given)
    serve.run(bound, name=NAME, route_prefix="/", logging_config=quiet)
    return store


def _for_replicas(learner: MetaLearner, replicas: int) -> Config:
    """The configuration whose workers are the replicas."""
    config = learner.config
    changed = {"workers": replicas, "cpus_per_worker": float(config.run.threads)}
    return config.model_copy(update={"cluster": config.cluster.model_copy(update=changed)})
