"""The forms in which published few-shot data sets lie on people's disks, and their splits by class."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np

from distmeta.core.quoting import shown
from distmeta.core.records import SPLITS, Split
from distmeta.data.images.fetch import STORE_SUFFIX
from distmeta.data.images.files import ARCHIVES, DataPlace, opened
from distmeta.data.images.pickles import arrays_of, texts
from distmeta.data.images.sources import (
    ClassFolders,
    ImageEntry,
    ImageSource,
    image_source,
    split_places,
)
from distmeta.data.splits import SPLIT_NAMES
from distmeta.errors import DataError

CIFAR_ARCHIVE = "cifar-100-python.tar.gz"
"""The official CIFAR-100, with a pickle for each of its own two parts, which are joined here."""

CIFAR_FS_HELD_OUT: dict[Split, tuple[str, ...]] = {
    "validation": (
        "beaver",
        "beetle",
        "butterfly",
        "camel",
        "cattle",
        "crab",
        "crocodile",
        "flatfish",
        "lamp",
        "maple_tree",
        "motorcycle",
        "otter",
        "sea",
        "shark",
        "television",
        "tractor",
    ),
    "test": (
        "baby",
        "bed",
        "bicycle",
        "chimpanzee",
        "fox",
        "leopard",
        "man",
        "pickup_truck",
        "plain",
        "poppy",
        "rocket",
        "rose",
        "snail",
        "sweet_pepper",
        "table",
        "telephone",
        "wardrobe",
        "whale",
        "woman",
        "worm",
    ),
}
"""The classes of CIFAR-FS that are not for training: those of Bertinetto et al., ICLR 2019."""

MINI_PICKLES = "mini-imagenet-cache-{}.pkl"
"""Dictionaries with ``image_data`` (N, 84, 84, 3) and ``class_dict``, the indices by class."""

_LARGEST_PICKLE = 2**32

FolderProbe = Callable[[DataPlace], ImageSource | None]
"""Gives the source in a folder, where there is one."""


def find_published(kind: str, root: str | None, probe: FolderProbe, expected: str) -> ImageSource | DataPlace:
    """A data set, or a built store of it: in the subfolder of the family's name of ``root``, or there.

    Without a root it is looked for in ``DISTMETA_DATA``.

    Args:
        kind: the family's name.
        root: the setting ``tasks.root``.
        probe: looks into a folder.
        expected: what it looks for, for messages.

    Raises:
        DataError: it is not there.
    """
    shared = os.environ.get("DISTMETA_DATA")
    base = root or shared
    if base is None:
        raise DataError(f"tasks.root is not set, and neither is DISTMETA_DATA: set one to a folder with {expected}")
    place = DataPlace.at(base)
    if place.kind == "file":
        return place if place.path.endswith(STORE_SUFFIX) else image_source(place)
    for folder in (place.child(kind), place):  # in this order: the parent may hold much else
        if folder.kind == "folder":
            store = folder.child(f"{kind}{STORE_SUFFIX}")
            found = store if store.kind == "file" else probe(folder)
            if found is not None:
                return found
    setting = "tasks.root" if root else "DISTMETA_DATA"
    raise DataError(
        f"{setting} = {place.name} holds no {kind}: expected {expected}, there or in its subfolder {kind}; correct it"
    )


def in_splits(place: DataPlace) -> ImageSource | None:
    """Archives, lists or folders named ``train``, ``validation`` (``val``, ``valid``) and ``test``."""
    if any(split_places(place, suffix) for suffix in (*ARCHIVES, ".csv")):
        return image_source(place)
    there = {split for name, split in SPLIT_NAMES.items() if place.child(name).kind == "folder"}
    return ClassFolders(place) if there == set(SPLITS) else None


class CifarArchive:
    """CIFAR-100's official archive, in the splits of CIFAR-FS."""

    def __init__(self, place: DataPlace) -> None:
        self.name, self._place = place.name, place

    def fingerprint(self) -> str:
        """Of the archive's name, size and time."""
        return hashlib.sha256(f"{CIFAR_ARCHIVE} {self._place.version()}".encode()).hexdigest()

    def entries(self, stack: ExitStack) -> list[ImageEntry]:
        """60,000 of 100 classes."""
        files = stack.enter_context(opened(self._place))
        members = {file.path.rsplit("/", 1)[-1]: file for file in files.list()}
        missing = [name for name in ("meta", "train", "test") if name not in members]
        if missing:
            raise DataError(f"{self.name} has no {missing[0]}; expected the official CIFAR-100 for Python")
        found = {
            name: arrays_of(files.read(members[name]), f"{self.name}/{name}") for name in ("meta", "train", "test")
        }
        try:
            names = texts(found["meta"]["fine_label_names"])
            labels = [int(label) for part in ("train", "test") for label in found[part]["fine_labels"]]
            data = [np.asarray(found[part]["data"], np.uint8).reshape(-1, 3, 32, 32) for part in ("train", "test")]
            images = np.concatenate(data).transpose(0, 2, 3, 1)
            of_image = [names[label] for label in labels]
        except (KeyError, ValueError, TypeError, IndexError) as error:
            raise DataError(
                f"{self.name} is not the official CIFAR-100 for Python ({error!r}); fetch it again"
            ) from None
        splits = split_of(names, CIFAR_FS_HELD_OUT)
        return array_entries(images, of_image, splits, self.name)


class MiniPickles:
    """mini-ImageNet as pickles of arrays, one a split; they are in memory while a store is built."""

    def __init__(self, name: str, places: Mapping[Split, DataPlace]) -> None:
        self.name, self._places = name, places

    @classmethod
    def found(cls, place: DataPlace) -> MiniPickles | None:
        """The three files in a folder."""
        names: dict[str, Split] = {"train": "train", "val": "validation", "test": "test"}
        files = {split: place.child(MINI_PICKLES.format(name)) for name, split in names.items()}
        return cls(place.name, files) if all(file.kind == "file" for file in files.values()) else None

    def fingerprint(self) -> str:
        """Of the files' sizes and times."""
        parts = " ".join(f"{split} {self._places[split].version()}" for split in SPLITS)
        return hashlib.sha256(f"mini-imagenet pickles {parts}".encode()).hexdigest()

    def entries(self, stack: ExitStack) -> list[ImageEntry]:
        """Those of the three files."""
        entries: list[ImageEntry] = []
        for split, place in self._places.items():
            found = arrays_of(place.read(_LARGEST_PICKLE), place.name)
            try:
                images, classes = np.asarray(found["image_data"], np.uint8), found["class_dict"]
                rows = [
                    (int(row), name)
                    for name, given in zip(texts(classes), classes.values(), strict=True)
                    for row in given
                ]
                picked = [images[row] for row, _ in rows]
            except (KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
                raise DataError(
                    f"{place.name}: expected a dictionary with image_data (N, H, W, 3) and class_dict, the rows of "
                    f"each class ({error!r})"
                ) from None
            labels = [name for _, name in rows]
            entries += array_entries(picked, labels, dict.fromkeys(labels, split), place.name)
        return entries


class ByOrder:
    """CUB's class folders, split by their order as in Chen et al., ICLR 2019 ("A closer look at few-shot
    classification"): of the sorted folders, counted from 0, the even ones are for training, and of the odd ones every
    other, from the first on, is for validation, the rest for test.
    """

    def __init__(self, place: DataPlace) -> None:
        self._folders = ClassFolders(place)
        self.name = place.name

    def fingerprint(self) -> str:
        """Of all files."""
        return f"by order {self._folders.fingerprint()}"

    def entries(self, stack: ExitStack) -> list[ImageEntry]:
        """Those of all class folders."""
        entries = self._folders.entries(stack)
        order = {label: at for at, label in enumerate(sorted({entry.label for entry in entries}))}
        of_order: tuple[Split, ...] = ("train", "validation", "train", "test")
        return [ImageEntry(entry.label, of_order[order[entry.label] % 4], entry.name, entry.load) for entry in entries]


def split_of(names: Sequence[str], held_out: Mapping[Split, Sequence[str]]) -> dict[str, Split]:
    """The split of each name: those that are not held out are for training."""
    by_name: dict[str, Split] = {name: split for split, listed in held_out.items() for name in listed}
    return {name: by_name.get(name, "train") for name in names}


def array_entries(
    images: Sequence[Any], labels: Sequence[str], splits: Mapping[str, Split], name: str
) -> list[ImageEntry]:
    """Entries of pixels that are in memory.

    Raises:
        DataError: there are more or fewer labels than images.
    """
    if len(images) != len(labels):
        raise DataError(f"{name} has {len(images):,} images and {len(labels):,} labels; fetch it again")

    def entry(at: int) -> ImageEntry:
        return ImageEntry(labels[at], splits[labels[at]], f"image {at} ({shown(labels[at])[1:-1]})", lambda: images[at])

    return [entry(at) for at in range(len(labels))]
