"""Settings of tasks that are made without labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import (
    SerializeAsAny,
    ValidationError,
    ValidationInfo,
    field_serializer,
    field_validator,
    model_validator,
)

from distmeta.config.anchors import DataRoot
from distmeta.config.problems import describe
from distmeta.config.sections import Examples, Ways
from distmeta.core.quoting import shown
from distmeta.tasks.options.augmentation import AugmentationOptions
from distmeta.tasks.options.images import ImageOptions

_SHARED = ("objective", "metrics", "ways", "shots", "queries", "examples", "augment")
"""Settings of image families that stand beside ``source``, and not in it."""


class UnlabelledOptions(ImageOptions):
    """Settings under ``tasks`` for ``kind: unlabelled``.

    ``source`` is a section of an image family: its training images are used without their classes, its validation and
    test classes as usual. ``method``: ``umtra`` takes random images for classes and makes their queries by ``augment``;
    ``cactus`` takes the clusters of a ``partition``, a file that ``distmeta data partition`` has made, and changes the
    images by ``augment`` if that is set.
    """

    ways: Ways = 5
    shots: Examples = 1

    source: SerializeAsAny[ImageOptions]
    method: Literal["umtra", "cactus"] = "umtra"
    augment: AugmentationOptions = AugmentationOptions()
    partition: DataRoot | None = None

    @field_validator("source", mode="before")
    @classmethod
    def _open_source(cls, value: Any, info: ValidationInfo) -> Any:
        """The settings of the family that ``source.kind`` names, with the sizes of these tasks."""
        from distmeta.tasks import task_options

        if isinstance(value, ImageOptions):
            return value
        if not isinstance(value, Mapping):
            raise ValueError(f"tasks.source: expected a section with settings of its own, got {shown(value)}")
        options = task_options(value, "tasks.source")
        if not issubclass(options, ImageOptions) or issubclass(options, UnlabelledOptions):
            raise ValueError(
                f"tasks.source.kind = {shown(value['kind'])}: expected a family of images, for example omniglot"
            )
        given = [name for name in _SHARED if name in value]
        if given:
            raise ValueError(
                f"tasks.source.{given[0]}: set tasks.{given[0]} instead, which is for all tasks of the run"
            )
        sizes = {name: info.data[name] for name in ("ways", "shots", "queries") if name in info.data}
        try:
            return options.model_validate({**value, **sizes})
        except ValidationError as error:
            raise ValueError("; ".join(describe(error, "tasks.source", options))) from None

    @field_validator("partition")
    @classmethod
    def _check_local(cls, partition: str | None) -> str | None:
        if partition is not None and "://" in partition:
            raise ValueError(f"tasks.partition: expected a file on this machine, got {shown(partition)}")
        return partition

    @field_serializer("source")
    def _without_shared(self, source: ImageOptions) -> dict[str, Any]:
        """They are written once."""
        values = source.model_dump(mode="json")
        return {name: value for name, value in values.items() if name not in _SHARED}

    @model_validator(mode="after")
    def _check_method(self) -> UnlabelledOptions:
        if self.method == "umtra" and not self.augment.active:
            raise ValueError(
                "tasks.augment: method umtra needs it, since a query is a changed copy of a support image; set for "
                "example tasks.augment.rotation=20 and tasks.augment.shift=4"
            )
        if self.method == "umtra" and self.partition is not None:
            raise ValueError("tasks.partition is for tasks.method = cactus; leave it out, or set tasks.method=cactus")
        if self.method == "cactus" and self.partition is None:
            raise ValueError(
                "tasks.partition: tasks.method = cactus needs it, a file that 'distmeta data partition' has made"
            )
        return self
