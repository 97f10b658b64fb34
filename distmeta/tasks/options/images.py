"""Settings of the image families."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from distmeta.config.anchors import DataRoot
from distmeta.config.sections import DrawnWays
from distmeta.config.splits import Splits
from distmeta.tasks.options.augmentation import AugmentationOptions
from distmeta.tasks.options.episodes import EpisodeOptions


class ImageOptions(EpisodeOptions):
    """Settings that every image family has: classes a task, support and query images a class.

    ``ways`` and ``shots`` are numbers, or sections ``{min, max}`` to draw them from for every meta-step; ``examples``
    keeps shots and queries of a class together constant. ``augment`` changes training images at random, see the section
    below.
    """

    objective: str = "cross_entropy"

    ways: DrawnWays = 5
    augment: AugmentationOptions = AugmentationOptions()

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """(channels, height, width) of an image; ``None`` where only the data tells."""
        return 1, 28, 28


class GlyphOptions(ImageOptions):
    """Settings under ``tasks`` for ``kind: glyphs``: classes a task, support and query images a class."""


class OmniglotOptions(ImageOptions):
    """Settings under ``tasks`` for ``kind: omniglot``.

    ``root`` is a folder or URI (as ``pyarrow.fs`` opens it) with ``images_background.zip`` and
    ``images_evaluation.zip``, or a built ``omniglot-28.arrow``, there or in its subfolder ``omniglot/``.
    """

    root: DataRoot | None = None
    split: Literal["vinyals", "khodadadeh", "alphabets"] = "vinyals"
    rotations: bool = True


Side = Annotated[int, Field(ge=1, le=4096)]
"""Pixels of an image's height or width."""


class StoredImageOptions(ImageOptions):
    """Settings of the families whose images are files of the user's.

    ``size`` is a side, or height and width: images are resized to it once, as the store is built, by Pillow's Lanczos
    filter. ``channels`` is 3 for colour and 1 for grey. ``splits`` says which classes are for training, validation and
    test. With ``rotations`` a training class turned by 0, 90, 180 or 270 degrees is a class of its own.
    """

    splits: Splits | None = None
    size: Side | tuple[Side, Side] | None = None
    channels: Literal[1, 3] = 3
    rotations: bool = False

    @property
    def height_width(self) -> tuple[int, int] | None:
        """The size of stored images, where it is set."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """(channels, height, width) of an image; ``None`` where ``size`` is not set."""
        return None if self.height_width is None else (self.channels, *self.height_width)

    @model_validator(mode="after")
    def _check_square(self) -> StoredImageOptions:
        if self.rotations and self.height_width is not None and self.height_width[0] != self.height_width[1]:
            raise ValueError(f"tasks.rotations needs square images, but tasks.size is {list(self.height_width)}")
        return self


class OwnImageOptions(StoredImageOptions):
    """Settings under ``tasks`` for ``kind: images``: images of your own.

    ``root`` is a folder of class folders, a zip or tar of one, a CSV file with the columns ``filename`` and ``label``,
    a folder with one archive or CSV file for each split, or a built store (``.arrow``); also at a URI. Where
    ``splits`` is left out, the outermost folders ``train``, ``validation`` (or ``val``) and ``test`` are the splits.
    """

    root: DataRoot


class PublishedImageOptions(StoredImageOptions):
    """Settings that the published data sets share.

    ``root`` is a folder or URI, or its parent where it has the family's name; or a built store. By default it is
    ``DISTMETA_DATA``. ``splits`` overrides the published split.
    """

    root: DataRoot | None = None


class CifarFSOptions(PublishedImageOptions):
    """Settings under ``tasks`` for ``kind: cifar_fs``: CIFAR-100's images, 64 training, 16 validation, 20 test classes.

    ``root`` holds ``train.zip``, ``validation.zip`` and ``test.zip`` of class folders, or the official
    ``cifar-100-python.tar.gz``. By default it is ``DISTMETA_DATA``, or ``cifar_fs`` there.
    """

    size: Side | tuple[Side, Side] | None = 32


class MiniImageNetOptions(PublishedImageOptions):
    """Settings under ``tasks`` for ``kind: mini_imagenet``.

    ``root`` holds ``train.csv``, ``val.csv`` and ``test.csv`` beside ``images/``; or archives or folders of class
    folders with these names; or ``mini-imagenet-cache-train.pkl`` and those of val and test. By default it is
    ``DISTMETA_DATA``, or ``mini_imagenet`` there.
    """

    size: Side | tuple[Side, Side] | None = 84


class TieredImageNetOptions(PublishedImageOptions):
    """Settings under ``tasks`` for ``kind: tiered_imagenet``.

    ``root`` holds the folders ``train``, ``val`` and ``test`` of class folders, or archives or CSV files with these
    names. By default it is ``DISTMETA_DATA``, or ``tiered_imagenet`` there.
    """

    size: Side | tuple[Side, Side] | None = 84


class CubOptions(PublishedImageOptions):
    """Settings under ``tasks`` for ``kind: cub``: CUB-200-2011, 100 training, 50 validation, 50 test classes.

    ``root`` holds ``CUB_200_2011/images``, or ``CUB_200_2011.tgz``. By default it is ``DISTMETA_DATA``, or ``cub``
    there.
    """

    size: Side | tuple[Side, Side] | None = 84
