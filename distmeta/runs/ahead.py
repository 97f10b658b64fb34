"""What a command may do for a run before torch is there, whose import takes as long as Ray's own start."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from distmeta.config.schema import Config
from distmeta.runs.directory import RunDirectory

_MODULES = ("distmeta.runs.train", "tensorboardX")
"""What a run imports: the first brings torch, the second writes events."""


@contextmanager
def cluster_ahead(config: Config, run_dir: str, resume: bool) -> Iterator[None]:
    """Connect to the cluster of a new run, or start it, while what the run imports is imported.

    A run that is resumed may have ended long ago, and one in process has no cluster: for these nothing is done.

    Raises:
        StorageError: the directory holds a run already.
        ClusterError: there is no cluster at the address, or none can be started.
    """
    if resume or config.cluster.workers == 0:
        yield
        return
    RunDirectory(run_dir).check_free()
    from distmeta.workers.ray.cluster import connected_ahead  # now: a run in process never imports Ray

    with connected_ahead(config, _MODULES):
        yield
