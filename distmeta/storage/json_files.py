"""Small JSON files of runs and sweeps, checked as they are read: disks, people and killed processes change files."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from distmeta.config.text import parse_json
from distmeta.core.quoting import shown
from distmeta.errors import StorageError
from distmeta.storage.files import Storage

AnyJson = TypeVar("AnyJson", bound="JsonValues")


class JsonValues(BaseModel):
    """What a JSON file holds: types are exact, and what else it holds is left alone."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)


def read_json(folder: Storage, name: str, model: type[AnyJson], advice: str) -> dict[str, Any]:
    """The values of a JSON file, as they stand there.

    Args:
        folder: where it lies.
        name: the file's.
        model: what it should hold.
        advice: what to do about a damaged one.

    Raises:
        StorageError: it is missing, cannot be read, or holds something else.
    """
    data = folder.read_bytes(name)
    try:
        values = parse_json(data)
        model.model_validate(values)
    except ValueError as error:
        reason = problem_of(error) if isinstance(error, ValidationError) else shown(str(error))[1:-1]
        raise StorageError(f"{folder.child(name).location} is damaged: {reason}; {advice}") from None
    checked: dict[str, Any] = values
    return checked


class Mean(JsonValues):
    """A measurement over tasks; ``null`` is what is not finite."""

    mean: float | None
    ci95: float | None
    tasks: int


class AtStep(JsonValues):
    """A measurement after some inner steps."""

    step: int
    mean: float | None
    ci95: float | None


class InEpisode(JsonValues):
    """A measurement in an episode of a trial."""

    episode: int
    mean: float | None
    ci95: float | None


class OfTasks(JsonValues):
    """Measurements by name."""

    __pydantic_extra__: dict[str, Mean] = Field(init=False)
    by_step: list[AtStep] = []
    by_episode: list[InEpisode] = []


class MetaTest(OfTasks):
    """The object ``meta_test``: measurements of all tasks, and of those of each group where there are groups."""

    __pydantic_extra__: dict[str, Mean] = Field(init=False)
    by_group: dict[str, OfTasks] = {}


def problem_of(error: ValidationError) -> str:
    """The first thing that is wrong, in a line."""
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"])) or "its content"
    return f"{shown(place)[1:-1]}: {first['msg'][0].lower()}{first['msg'][1:]}, got {shown(first['input'])}"
