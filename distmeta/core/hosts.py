"""Hosts that settings name: whoever connects to one sends credentials there, so only the user's own settings may.

A bucket of S3 or of Google Cloud Storage is none: its host is the provider's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from distmeta.core.secrets import MASK, looks_like_uri

_ADDRESS = "cluster.address"
_THIS_MACHINE = ("auto", "local", "")
_CODE = "model."
"""Settings for the user's own code, which knows what it does with them."""

_BUCKET = re.compile(r"(s3|gs|gcs)://(?:[^\s/?#@]*@)?[\w.-]+(?:/[^?#]*)?(?:\?([^#]*))?", re.IGNORECASE)
_PARAMETERS = {
    "s3": ("region", "allow_bucket_creation", "allow_bucket_deletion", "force_virtual_addressing"),
    "gs": ("project_id", "default_bucket_location", "retry_limit_seconds"),
}
"""What a bucket's URI may say without naming a host."""


def hosts_in(values: Any, own: Iterable[str] = ()) -> dict[str, str]:
    """Settings that name a host, by dotted key; in those of a sweep, of its base too.

    Args:
        values: settings.
        own: dotted keys that do not count, nor what lies below them.

    >>> hosts_in({"tasks": {"root": "s3://bucket/a?region=x"}, "cluster": {"address": "10.0.0.1:6379"}})
    {'cluster.address': '10.0.0.1:6379'}
    >>> hosts_in({"tasks": {"root": "s3://bucket?endpoint_override=host"}}, ["tasks.root"])
    {}
    """
    known = [f"{place}{key}" for key in own for place in ("", "base.", "settings.")]
    return {
        key: text
        for key, text in _texts(values, "")
        if _names_host(key, text) and not any(key == each or key.startswith(f"{each}.") for each in known)
    }


def _names_host(key: str, text: str) -> bool:
    if f".{_ADDRESS}" in f".{key}":
        return text not in _THIS_MACHINE
    if (
        f".{_CODE}" in f".{key}"
        or not ("://" in text or looks_like_uri(text))
        or text.startswith("/")
        or text.lower().startswith("file:/")
    ):
        return False
    found = _BUCKET.fullmatch(text)
    if found is None:
        return True
    allowed = _PARAMETERS["s3" if found[1].lower() == "s3" else "gs"]
    parts = [part.partition("=") for part in re.split("[&;]", found[2] or "") if part]
    return not all(value == MASK or (name in allowed and re.fullmatch(r"[\w-]*", value)) for name, _, value in parts)


def _texts(values: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(values, str):
        yield key, values
    elif isinstance(values, Mapping):
        for name, value in values.items():
            yield from _texts(value, f"{key}.{name}" if key else str(name))
    elif isinstance(values, (list, tuple)):
        for at, value in enumerate(values):
            yield from _texts(value, f"{key}.{at}")
