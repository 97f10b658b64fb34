"""Folders of small images that are made up: every image has another colour, and shades that tell its orientation."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

COUNTS = {"train": 7, "validation": 6, "test": 6}
"""Classes of each split of :func:`split_folders`."""


def picture(number: int, size: tuple[int, int] = (20, 20), mode: str = "RGB") -> Image.Image:
    """An image (width, height) that only this number has."""
    width, height = size
    shade = np.add.outer(np.arange(height), 2 * np.arange(width)) % 64
    colour = np.array([number % 191, number // 191 % 191, 7 * number % 191])
    return Image.fromarray((shade[..., None] + colour).astype(np.uint8)).convert(mode)


def encoded(number: int, size: tuple[int, int] = (20, 20), mode: str = "RGB", form: str = "PNG") -> bytes:
    stream = io.BytesIO()
    picture(number, size, mode).save(stream, form)
    return stream.getvalue()


def class_folders(root: Path, counts: Mapping[str, int], size: tuple[int, int] = (20, 20), first: int = 0) -> Path:
    """``ROOT/CLASS/NNN.png`` of classes with so many images each."""
    for name, count in counts.items():
        folder = root / name
        folder.mkdir(parents=True)
        for number in range(count):
            (folder / f"{number:03}.png").write_bytes(encoded(first, size))
            first += 1
    return root


def split_folders(root: Path, images: int = 20, size: tuple[int, int] = (20, 20)) -> Path:
    """Class folders in the folders of the splits."""
    first = 0
    for split, count in COUNTS.items():
        class_folders(root / split, {f"{split}-{n:02}": images for n in range(count)}, size, first)
        first += count * images
    return root


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
