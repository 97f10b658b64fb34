"""Paths in settings, and which settings are places of data."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator


def anchored(place: str) -> str:
    """A path made absolute, since workers and resumed runs may have another working directory; a URI as it is.

    >>> anchored("s3://bucket/data"), anchored("/data")
    ('s3://bucket/data', '/data')
    """
    return place if "://" in place else str(Path(os.path.expanduser(place)).absolute())


DataRoot = Annotated[str, AfterValidator(anchored)]
"""A file or folder, or a URI as ``pyarrow.fs`` opens it."""

DATA_PLACES = ("root", "path", "partition")
"""Settings under ``tasks``, or under its ``source``, that say where data lies; what the data is, hashes say."""


def data_places(tasks: Mapping[str, Any]) -> dict[str, str]:
    """Where a section ``tasks`` says that data lies, by the setting's full name.

    >>> data_places({"kind": "unlabelled", "partition": "/p", "source": {"kind": "omniglot", "root": "/data"}})
    {'tasks.partition': '/p', 'tasks.source.root': '/data'}
    """
    sections = {"tasks": tasks, "tasks.source": tasks.get("source")}
    return {
        f"{name}.{key}": values[key]
        for name, values in sections.items()
        if isinstance(values, Mapping)
        for key in DATA_PLACES
        if isinstance(values.get(key), str)
    }
