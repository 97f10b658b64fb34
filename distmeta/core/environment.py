"""A variable of the environment, set for a while."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def variable(name: str, value: str) -> Iterator[None]:
    """Set a variable of this process's environment; afterwards it is as before.

    >>> with variable("DISTMETA_EXAMPLE", "1"):
    ...     os.environ["DISTMETA_EXAMPLE"]
    '1'
    >>> "DISTMETA_EXAMPLE" in os.environ
    False
    """
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before
