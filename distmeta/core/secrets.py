"""Secrets in URIs: what is shown or written has them masked, and a masked URI is opened by what the environment holds.

``s3://KEY:SECRET@bucket/runs?token=T`` becomes ``s3://KEY:***@bucket/runs?token=***``, wherever it stands in a text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar
from urllib.parse import unquote

MASK = "***"

_T = TypeVar("_T")

_WORD = re.compile(r"\S+")
# What is before the last @ of an authority; a slash may be missing: pathlib takes one. Where a path with another @
# follows, a slash of the password should have been written as %2F.
_USER = re.compile(r"(https?|s3|gs)?(:/+)([^\s/?#]*)@(?![^\s/?#]*@)(?![/?#]\S*?@)", re.IGNORECASE)
_COLON = re.compile(r":|%(?:25)*3a", re.IGNORECASE)
# Such passwords: no client takes them, errors show them. A dashboard's own address, http://HOST:PORT/#/..., is none.
_MISWRITTEN = re.compile(r":/+[^\s/?#@:%]*(?::|%(?:25)*3a)(?!\*\*\*@)(?!\d{1,5}/#/)", re.IGNORECASE)
_PARAMETER = re.compile(r"[?&;#]([^=&;?#\s]+)=")
# A quote ends a value where the text goes on as after a quotation.
_VALUE = re.compile(r"(?:[^&\s'\"]|['\"](?![\s,:;.)\]}>]|$))+")
_SECRET_NAME = re.compile(
    r"secret|pass|pwd|token|signature|auth(?!or(?!i[sz]))|credential(?!_kind)|cookie|(^|[^a-z])(sas|sig|jwt|bearer|creds?)"
    r"($|[^a-z])|(api|account|access|private|shared|customer|encryption|master|session|signing)[^a-z]?key|^key$",
    re.IGNORECASE,
)
_LEFT_OUT = re.compile(r":/+[^/\s]*\*\*\*@|[?&;#][^=&;#]+=\*\*\*(?=[&;#]|$)")
_ENCODED = 8  # times over that a text may be encoded


def mask(text: str) -> str:
    """A text without the secrets of the URIs in it.

    >>> mask("cannot open s3://key:SECRET@bucket/a?region=x&session_token=T")
    'cannot open s3://key:***@bucket/a?region=x&session_token=***'
    """
    if ":/" not in text and "%" not in text:
        return text
    text = _mask(text)
    return _WORD.sub(lambda found: _mask_encoded(found[0]), text) if "%" in text else text


def _mask(text: str) -> str:
    """Without what is written as such, and not as ``%3A`` and the like."""
    if ":/" not in text:
        return text
    text = _USER.sub(_without_password, text)
    if "@" in text:
        text = _USER.sub(_without_password, _WORD.sub(lambda found: _without_miswritten(found[0]), text))
    return _without_values(text)


def _without_password(found: re.Match[str]) -> str:
    """``KEY:***@``; of the web, where a token may stand for a name, ``***@``."""
    scheme, slashes, user = found[1] or "", found[2], found[3]
    colon = _COLON.search(user)
    if user and scheme.lower().startswith("http"):
        return f"{scheme}{slashes}{MASK}@"
    if colon is not None:
        return f"{scheme}{slashes}{user[: colon.end()]}{MASK}@"
    return f"{scheme}{slashes}{MASK}@" if user and scheme else found[0]


def _without_miswritten(word: str) -> str:
    end = word.rfind("@")
    start = _MISWRITTEN.search(word, 0, end) if end > 0 else None
    return word if start is None else f"{word[: start.end()]}{MASK}{word[end:]}"


def _without_values(text: str) -> str:
    """Without those of parameters with a secret's name."""
    parts, done = [], 0
    for found in _PARAMETER.finditer(text):
        if found.start() < done or not _SECRET_NAME.search(_decoded(found[1])):
            continue
        if value := _VALUE.match(text, found.end()):
            parts += [text[done : found.end()], MASK]
            done = value.end()
    return "".join(parts) + text[done:]


def _mask_encoded(word: str) -> str:
    """A word; decoded, where that shows something to mask."""
    if "%" not in word:
        return word
    plain = _decoded(word)
    hidden = _mask(plain)
    return word if hidden == plain else hidden


def _decoded(word: str) -> str:
    """Without percent signs, however often it was encoded; one word still."""
    for _ in range(_ENCODED):
        if (plain := unquote(word)) == word:
            break
        word = plain
    return re.sub(r"\s", "+", word)


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
    text = re.sub(r"(:/+)[^/\s]*\*\*\*@", r"\1", text)
    address, *parameters = re.split(r"(?=[?&;#])", text)
    kept = [part for part in parameters if not part.endswith(f"={MASK}")]
    if kept and kept[0][0] in "&;":  # the first one was left out
        kept[0] = f"?{kept[0][1:]}"
    return address + "".join(kept)


def is_masked(location: str) -> bool:
    """Whether a URI was written down without its secret."""
    return _LEFT_OUT.search(location) is not None


def _each_text(value: Any, change: Any) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _each_text(item, change) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_each_text(item, change) for item in value)
    return value
