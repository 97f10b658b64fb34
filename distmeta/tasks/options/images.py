"""Settings of the image families."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from distmeta.config.sections import Examples, TaskOptions
from distmeta.tasks.options.anchors import DataRoot


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

    root: DataRoot | None = None
    split: Literal["vinyals", "alphabets"] = "vinyals"
    rotations: bool = True
