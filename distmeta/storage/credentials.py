"""Credentials of storage: taken out of URIs into the environment, and missed where a URI was written without them."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote

from distmeta.core.secrets import is_masked, mask
from distmeta.errors import ConfigError

S3_VARIABLES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
"""From which S3's client takes what a URI does not say."""


# Other ways in which S3's client may have been given its credentials.
_S3_SOURCES = ("AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")


def missing_from_environment(location: str) -> str | None:
    """What to do about a masked URI that the environment does not open; ``None`` where it may."""
    what = f"{location}: its secret was left out when this was written down"
    again = "name the URI with it again (tasks.root=URI for a run's data)"
    if not location.startswith("s3://"):
        return f"{what}; {again}"
    given = all(os.environ.get(name) for name in S3_VARIABLES) or any(os.environ.get(name) for name in _S3_SOURCES)
    if given or Path(os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials").expanduser().exists():
        return None
    return f"{what}; set {' and '.join(S3_VARIABLES)} in the environment, or {again}"


def credentials(location: str) -> dict[str, str]:
    """The environment variables that open a URI without its secrets; none where it has none.

    Raises:
        ConfigError: there are no such variables for this kind of storage, or they have other values already.

    >>> credentials("s3://key:SE%2FCRET@bucket/a")
    {'AWS_ACCESS_KEY_ID': 'key', 'AWS_SECRET_ACCESS_KEY': 'SE/CRET'}
    """
    if mask(location) == location:
        return {}
    authority, _, rest = location.removeprefix("s3://").partition("/")
    given, _, bucket = authority.rpartition("@")
    user, _, secret = given.partition(":")
    if not location.startswith("s3://") or not secret or is_masked(mask(f"s3://{bucket}/{rest}")):
        raise ConfigError(
            f"{location}: a sweep's files cannot lie at a URI with a secret in it but s3://KEY:SECRET@..."
        )
    values = dict(zip(S3_VARIABLES, (unquote(user), unquote(secret)), strict=True))
    for name, value in values.items():
        if os.environ.get(name, value) != value:
            raise ConfigError(f"{location}: the environment names other credentials, in {name}; use one of both")
    return values
