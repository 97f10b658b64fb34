"""Secrets in URIs: what is shown or written has them masked, and a masked URI is opened by what the environment holds.

``s3://KEY:SECRET@bucket/runs?token=T`` becomes ``s3://KEY:***@bucket/runs?token=***``, wherever it stands in a text.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote

MASK = "***"
S3_VARIABLES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
"""From which S3's client takes what a URI does not say."""

_T = TypeVar("_T")

# What is before the last @ of an authority. A slash may be missing: pathlib takes one.
_USER = re.compile(r"([a-z0-9+.-]*:/{1,2})([^\s/?#]*)@", re.IGNORECASE)
# Passwords whose slashes and the like should have been written as %2F: no client takes them, errors show them.
_MISWRITTEN = re.compile(r"(:/{1,2}([^\s/@:?#]*):)(?!\*\*\*@)([^\s@]*)@")
_PORT = re.compile(r"\d{1,5}/")
_COLON = re.compile(":|%3a", re.IGNORECASE)
_PARAMETER = re.compile(r"([?&;#]([^=&;?\s'\"#]+)=)([^&;#\s]*?)(?=[&;#\s]|$|['\"](?:[\s,)\]}:]|$))")
_SECRET_NAME = re.compile(
    r"secret|passw|passphrase|pwd|token|signature|authorization|credential(?!_kind)"
    r"|(^|[_-])(sig|sas|pass|auth)$|(api|account|access|private|shared)[_-]?key|^key$",
    re.IGNORECASE,
)
_LEFT_OUT = re.compile(r"://[^/\s]*\*\*\*@|[?&;#][^=&;]+=\*\*\*(?=[&;#]|$)")
# Other ways in which S3's client may have been given its credentials.
_S3_SOURCES = ("AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")


def mask(text: str) -> str:
    """A text without the secrets of the URIs in it.

    >>> mask("cannot open s3://key:SECRET@bucket/a?region=x&session_token=T")
    'cannot open s3://key:***@bucket/a?region=x&session_token=***'
    """
    if ":/" not in text:
        return text
    text = _USER.sub(_without_password, text)
    text = _MISWRITTEN.sub(_without_miswritten, text)
    return _PARAMETER.sub(_without_value, text)


def _without_password(found: re.Match[str]) -> str:
    """``KEY:***@``; of the web, where a token may stand for a name, ``***@``."""
    scheme, user = found.groups()
    if colon := _COLON.search(user):
        return f"{scheme}{user[: colon.start()]}:{MASK}@"
    return f"{scheme}{MASK}@" if scheme.lower().startswith("http") else found[0]


def _without_miswritten(found: re.Match[str]) -> str:
    """The same; but after what looks like a host it is a port."""
    start, host, password = found.groups()
    if ("." in host or host == "localhost") and _PORT.match(password):
        return found[0]
    return f"{start}{MASK}@"


def _without_value(found: re.Match[str]) -> str:
    """``name=***`` where the name is that of a secret, or the value a URI that holds one; both may be encoded."""
    start, name, value = found.groups()
    plain = unquote(value)
    return start + (MASK if _SECRET_NAME.search(unquote(name)) or mask(plain) != plain else value)


def looks_like_uri(location: str) -> bool:
    """Whether a location is a URI, or one that lost its name or a slash, and no path of this machine.

    >>> looks_like_uri("s3://bucket/a"), looks_like_uri("s3:/bucket/a"), looks_like_uri("runs/a:b")
    (True, True, False)
    """
    return re.match(r"([a-z][a-z0-9+.-]+)?:/", location, re.IGNORECASE) is not None


def masked(value: _T) -> _T:
    """JSON values with every text in them masked.

    >>> masked({"tasks": {"root": "s3://key:SECRET@bucket"}, "seed": 1})
    {'tasks': {'root': 's3://key:***@bucket'}, 'seed': 1}
    """
    result: _T = _each_text(value, mask)
    return result


def without_secrets(value: _T) -> _T:
    """JSON values whose URIs name places only, so that what differs in credentials alone is equal.

    >>> without_secrets("s3://key:SECRET@bucket/a?region=x&token=T") == without_secrets("s3://bucket/a?region=x")
    True
    """
    result: _T = _each_text(value, lambda text: strip(mask(text)))
    return result


def strip(text: str) -> str:
    """A masked URI without what was masked, and the name that belonged to it."""
    if not is_masked(text):
        return text
    text = re.sub(r"://[^/\s]*\*\*\*@", "://", text)
    address, _, rest = text.partition("?")
    query, mark, fragment = rest.partition("#")
    kept = "&".join(part for part in re.split("[&;]", query) if part and not part.endswith(f"={MASK}"))
    return address + (f"?{kept}" if kept else "") + mark + fragment


def is_masked(location: str) -> bool:
    """Whether a URI was written down without its secret."""
    return _LEFT_OUT.search(location) is not None


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
    from distmeta.errors import ConfigError

    if mask(location) == location:
        return {}
    user, _, secret = location.removeprefix("s3://").partition("@")[0].partition(":")
    if not location.startswith("s3://") or is_masked(mask(location.partition("@")[2])):
        raise ConfigError(
            f"{location}: a sweep's files cannot lie at a URI with a secret in it but s3://KEY:SECRET@..."
        )
    values = dict(zip(S3_VARIABLES, (unquote(user), unquote(secret)), strict=True))
    for name, value in values.items():
        if os.environ.get(name, value) != value:
            raise ConfigError(f"{location}: the environment names other credentials, in {name}; use one of both")
    return values


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Add variables to this process's environment; at the end it is as it was."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _each_text(value: Any, change: Any) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _each_text(item, change) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_each_text(item, change) for item in value)
    return value
