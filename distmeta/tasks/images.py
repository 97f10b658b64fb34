"""What image families share: the classes of a split, and episodes drawn from a store by array operations."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distmeta.config.sections import TaskOptions, limits
from distmeta.core.records import Split, TaskBatch, TensorSpec
from distmeta.data.store import EpisodeStore
from distmeta.data.verified import check_store
from distmeta.tasks.augmentation import TaskPart, augment, check_augmentation
from distmeta.tasks.base import Episode, TaskFamily, TaskSpec
from distmeta.tasks.drawing import check_episode, draw_examples
from distmeta.tasks.options import AugmentationOptions, ImageOptions
from distmeta.tasks.pool import ImagePool

HELD_BYTES = 2**30
"""Stores up to this size are kept on the worker's device; larger ones are gathered from the memory map."""


@dataclass(frozen=True)
class SplitClasses:
    """The classes of one split: pairs of a character of the store and a rotation.

    Attributes:
        characters: (C,) int64, indices into the store's classes.
        rotations: (C,) int64, counter-clockwise quarter turns, 0 ... 3.
    """

    characters: NDArray[np.int64]
    rotations: NDArray[np.int64]

    @classmethod
    def of(cls, characters: NDArray[np.int64], rotations: Sequence[int] = (0,)) -> SplitClasses:
        """Every one of these characters in every one of these rotations, each pair a class of its own."""
        turns = np.asarray(rotations, dtype=np.int64)
        return cls(np.repeat(characters, len(turns)), np.tile(turns, len(characters)))

    def __len__(self) -> int:
        return len(self.characters)


class EpisodeSampler:
    """Draws episodes; a task depends on (seed, split, id) alone, whatever else is in the batch.

    A task takes ``ways`` distinct classes of its split and of each ``shots + queries`` distinct images, the
    first ``shots`` of them for the support set. Examples stand class by class. Training images are augmented, if that
    is set.
    """

    def __init__(
        self,
        store: EpisodeStore,
        splits: Mapping[Split, SplitClasses],
        episodes: Mapping[Split, Episode],
        device: torch.device,
        augmentation: AugmentationOptions | None = None,
    ) -> None:
        check_episodes(store, splits, episodes)
        self._store, self._splits, self._episodes, self._device = store, splits, episodes, device
        self._augmentation = augmentation or AugmentationOptions()
        order = torch.from_numpy(pixel_orders(store.shape))
        self._shape, self._order = order.shape[1:], order.flatten(1).to(device)
        # A tensor of the device, not a number: CUDA divides by a number by multiplying with its inverse, which rounds
        # otherwise than the CPU's division.
        self._white = torch.tensor(255.0, device=device)
        self._held: Tensor | None = None
        if store.nbytes <= HELD_BYTES and (len(store.pieces) == 1 or device.type != "cpu"):
            # On the CPU this is the mapped file itself, which is read-only; nothing here writes to it.
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="The given NumPy array is not writ")
                pieces = [torch.from_numpy(piece).flatten(1).to(device) for piece in store.pieces]
                self._held = pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def sample(self, split: Split, ids: Sequence[int]) -> TaskBatch:
        """These tasks, on the device: ``x`` (T, N, C, H, W) float32 in [0, 1], ``y`` (T, N) int64."""
        rows, rotations = self._draw(split, ids)
        shots = self._episodes[split].at(ids).shots
        support = self._data(rows[:, :, :shots], rotations)
        query = self._data(rows[:, :, shots:], rotations)
        if split == "train" and self._augmentation.active:
            seed = self._episodes[split].seed
            parts: tuple[tuple[dict[str, Tensor], TaskPart], ...] = ((support, "support"), (query, "query"))
            for data, part in parts:
                data["x"] = augment(data["x"], self._augmentation, seed=seed, split=split, ids=ids, part=part)
        return TaskBatch(torch.from_numpy(np.array(ids, dtype=np.int64)), support, query)

    def class_count(self, split: Split) -> int:
        """Classes of a split, rotated ones among them."""
        return len(self._splits[split].characters)

    def class_ids(self, split: Split, ids: Sequence[int]) -> Tensor:
        """(T, ways) int64 numbers of the classes that the labels of these tasks stand for."""
        counts = self._store.counts[self._splits[split].characters]
        chosen, _ = draw_examples(self._episodes[split].at(ids), split, ids, counts)
        return torch.from_numpy(chosen)

    def pool(self, split: Split) -> ImagePool:
        """The images of a split without their classes, in the order of rows and, within that, of rotations."""
        classes, store = self._splits[split], self._store
        counts, first = store.counts[classes.characters], store.first[classes.characters]
        start = np.cumsum(counts) - counts
        rows = np.arange(counts.sum()) - np.repeat(start - first, counts)
        rotations = np.repeat(classes.rotations, counts)
        order = np.lexsort((rotations, rows))
        return ImagePool(rows[order], rotations[order], store.content_hash)

    def _draw(self, split: Split, ids: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows of the store (T, ways, shots + queries) and rotations (T, ways)."""
        episode, classes, store = self._episodes[split].at(ids), self._splits[split], self._store
        chosen, examples = draw_examples(episode, split, ids, store.counts[classes.characters])
        rows = store.first[classes.characters[chosen]][..., None] + examples
        return rows, classes.rotations[chosen]

    def _data(self, rows: NDArray[np.int64], rotations: NDArray[np.int64]) -> dict[str, Tensor]:
        """``x`` and ``y`` of these rows (T, ways, examples), each class turned by its rotation (T, ways)."""
        tasks, ways, examples = rows.shape
        x = self.images(rows.reshape(-1), np.repeat(rotations.reshape(-1), examples))
        labels = torch.arange(ways, device=self._device).repeat_interleave(examples)
        return {"x": x.view(tasks, ways * examples, *self._shape), "y": labels.repeat(tasks, 1)}

    def images(self, rows: NDArray[np.int64], rotations: NDArray[np.int64]) -> Tensor:
        """These rows (M,), rotated: (M, channels, height, width) float32 in [0, 1]."""
        if self._held is not None:
            pixels = self._held.index_select(0, torch.from_numpy(rows).to(self._device))
        else:
            pixels = torch.from_numpy(self._store.read(rows)).flatten(1).to(self._device)
        order = self._order.index_select(0, torch.from_numpy(rotations).to(self._device))
        return pixels.gather(1, order).to(torch.float32).div_(self._white).view(-1, *self._shape)


def pixel_orders(shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Where each pixel of a rotated image comes from.

    Rotation r is ``np.rot90(image, r)``: r quarter turns counter-clockwise. Channels come first in the
    result, as PyTorch's convolutions want them.

    Args:
        shape: (H, W) or (H, W, C) of the stored images.

    Returns:
        (4, C, H, W) int64, indices into the flat stored image; (1, C, H, W) where H and W differ, as a
        quarter turn would change the shape.

    >>> pixel_orders((2, 2))[1].tolist()
    [[[1, 3], [0, 2]]]
    """
    height, width, *channels = shape
    places = np.arange(int(np.prod(shape))).reshape(height, width, *(channels or [1]))
    turns = range(4 if height == width else 1)
    return np.stack([np.rot90(places, turn).transpose(2, 0, 1) for turn in turns])


def shape_of(store: EpisodeStore) -> tuple[int, int, int]:
    """(channels, height, width) of a store's images as tasks have them."""
    height, width, *channels = store.shape
    return channels[0] if channels else 1, height, width


def check_episodes(
    store: EpisodeStore, splits: Mapping[Split, SplitClasses], episodes: Mapping[Split, Episode]
) -> None:
    """Refuse episodes that ask for more classes or more examples than a split has.

    Raises:
        ConfigError: naming the setting, the split and the numbers.
    """
    for split, episode in episodes.items():
        characters = splits[split].characters
        names = [store.classes[character] for character in characters]
        check_episode(split, episode, store.counts[characters], names, "images")


class ImageFamily(TaskFamily, ABC):
    """A classification family over an episode store; each family says where its store and its splits are.

    By default every host builds the store itself, so that there is nothing to hold or to move.
    """

    Options: type[TaskOptions]

    def __init__(self, options: TaskOptions, episodes: Mapping[Split, Episode], device: torch.device) -> None:
        assert isinstance(options, ImageOptions)
        store, splits = self._open(options)
        self._sampler = EpisodeSampler(store, splits, episodes, device, options.augment)

    @classmethod
    @abstractmethod
    def _open(cls, options: TaskOptions) -> tuple[EpisodeStore, Mapping[Split, SplitClasses]]:
        """The store, built if need be, and the classes of each split."""

    @classmethod
    def classes(cls, options: TaskOptions) -> tuple[EpisodeStore, dict[Split, NDArray[np.int64]]]:
        """The store and the classes of each split by their index there, each once, however it may be turned."""
        store, splits = cls._open(options)
        return store, {split: np.unique(found.characters) for split, found in splits.items()}

    @classmethod
    def prepare(cls, options: TaskOptions, episodes: Mapping[Split, Episode]) -> None:
        """Build the store on this host unless it is there, and check the episodes; raises as opening does."""
        assert isinstance(options, ImageOptions)
        store, splits = cls._open(options)
        check_augmentation(options.augment, shape_of(store))
        check_episodes(store, splits, episodes)

    @classmethod
    def contents(cls, options: TaskOptions) -> Mapping[str, str]:
        """The hash that the store was written with, checked by :func:`~distmeta.data.verified.check_store`."""
        store, _ = cls._open(options)
        check_store(store)
        return {options.kind: store.content_hash}

    def class_count(self, split: Split) -> int:
        """Classes of a split, rotated ones among them."""
        return self._sampler.class_count(split)

    def class_ids(self, split: Split, ids: Sequence[int]) -> Tensor:
        """(T, ways) int64 numbers of the classes that the labels of these tasks stand for."""
        return self._sampler.class_ids(split, ids)

    def pool(self, split: Split) -> ImagePool:
        """The images of a split without their classes."""
        return self._sampler.pool(split)

    def images(self, pool: ImagePool, chosen: NDArray[np.int64]) -> Tensor:
        """Images of a pool by their places there (M,): (M, channels, height, width) float32 in [0, 1]."""
        return self._sampler.images(pool.rows[chosen], pool.rotations[chosen])

    @classmethod
    def spec(cls, options: TaskOptions) -> TaskSpec:
        """Images of the settings' size and channels in, the training ways out; the data tells where they do not."""
        assert isinstance(options, ImageOptions)
        shape = options.image_shape or shape_of(cls._open(options)[0])
        return TaskSpec(TensorSpec(shape), outputs=limits(options.ways)[1])

    def sample(self, split: Split, ids: Sequence[int]) -> TaskBatch:
        """These tasks: ``x`` (T, N, C, H, W) float32 in [0, 1] and ``y`` (T, N) int64.

        N is ways times shots or queries, class by class. ``x`` and ``y`` lie on the family's device, ``ids``
        stay on the CPU.
        """
        return self._sampler.sample(split, ids)
