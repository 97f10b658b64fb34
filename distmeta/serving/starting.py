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
        from ray import serve
        from ray.serve.config import HTTPOptions
        from ray.serve.schema import LoggingConfig
    except ImportError:
        raise ConfigError("serving needs an extra package: pip install distmeta[serve]") from None
    from distmeta.serving.models import ModelStore
    from distmeta.serving.service import Service
    from distmeta.workers.ray.cluster import connect, first_line

    os.environ.setdefault("RAY_SERVE_LOG_TO_STDERR", "0")
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    connection = connect(_for_replicas(learner, replicas))
    try:
        quiet = LoggingConfig(log_level="WARNING", enable_access_log=False)
        options = HTTPOptions(host=host, port=port, request_timeout_s=120)
        store_class: Any = ModelStore  # Ray's decorator adds to the class
        try:
            serve.start(http_options=options, logging_config=quiet)
            store = store_class.options(max_restarts=0).remote(settings.models, settings.kept_bytes, settings.ttl)
            given = (pickle.dumps(learner), modules_of(learner.config), settings, store)
            gpus = 1 if learner.device.type == "cuda" else 0
            actor = {"num_cpus": learner.config.run.threads, "num_gpus": gpus}
            service: Any = Service
            bound = service.options(num_replicas=replicas, ray_actor_options=actor).bind(*given)
            serve.run(bound, name=NAME, route_prefix="/", logging_config=quiet)
        except (RuntimeError, OSError, ValueError) as error:
            raise ClusterError(
                f"the service cannot start at {host}:{port}: {first_line(error)}; is the port in use?"
            ) from None
        yield f"http://{'127.0.0.1' if host == ALL_HOSTS else host}:{port}"
    finally:
        serve.shutdown()
        if connection is not None:
            connection.close()


def _for_replicas(learner: MetaLearner, replicas: int) -> Config:
    """The configuration whose workers are the replicas."""
    config = learner.config
    changed = {"workers": replicas, "cpus_per_worker": float(config.run.threads)}
    return config.model_copy(update={"cluster": config.cluster.model_copy(update=changed)})
