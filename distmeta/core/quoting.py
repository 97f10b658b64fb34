"""Values as messages quote them."""

from __future__ import annotations

import re
from typing import Any

from distmeta.core.secrets import mask

_SHOWN = 200
"""Characters of a value in a message."""


BAD_TEXT = re.compile("[\0\ud800-\udfff]")
"""Characters that no file system and no UTF-8 takes."""


def shown(value: Any) -> str:
    """A value as a message quotes it: like ``repr``, cut where it is long."""
    text = mask(repr(value))  # before it is cut: a part of a URI is not known as one
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text):,} characters)"
