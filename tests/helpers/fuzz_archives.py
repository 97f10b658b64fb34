"""Small archives in Omniglot's form: the numbers of characters and drawings are lowered, the code is the real one."""

from __future__ import annotations

import functools
import io
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distmeta.data import omniglot_build

ARCHIVES = ("images_background.zip", "images_evaluation.zip")
CHARACTERS = {"background": 2, "evaluation": 1}
DRAWINGS = 2


@contextmanager
def few_characters() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(omniglot_build, "CHARACTERS", CHARACTERS)
        patch.setattr(omniglot_build, "DRAWINGS", DRAWINGS)
        yield


def png(width: int = 105, height: int = 105, mode: str = "1", form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 2, (height, width), dtype=np.uint8) * 255
    Image.fromarray(pixels).convert(mode).save(buffer, form)
    return buffer.getvalue()


@functools.cache
def members(part: str) -> dict[str, bytes]:
    alphabet = {"background": "Greek", "evaluation": "Tibetan"}[part]
    return {
        f"images_{part}/{alphabet}/character{number:02d}/{number:04d}_{drawing:02d}.png": png()
        for number in range(1, CHARACTERS[part] + 1)
        for drawing in range(1, DRAWINGS + 1)
    }


def packed(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


@functools.cache
def valid(part: str) -> bytes:
    return packed(members(part))


def write_archives(folder: Path, **changed: bytes) -> Path:
    """Both archives, one of them changed: ``background=...``."""
    for name, part in zip(ARCHIVES, CHARACTERS, strict=True):
        (folder / name).write_bytes(changed.get(part) or valid(part))
    return folder
