"""Images of a user's own: any folder, archive or list of them, with splits by class."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distmeta.config.sections import TaskOptions, limits
from distmeta.config.splits import SplitColumn
from distmeta.core.quoting import shown
from distmeta.core.records import SPLITS, Split, TensorSpec
from distmeta.data.images.build import BuildAdvance, StoreSettings, build_images, built_images
from distmeta.data.images.fetch import STORE_SUFFIX, open_store
from distmeta.data.images.files import DataPlace
from distmeta.data.images.sources import ImageList, ImageSource, image_source
from distmeta.data.splits import moved_splits, split_contents, split_files, split_names
from distmeta.data.store import EpisodeStore
from distmeta.errors import ConfigError, DataError
from distmeta.tasks.base import Episode, TaskSpec
from distmeta.tasks.images import ImageFamily, SplitClasses, shape_of
from distmeta.tasks.options import OwnImageOptions, StoredImageOptions


class StoredImages(ImageFamily):
    """What the families share whose images are files of the user's: a store, built once a host, and splits by class."""

    @classmethod
    @abstractmethod
    def find(cls, options: StoredImageOptions) -> ImageSource | DataPlace:
        """The source of the images, or the place of a built store. Raises ``DataError``."""

    @classmethod
    def settings(cls, options: StoredImageOptions) -> StoreSettings:
        """What a store for these settings holds."""
        merged = options.splits is not None and not isinstance(options.splits, SplitColumn)
        return StoreSettings(options.height_width, options.channels, merged)

    @classmethod
    def store(cls, options: StoredImageOptions) -> EpisodeStore:
        """The store, built if need be.

        Raises:
            DataError: the data is missing or damaged.
            ConfigError: a built store has images of another size.
        """
        found = cls.find(options)
        if not isinstance(found, DataPlace):
            _check_column(found, options)
            return built_images(found, cls.settings(options))
        store = open_store(found)
        channels, height, width = given = shape_of(store)
        if options.image_shape not in (None, given) or channels != options.channels:
            size = "not set" if options.size is None else options.size
            raise ConfigError(
                f"tasks.size = {size} and tasks.channels = {options.channels}: the images of {store.path} are "
                f"{height} x {width} (height and width), channels: {channels}; set these, or build another store"
            )
        return store

    @classmethod
    def _open(cls, options: TaskOptions) -> tuple[EpisodeStore, Mapping[Split, SplitClasses]]:
        assert isinstance(options, StoredImageOptions)
        store = cls.store(options)
        if options.splits is None or isinstance(options.splits, SplitColumn):
            found = _by_group(store, options)
        else:
            found = split_names(store.classes, options.splits, _place(options))
        turns = {"train": range(4 if options.rotations else 1)}
        if options.rotations and store.shape[0] != store.shape[1]:
            raise ConfigError(f"tasks.rotations needs square images; which {_place(options)} has not; set tasks.size")
        return store, {split: SplitClasses.of(classes, turns.get(split, (0,))) for split, classes in found.items()}

    @classmethod
    def build(cls, options: StoredImageOptions, out: Path, advance: BuildAdvance | None = None) -> Path:
        """Build ``OUT/KIND.arrow``, which then serves as ``root``; an old store there is replaced.

        The store keeps the splits that are set.

        Raises:
            DataError: the images are missing or damaged, or ``out`` cannot be written; nothing is left behind.
        """
        found = cls.find(options)
        if isinstance(found, DataPlace):
            raise ConfigError(f"{found.name} is a built store; name the images that a store is to be built from")
        path = out.expanduser() / f"{options.kind}{STORE_SUFFIX}"
        _check_column(found, options)
        settings = cls.settings(options)

        def placement(names: Sequence[str]) -> Mapping[str, str]:
            assert options.splits is not None
            chosen = split_names(names, options.splits, _place(options))
            return {names[at]: split for split, classes in chosen.items() for at in classes}

        build_images(found, path, settings, advance, placement if settings.merged else None)
        return path

    @classmethod
    def fit(cls, options: TaskOptions, episodes: Mapping[Split, Episode]) -> Mapping[str, Any] | None:
        """The shape of an image where the settings do not say it."""
        assert isinstance(options, StoredImageOptions)
        return None if options.image_shape else {"image_shape": list(shape_of(cls.store(options)))}

    @classmethod
    def spec(cls, options: TaskOptions) -> TaskSpec:
        """As the settings say, or as was found in the data when the run began."""
        assert isinstance(options, StoredImageOptions)
        if options.image_shape is None and options.fitted is not None:
            return TaskSpec(TensorSpec(tuple(options.fitted["image_shape"])), outputs=limits(options.ways)[1])
        return super().spec(options)

    @classmethod
    def holdings(cls, options: TaskOptions) -> Mapping[str, Path]:
        """The built store, and lists of classes."""
        assert isinstance(options, StoredImageOptions)
        return {f"{options.kind}{STORE_SUFFIX}": cls.store(options).path, **split_files(options.splits)}

    @classmethod
    def moved(cls, options: TaskOptions, folder: Path) -> TaskOptions:
        """With the store itself as ``root``."""
        assert isinstance(options, StoredImageOptions)
        splits = options.splits if options.splits is None else moved_splits(options.splits, folder)
        return options.model_copy(update={"root": str(folder / f"{options.kind}{STORE_SUFFIX}"), "splits": splits})

    @classmethod
    def contents(cls, options: TaskOptions) -> Mapping[str, str]:
        """The store's hash, see :meth:`ImageFamily.contents`, and those of lists of classes."""
        assert isinstance(options, StoredImageOptions)
        return {**super().contents(options), **split_contents(options.splits)}


class OwnImages(StoredImages):
    """Classification of the user's own images: class folders, an archive of them, a list, or a built store.

    A task's classes are drawn from those of its split, its images from those of each class. The store is built once a
    host, into the cache, under a hash of the files and the settings; a changed file makes another store.
    """

    Options: type[TaskOptions] = OwnImageOptions

    @classmethod
    def find(cls, options: StoredImageOptions) -> ImageSource | DataPlace:
        """What lies at ``tasks.root``."""
        assert isinstance(options, OwnImageOptions)
        if options.root.partition("?")[0].endswith(STORE_SUFFIX):
            return DataPlace.at(options.root)
        column = options.splits.column if isinstance(options.splits, SplitColumn) else ""
        return image_source(options.root, column)


def _place(options: StoredImageOptions) -> str:
    """Where the images come from, for messages."""
    return str(getattr(options, "root", None) or options.kind)


def _check_column(source: ImageSource, options: StoredImageOptions) -> None:
    """Refuse a column of splits where there are no columns; it would be passed over.

    Raises:
        ConfigError: naming it.
    """
    if isinstance(options.splits, SplitColumn) and not (isinstance(source, ImageList) and source.column):
        raise ConfigError(
            f"tasks.splits = {{column: {options.splits.column}}}: {source.name} is not a single list (.csv), which "
            "alone has columns; leave tasks.splits out where folders or files train, validation and test are there, or "
            "give fractions or lists of classes"
        )


def _by_group(store: EpisodeStore, options: StoredImageOptions) -> dict[Split, NDArray[np.int64]]:
    """The classes of each split as the source has them."""
    place, groups = _place(options), np.array(store.groups)
    column = options.splits.column if isinstance(options.splits, SplitColumn) else None
    setting = "tasks.splits is not set" if column is None else f"tasks.splits = {{column: {column}}}"
    if not any(np.isin(groups, SPLITS)):
        lacks, more = "has no folders train, validation and test around", ""
        if place.lower().partition("?")[0].endswith(".csv"):
            lacks, more = "does not say which are the splits of", "; or {column: NAME}, a column of the list"
        elif place.partition("?")[0].endswith(STORE_SUFFIX):
            lacks = "was built without splits of"
        raise ConfigError(
            f"{setting}, and {place} {lacks} its {len(groups):,} classes (such as {shown(store.classes[0])}); set "
            f"for example tasks.splits={{train: .64, validation: .16, test: .2}}, or lists of classes{more}"
        )
    found: dict[Split, NDArray[np.int64]] = {split: np.flatnonzero(groups == split) for split in SPLITS}
    empty = [split for split, classes in found.items() if not len(classes)]
    if empty and column is not None:
        raise DataError(
            f"{setting}: {place} has no class for the {empty[0]} split there; set this column to {empty[0]} for "
            "some classes"
        )
    if empty:
        raise DataError(
            f"{place} has no class for the {empty[0]} split; put images of other classes there, or set tasks.splits"
        )
    return found
