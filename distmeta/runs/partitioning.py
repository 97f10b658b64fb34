"""``distmeta data partition``: clusters of training images, for tasks without labels."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import adaptive_avg_pool2d

from distmeta.config.schema import Config
from distmeta.config.sections import TaskOptions
from distmeta.core.hashing import content_hash, sha256
from distmeta.core.quoting import shown
from distmeta.core.records import shapes_of
from distmeta.core.secrets import mask
from distmeta.data.clustering import check_clusters, partitions_of, standardised, whitened
from distmeta.data.partitions import write_partitions
from distmeta.errors import ConfigError
from distmeta.runs.embedding import Embedding, embed
from distmeta.runs.inference import MetaLearner
from distmeta.runs.learners import load
from distmeta.tasks import TASKS
from distmeta.tasks.images import ImageFamily
from distmeta.tasks.options import ImageOptions, UnlabelledOptions

log = logging.getLogger(__name__)

PIXELS = "pixels"
"""The embedding that needs no network."""

COMPONENTS = 64
"""Principal components of the pixels."""

SIDE = 32
"""Pixels along each side, at most: the covariance of more would fill the memory."""

NamedProgress = Callable[[str, int, int], None]
"""Called with what is counted, the number done, and their total."""


def make_partitions(
    config: Config,
    embedding: str,
    out: str | Path,
    *,
    clusters: int = 500,
    partitions: int = 100,
    seed: int = 0,
    trust_code: bool = False,
    progress: NamedProgress = lambda *_: None,
) -> Path:
    """Cluster the training images of a configuration's tasks, of whose classes nothing is used.

    Args:
        config: its ``tasks``, or their ``source``, name the images.
        embedding: a run directory or checkpoint, whose features are clustered, each with variance 1; or ``pixels``,
            their leading principal components with variance 1, which are a weaker baseline.
        out: the file.
        clusters: of each partition.
        partitions: each on dimensions that are scaled otherwise.
        seed: fixes scales and first centres.
        trust_code: run the code that the run names, as in :func:`~distmeta.runs.inference.load`.
        progress: called as images and partitions are done.

    Raises:
        ConfigError: the tasks have no images, the network takes others, there are fewer images than clusters, or
            scikit-learn is missing.
        DataError: data is missing or damaged, or the file cannot be written.
        StorageError: there is no usable checkpoint.
        TrustError: the run names code that nobody has allowed.
    """
    options = images_of(config)
    if clusters < 2 or partitions < 1:
        raise ConfigError(f"--clusters = {clusters}, --partitions = {partitions}: expected at least 2 and 1")
    if embedding != PIXELS:
        learner = load(embedding, trust_code=trust_code)
        check_inputs(learner, options, embedding)
    family = TASKS[options.kind]
    family.prepare(options, {})
    options = options.with_fitted(family.fit(options, {}))
    opened: Any = family(options, {}, torch.device("cpu"))
    pool = opened.pool("train")
    check_clusters(len(pool), clusters)

    def fetch(places: NDArray[np.int64]) -> torch.Tensor:
        images: torch.Tensor = opened.images(pool, places)
        return images

    compute = pixels_of if embedding == PIXELS else Embedding(learner)
    embedded = embed(compute, fetch, len(pool), seed, lambda done, total: progress("images", done, total))
    if embedding == PIXELS:
        embedded, source = whitened(embedded, COMPONENTS), {"pixels": str(COMPONENTS)}
    else:
        embedded, source = standardised(embedded), {"run": mask(embedding), "parameters": _digest(learner)}
    labels = partitions_of(
        embedded, clusters, partitions, seed, lambda done, total: progress("partitions", done, total)
    )
    made_of = {"images": pool.digest, "data": pool.data, "seed": str(seed), "clusters": str(clusters), **source}
    write_partitions(Path(out), labels, made_of)
    return Path(out)


def pixels_of(images: torch.Tensor) -> torch.Tensor:
    """Pixels (N, D) of images (N, C, H, W); sides of more than ``SIDE`` are averaged down to it.

    >>> pixels_of(torch.ones(2, 3, 84, 28)).shape
    torch.Size([2, 2688])
    """
    height, width = (min(side, SIDE) for side in images.shape[-2:])
    return adaptive_avg_pool2d(images, (height, width)).flatten(1)


def images_of(config: Config) -> ImageOptions:
    """The settings of the image family that a configuration's tasks come from.

    Raises:
        ConfigError: they come from none.
    """
    options: TaskOptions = config.tasks
    if isinstance(options, UnlabelledOptions):
        options = options.source
    if not isinstance(options, ImageOptions) or not issubclass(TASKS[options.kind], ImageFamily):
        raise ConfigError(
            f"tasks.kind = {shown(options.kind)}: only images can be partitioned; name a configuration whose tasks are "
            "of images, for example of kind omniglot"
        )
    return options


def check_inputs(learner: MetaLearner, options: ImageOptions, embedding: str) -> None:
    """Refuse a network of other images; say where labels come in.

    Raises:
        ConfigError: its examples have another shape.
    """
    own = learner.config.tasks
    takes = shapes_of(TASKS[own.kind].spec(own).inputs)
    has = shapes_of(TASKS[options.kind].spec(options).inputs)
    if takes != has:
        raise ConfigError(
            f"--embedding = {shown(embedding)}: its network takes examples of shape {takes}, and the images are {has}; "
            "use a run on images of this shape"
        )
    if not isinstance(own, UnlabelledOptions):
        log.warning(
            "%s was trained with labels (tasks.kind = %s), and so its clusters know of them", embedding, own.kind
        )


def _digest(learner: MetaLearner) -> str:
    """SHA-256 of the network's parameters and of what else the learner has."""
    return sha256(json.dumps({name: content_hash(value) for name, value in sorted(learner.meta.items())}).encode())
