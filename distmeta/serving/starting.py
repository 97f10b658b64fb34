"""Starts and ends a service."""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from distmeta.config.schema import Config
from distmeta.errors import ClusterError, ConfigError
from distmeta.runs.inference import MetaLearner
from distmeta.runs.policies import PolicyLearner
from distmeta.serving.settings import ServeSettings
from distmeta.workers.bundle import modules_of

NAME = "distmeta"
ALL_HOSTS = "0.0.0.0"


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
        ClusterError: Ray or its HTTP server cannot be started.
    """
    if isinstance(learner, PolicyLearner):
        raise ConfigError("a policy adapts by acting in its task, which no request can; serve learners of examples")
    try:
        import ray
        from ray import serve
    except ImportError:
        raise ConfigError("serving needs an extra package: pip install distmeta[serve]") from None
    from distmeta.workers.ray.cluster import connect, first_line

    os.environ.setdefault("RAY_SERVE_LOG_TO_STDERR", "0")
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    config = _for_replicas(learner, replicas)
    connection = connect(config)
    # Of a cluster that others use nothing but this service may be ended.
    own = connection is not None and not (config.cluster.address or os.environ.get("RAY_ADDRESS"))
    store: Any = None
    try:
        try:
            store = _launch(learner, settings, host, port, replicas)
        except (RuntimeError, OSError, ValueError) as error:
            raise ClusterError(
                f"the service cannot start at {host}:{port}: {first_line(error)}; is the port in use?"
            ) from None
        yield f"http://{'127.0.0.1' if host == ALL_HOSTS else host}:{port}"
    finally:
        if own:
            serve.shutdown()
        else:
            serve.delete(NAME)
            if store is not None:
                ray.kill(store)
        if connection is not None:
            connection.close()


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
