"""Published few-shot data sets of colour images, in their published splits; the images are the user's."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from distmeta.config.sections import TaskOptions
from distmeta.data.images.files import ARCHIVES, DataPlace
from distmeta.data.images.published import (
    CIFAR_ARCHIVE,
    MINI_PICKLES,
    ByOrder,
    CifarArchive,
    MiniPickles,
    find_published,
    in_splits,
)
from distmeta.data.images.sources import ImageSource
from distmeta.tasks.options import (
    CifarFSOptions,
    CubOptions,
    MiniImageNetOptions,
    PublishedImageOptions,
    StoredImageOptions,
    TieredImageNetOptions,
)
from distmeta.tasks.own_images import StoredImages

_IN_SPLITS = "archives, lists (.csv) or folders named train, validation (or val) and test"


class PublishedImages(StoredImages):
    """What these families share: their data comes from ``tasks.root``, else from ``DISTMETA_DATA``.

    Attributes:
        expected: what is looked for there, for messages.
    """

    expected: ClassVar[str]

    @classmethod
    def find(cls, options: StoredImageOptions) -> ImageSource | DataPlace:
        """What lies there or in the subfolder of the family's name."""
        assert isinstance(options, PublishedImageOptions)
        return find_published(options.kind, options.root, cls.probe, cls.expected)

    @classmethod
    @abstractmethod
    def probe(cls, folder: DataPlace) -> ImageSource | None:
        """The source in a folder, where there is one."""


class CifarFS(PublishedImages):
    """CIFAR-100 for few-shot learning: 600 colour images of 32 x 32 pixels of each of 64 classes for training, 16 for
    validation and 20 for test.

    Bertinetto, Henriques, Torr, Vedaldi: "Meta-learning with differentiable closed-form solvers", ICLR 2019.
    """

    Options: type[TaskOptions] = CifarFSOptions
    expected = f"train.zip, validation.zip and test.zip of class folders, or {CIFAR_ARCHIVE}"

    @classmethod
    def probe(cls, folder: DataPlace) -> ImageSource | None:
        """Files of the splits, or the official archive, of which the split is known."""
        archive = folder.child(CIFAR_ARCHIVE)
        return in_splits(folder) or (CifarArchive(archive) if archive.kind == "file" else None)


class MiniImageNet(PublishedImages):
    """600 colour images of each of 100 classes of ImageNet, 64 for training, 16 for validation and 20 for test.

    Vinyals, Blundell, Lillicrap, Kavukcuoglu, Wierstra: "Matching networks for one shot learning", NeurIPS 2016, in the
    split of Ravi and Larochelle: "Optimization as a model for few-shot learning", ICLR 2017. The split is that of the
    user's files.
    """

    Options: type[TaskOptions] = MiniImageNetOptions
    expected = f"{_IN_SPLITS}, or {MINI_PICKLES.format('train')} and those of val and test"

    @classmethod
    def probe(cls, folder: DataPlace) -> ImageSource | None:
        """Lists beside ``images/``, archives or folders, or the pickles."""
        return in_splits(folder) or MiniPickles.found(folder)


class TieredImageNet(PublishedImages):
    """Images of 608 classes of ImageNet, split by their higher categories: 351 for training, 97 for validation and 160
    for test.

    Ren, Triantafillou, Ravi, Snell, Swersky, Tenenbaum, Larochelle, Zemel: "Meta-learning for semi-supervised few-shot
    classification", ICLR 2018. The split is that of the user's files.
    """

    Options: type[TaskOptions] = TieredImageNetOptions
    expected = _IN_SPLITS

    @classmethod
    def probe(cls, folder: DataPlace) -> ImageSource | None:
        """Archives, lists or folders of the splits."""
        return in_splits(folder)


class Cub(PublishedImages):
    """CUB-200-2011, 11,788 photographs of 200 kinds of birds: 100 for training, 50 for validation and 50 for test.

    Wah, Branson, Welinder, Perona, Belongie: "The Caltech-UCSD Birds-200-2011 dataset", 2011, in the split of Chen,
    Liu, Kira, Wang, Huang: "A closer look at few-shot classification", ICLR 2019, which goes by the order of the
    classes (:class:`~distmeta.data.images.published.ByOrder`). The whole photograph is taken, without its bounding box.
    """

    Options: type[TaskOptions] = CubOptions
    expected = "CUB_200_2011/images, CUB_200_2011.tgz or images of class folders such as 001.Black_footed_Albatross"

    @classmethod
    def probe(cls, folder: DataPlace) -> ImageSource | None:
        """Folders or archives of the splits, or the official ones of the classes."""
        found = in_splits(folder)
        if found is not None:
            return found
        for names in (("CUB_200_2011", "images"), ("images",), *((f"CUB_200_2011{suffix}",) for suffix in ARCHIVES)):
            place = folder.child(*names)
            if place.kind == ("folder" if names[-1] == "images" else "file"):
                return ByOrder(place)
        return None
