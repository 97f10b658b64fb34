"""The settings of the task families, apart from the families themselves, so that checking them needs no torch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from distmeta.config.sections import Examples, TaskOptions


class SinusoidOptions(TaskOptions):
    """Settings under ``tasks`` for ``kind: sinusoid``: support and query points a task."""

    objective: str = "squared_error"

    shots: Examples = 10
    queries: Examples = 10


class ImageOptions(TaskOptions):
    """Settings that every image family has: classes a task, support and query images a class."""

    objective: str = "cross_entropy"

    ways: Annotated[int, Field(ge=2)] = 5
    shots: Examples = 1
    queries: Examples = 15


class GlyphOptions(ImageOptions):
    """Settings under ``tasks`` for ``kind: glyphs``: classes a task, support and query images a class."""


class OmniglotOptions(ImageOptions):
    """Settings under ``tasks`` for ``kind: omniglot``.

    ``root`` is a folder or URI (as ``pyarrow.fs`` opens it) with ``images_background.zip`` and
    ``images_evaluation.zip``, or a built ``omniglot-28.arrow``, there or in its subfolder ``omniglot/``.
    """

    root: str | None = None
    split: Literal["vinyals", "alphabets"] = "vinyals"
    rotations: bool = True

    @field_validator("root")
    @classmethod
    def _anchor(cls, root: str | None) -> str | None:
        """Workers and resumed runs may have another working directory."""
        return root if root is None or "://" in root else str(Path(os.path.expanduser(root)).absolute())
