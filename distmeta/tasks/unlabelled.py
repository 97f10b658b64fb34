"""Tasks from images without labels: classes are made of single images (UMTRA) or of clusters (CACTUs)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distmeta.config.sections import TaskOptions
from distmeta.core.philox import Purpose, distinct, integers, words
from distmeta.core.quoting import shown
from distmeta.core.records import Split, TaskBatch, TensorSpec
from distmeta.data.partitions import Partitions
from distmeta.errors import ConfigError, DataError
from distmeta.tasks.augmentation import TaskPart, augment, check_augmentation
from distmeta.tasks.base import Episode, TaskFamily, TaskSpec
from distmeta.tasks.images import ImageFamily
from distmeta.tasks.options import ImageOptions, UnlabelledOptions
from distmeta.tasks.pool import ImagePool

PARTITION = "partition.safetensors"
"""The file of partitions, as workers on other hosts have it."""

Chosen = NDArray[np.int64]
"""(T, ways, examples): places of images in a pool."""


class RandomImages:
    """UMTRA: every class of a task is one image, drawn at random; further examples are changed copies of it.

    Khodadadeh, Boloni, Shah: "Unsupervised meta-learning for few-shot image classification", NeurIPS 2019, algorithm 1.
    Two images of a task are mostly of different classes where there are many more classes than ways.
    """

    copies = True

    def __init__(self, pool: ImagePool, episode: Episode) -> None:
        assert episode.ways is not None
        if episode.ways > len(pool):
            raise ConfigError(
                f"tasks.ways = {episode.ways}: there are {len(pool):,} training images; use at most as many ways"
            )
        self._pool, self._episode, self._ways = pool, episode, episode.ways

    def draw(self, ids: Sequence[int]) -> Chosen:
        """The images of these tasks, each as often as its class has examples."""
        drawn = words(self._episode.seed, "train", ids, Purpose.EXAMPLES, self._ways)
        chosen = distinct(drawn, len(self._pool))
        return np.repeat(chosen[..., None], self._episode.shots + self._episode.queries, axis=-1)


class Clusters:
    """CACTUs: the classes of a task are clusters of one partition, its examples their distinct members.

    Hsu, Levine, Finn: "Unsupervised learning via meta-learning", ICLR 2019, algorithm 1. Clusters with fewer members
    than a class of a task has examples are never drawn.
    """

    copies = False

    def __init__(self, pool: ImagePool, episode: Episode, partitions: Partitions) -> None:
        assert episode.ways is not None
        self._episode, self._ways = episode, episode.ways
        self._needed = episode.shots + episode.queries
        _check_pool(pool, partitions)
        labels = partitions.labels
        number, clusters = len(labels), int(labels.max()) + 1
        apart = (labels + clusters * np.arange(number)[:, None]).reshape(-1)
        self._counts = np.bincount(apart, minlength=number * clusters).reshape(number, clusters)
        self._first = np.cumsum(self._counts, 1) - self._counts
        self._order = np.argsort(labels, axis=1, kind="stable").astype(np.int32)
        large = self._counts >= self._needed
        self._large, self._usable = np.argsort(~large, axis=1, kind="stable"), large.sum(1)
        fewest = int(self._usable.argmin())
        if self._usable[fewest] < self._ways:
            raise ConfigError(
                f"tasks.ways = {self._ways}: only {self._usable[fewest]} of {clusters} clusters of partition {fewest} "
                f"in {shown(str(partitions.path))[1:-1]} have tasks.shots + tasks.queries = {self._needed} images or "
                "more; use fewer ways, shots or queries, or make partitions with fewer --clusters"
            )

    def draw(self, ids: Sequence[int]) -> Chosen:
        """The images of these tasks."""
        seed = self._episode.seed
        partition = integers(words(seed, "train", ids, Purpose.PARTITION, 1), len(self._counts))
        drawn = words(seed, "train", ids, Purpose.CLASSES, self._ways)
        clusters = self._large[partition, distinct(drawn, self._usable[partition[:, 0]])]
        counts, first = self._counts[partition, clusters], self._first[partition, clusters]
        drawn = words(seed, "train", ids, Purpose.EXAMPLES, self._ways * self._needed)
        members = distinct(drawn.reshape(-1, self._needed), counts.reshape(-1)).reshape(*counts.shape, self._needed)
        chosen: Chosen = self._order[partition[..., None], first[..., None] + members].astype(np.int64)
        return chosen


class Unlabelled(TaskFamily):
    """Classification tasks from the training images of an image family, of whose classes nothing is known here.

    Training tasks are drawn from an :class:`~distmeta.tasks.pool.ImagePool`, which has no classes, by
    :class:`RandomImages` or :class:`Clusters`. Validation and test tasks are those of the family itself: labelled
    classes that were not trained on.

    >>> import os, tempfile
    >>> os.environ["DISTMETA_CACHE"] = tempfile.mkdtemp()
    >>> options = UnlabelledOptions(kind="unlabelled", source={"kind": "glyphs"}, augment={"rotation": 20, "shift": 3})
    >>> family = Unlabelled(options, {"train": Episode(shots=1, queries=3, seed=0, ways=5)}, torch.device("cpu"))
    >>> family.sample("train", range(8)).query["x"].shape
    torch.Size([8, 15, 1, 28, 28])
    """

    Options: type[TaskOptions] = UnlabelledOptions

    def __init__(self, options: TaskOptions, episodes: Mapping[Split, Episode], device: torch.device) -> None:
        own = _own(options)
        check_augmentation(own.augment, _image_shape(own))
        self._augment, self._episode, self._device = own.augment, episodes["train"], device
        self._source = _family(own)(_images_of(own), _held_out(episodes), device)
        self._pool = self._source.pool("train")
        self._tasks: RandomImages | Clusters
        if own.method == "umtra":
            self._tasks = RandomImages(self._pool, self._episode)
        else:
            self._tasks = Clusters(self._pool, self._episode, Partitions.open(_partition(own)))

    @classmethod
    def prepare(cls, options: TaskOptions, episodes: Mapping[Split, Episode]) -> None:
        """Prepare the family of the images, and check the episodes; raises as opening does."""
        _family(_own(options)).prepare(_images_of(_own(options)), _held_out(episodes))
        cls(options, episodes, torch.device("cpu"))

    @classmethod
    def fit(cls, options: TaskOptions, episodes: Mapping[Split, Episode]) -> Mapping[str, Any] | None:
        """What the family of the images learns."""
        return _family(_own(options)).fit(_own(options).source, _held_out(episodes))

    @classmethod
    def holdings(cls, options: TaskOptions) -> Mapping[str, Path]:
        """What the family of the images holds, and the partitions."""
        own = _own(options)
        partition = {PARTITION: _partition(own)} if own.method == "cactus" else {}
        return {**_family(own).holdings(_images_of(own)), **partition}

    @classmethod
    def moved(cls, options: TaskOptions, folder: Path) -> TaskOptions:
        """With the images and the partitions in this folder."""
        own = _own(options)
        partition = str(folder / PARTITION) if own.method == "cactus" else None
        return own.model_copy(update={"source": _family(own).moved(_images_of(own), folder), "partition": partition})

    @classmethod
    def contents(cls, options: TaskOptions) -> Mapping[str, str]:
        """The hashes of the images and of the partitions."""
        own = _own(options)
        partition = {"partition": Partitions.open(_partition(own)).content_hash} if own.method == "cactus" else {}
        return {**_family(own).contents(_images_of(own)), **partition}

    @classmethod
    def spec(cls, options: TaskOptions) -> TaskSpec:
        """An image of the family in, the training ways out."""
        own = _own(options)
        return TaskSpec(_family(own).spec(_images_of(own)).inputs, outputs=own.ways)

    @classmethod
    def picture(cls, options: TaskOptions, content: bytes) -> Tensor:
        """As the images' own family reads it."""
        own = _own(options)
        return _family(own).picture(_images_of(own), content)

    def sample(self, split: Split, ids: Sequence[int]) -> TaskBatch:
        """These tasks: ``x`` (T, N, C, H, W) float32 in [0, 1] and ``y`` (T, N) int64, class by class."""
        if split != "train":
            return self._source.sample(split, ids)
        chosen, shots = self._tasks.draw(ids), self._episode.shots
        support = self._data(ids, chosen[:, :, :shots], "support")
        query = self._data(ids, chosen[:, :, shots:], "query")
        return TaskBatch(torch.from_numpy(np.array(ids, dtype=np.int64)), support, query)

    def _data(self, ids: Sequence[int], chosen: Chosen, part: TaskPart) -> dict[str, Tensor]:
        """``x`` and ``y`` of these images (T, ways, examples)."""
        tasks, ways, examples = chosen.shape
        flat = self._source.images(self._pool, chosen.reshape(-1))
        images = flat.view(tasks, ways * examples, *flat.shape[1:])
        seed = self._episode.seed
        x = augment(images, self._augment, seed=seed, split="train", ids=ids, part=part)
        if self._tasks.copies and part == "support":
            # The image itself is the first example of its class; the others are copies.
            first = torch.arange(ways * examples, device=x.device) % examples == 0
            x = torch.where(first[:, None, None, None], images, x)
        y = torch.arange(ways, device=self._device).repeat_interleave(examples).repeat(tasks, 1)
        return {"x": x, "y": y}


def _images_of(options: UnlabelledOptions) -> ImageOptions:
    """The settings of the images' family, with what it has learned of them."""
    return options.source if options.fitted is None else options.source.with_fitted(options.fitted)


def _held_out(episodes: Mapping[Split, Episode]) -> dict[Split, Episode]:
    return {split: episode for split, episode in episodes.items() if split != "train"}


def _own(options: TaskOptions) -> UnlabelledOptions:
    assert isinstance(options, UnlabelledOptions)
    return options


def _family(options: UnlabelledOptions) -> type[ImageFamily]:
    """The family of the images; raises ``ConfigError`` where it is one of the user's own that has none."""
    from distmeta.tasks import TASKS

    family: type = TASKS[options.source.kind]
    if not issubclass(family, ImageFamily):
        raise ConfigError(
            f"tasks.source.kind = {shown(options.source.kind)}: expected a family of images, a subclass of "
            "distmeta.tasks.images.ImageFamily"
        )
    return family


def _image_shape(options: UnlabelledOptions) -> tuple[int, int, int]:
    inputs = _family(options).spec(_images_of(options)).inputs
    assert isinstance(inputs, TensorSpec)
    return cast(tuple[int, int, int], inputs.shape)


def _partition(options: UnlabelledOptions) -> Path:
    assert options.partition is not None
    return Path(options.partition)


def _check_pool(pool: ImagePool, partitions: Partitions) -> None:
    """Refuse partitions of other images than these.

    Raises:
        DataError: saying which.
    """
    if partitions.made_of.get("images") == pool.digest and partitions.labels.shape[1] == len(pool):
        return
    raise DataError(
        f"tasks.partition = {shown(str(partitions.path))[1:-1]} is of other images: it has "
        f"{partitions.labels.shape[1]:,} with the hash {partitions.made_of.get('images', '')[:12]}, and the training "
        f"images of tasks.source are {len(pool):,} with {pool.digest[:12]}; use the tasks.source with which it was "
        "made, or make one of these images with 'distmeta data partition'"
    )
