"""Paths in settings."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator


def anchored(place: str) -> str:
    """A path made absolute, since workers and resumed runs may have another working directory; a URI as it is.

    >>> anchored("s3://bucket/data"), anchored("/data")
    ('s3://bucket/data', '/data')
    """
    return place if "://" in place else str(Path(os.path.expanduser(place)).absolute())


DataRoot = Annotated[str, AfterValidator(anchored)]
"""A file or folder, or a URI as ``pyarrow.fs`` opens it."""
