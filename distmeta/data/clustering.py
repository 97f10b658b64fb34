"""Clusters of embeddings, for tasks without labels: k-means on randomly scaled dimensions."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from distmeta.core.philox import Purpose, uniform, words
from distmeta.data.partitions import Labels
from distmeta.errors import ConfigError

Embeddings = NDArray[np.float32]
CountedProgress = Callable[[int, int], None]
"""Called with the number of partitions done and their total."""

ITERATIONS = 50
"""Of k-means, at most."""


def standardised(features: Embeddings) -> Embeddings:
    """The features with mean 0 and variance 1, so that k-means weighs them alike; those that are constant become 0.

    >>> standardised(np.array([[0, 3], [4, 3]], np.float32)).tolist()
    [[-1.0, 0.0], [1.0, 0.0]]
    """
    centred = features - features.mean(0, dtype=np.float64)
    deviation = centred.std(0)
    result: Embeddings = (centred / np.where(deviation > 1e-6 * np.abs(features).max(0), deviation, np.inf)).astype(
        np.float32
    )
    return result


def whitened(pixels: Embeddings, components: int) -> Embeddings:
    """The leading principal components, each of variance 1: ``(x - mean) V_k / sqrt(lambda_k)``.

    Args:
        pixels: (M, D), M > 1.
        components: how many, at most; such without variance are left out.

    >>> points = np.array([[0, 1], [4, 1], [0, 1], [4, 1]], np.float32)
    >>> np.abs(whitened(points, 2)).tolist()
    [[1.0], [1.0], [1.0], [1.0]]
    """
    centred = pixels - pixels.mean(0, dtype=np.float64).astype(np.float32)
    covariance = (centred.T @ centred).astype(np.float64) / len(pixels)
    values, vectors = np.linalg.eigh(covariance)
    largest = np.argsort(-values, kind="stable")[:components]
    largest = largest[values[largest] > 1e-6 * values.max(initial=0)]
    projection = vectors[:, largest] / np.sqrt(values[largest])
    result: Embeddings = centred @ projection.astype(np.float32)
    return result


def check_clusters(examples: int, clusters: int) -> None:
    """Refuse clusters that cannot be made.

    Raises:
        ConfigError: there are fewer examples than clusters, or scikit-learn is missing.
    """
    if examples < clusters:
        raise ConfigError(f"--clusters = {clusters}: there are {examples:,} images; ask for at most as many clusters")
    try:
        import sklearn.cluster  # noqa: F401
    except ImportError:
        raise ConfigError("clusters are made by scikit-learn; install it: pip install distmeta[unlabelled]") from None


def partitions_of(
    embeddings: Embeddings, clusters: int, partitions: int, seed: int = 0, progress: CountedProgress | None = None
) -> Labels:
    """Several partitions of the same examples into clusters (CACTUs: Hsu, Levine, Finn, ICLR 2019, section 3).

    Partition p is k-means on ``z diag(u_p)``, every entry of ``u_p`` uniform in [0, 1): of each partition other
    dimensions decide. One partition is computed by one thread, so that sums are added in one order.

    Args:
        embeddings: (M, D) z.
        clusters: k.
        partitions: P.
        seed: fixes scales and first centres.
        progress: called after each partition.

    Returns:
        (P, M) int32, the cluster of each example.

    Raises:
        ConfigError: as of :func:`check_clusters`.

    >>> left, right = np.zeros((5, 2), np.float32), np.ones((5, 2), np.float32)
    >>> both = partitions_of(np.concatenate([left, right]), clusters=2, partitions=3)
    >>> both.shape, bool((both[:, :5] != both[:, 5:]).all())
    ((3, 10), True)
    """
    check_clusters(len(embeddings), clusters)
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    numbers = range(partitions)
    drawn = words(seed, "train", numbers, Purpose.PARTITION, 1 + embeddings.shape[1])

    def one(number: int) -> Labels:
        scaled = embeddings * uniform(drawn[number, 1:]).astype(np.float32)
        # Lloyd's algorithm: the other one is as exact, and needs memory for examples times clusters.
        kmeans = KMeans(clusters, n_init=1, max_iter=ITERATIONS, random_state=int(drawn[number, 0]), algorithm="lloyd")
        labels: Labels = kmeans.fit(scaled).labels_.astype(np.int32)
        return labels

    found = []
    with threadpool_limits(1), ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = [pool.submit(one, number) for number in numbers]
        try:
            for done, job in enumerate(jobs, 1):
                found.append(job.result())
                if progress is not None:
                    progress(done, partitions)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    return np.stack(found)
