"""CLINC150 as it is published: ``data_full.json`` and ``domains.json``."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from distmeta.core.quoting import BAD_TEXT, shown
from distmeta.data.text_source import TextRows
from distmeta.errors import DataError, StorageError
from distmeta.storage.files import Storage

TEXTS, DOMAINS = "data_full.json", "domains.json"
PARTS = ("train", "val", "test")
"""Lists of ``[text, intent]`` in the texts' file; those of out-of-scope texts are left out."""

_SUBFOLDER = "clinc150"
_HELP = f"set tasks.root or DISTMETA_DATA to a folder that holds {TEXTS} and {DOMAINS}, there or in {_SUBFOLDER}/"


@dataclass(frozen=True)
class Clinc:
    """The two files, found and read: short enough to be held whole.

    Larson et al., "An evaluation dataset for intent classification and out-of-scope prediction", EMNLP 2019.

    Attributes:
        place: the folder.
        texts: content of the texts' file.
        domains: content of the domains' file.
    """

    place: str
    texts: bytes
    domains: bytes

    @classmethod
    def find(cls, root: str | None) -> Clinc:
        """Where ``root`` says, else ``DISTMETA_DATA``.

        Raises:
            DataError: they are not there, or cannot be read.
        """
        base = root or os.environ.get("DISTMETA_DATA")
        if not base:
            raise DataError(f"cannot find CLINC150: neither tasks.root nor DISTMETA_DATA is set; {_HELP}")
        try:
            folders = (Storage.at(base), Storage.at(base).child(_SUBFOLDER))
            folder = next((each for each in folders if each.exists(TEXTS)), None)
            if folder is None:
                raise DataError(f"{shown(base)[1:-1]} holds no CLINC150; {_HELP}")
            return cls(folder.location, folder.read_bytes(TEXTS), folder.read_bytes(DOMAINS))
        except StorageError as error:
            raise DataError(f"CLINC150: {error}") from None

    def version(self) -> str:
        """A hash of both."""
        return hashlib.sha256(self.texts + b"\0" + self.domains).hexdigest()

    def rows(self) -> Iterator[TextRows]:
        """All texts with a domain, part by part; groups are the domains."""
        texts, domains = _json(self.texts, f"{self.place}/{TEXTS}"), _json(self.domains, f"{self.place}/{DOMAINS}")
        domain_of = {intent: domain for domain, intents in domains.items() for intent in _list(intents, DOMAINS)}
        for part in PARTS:
            place, pairs = f"{self.place}/{TEXTS} ({part})", _list(texts.get(part), f"{TEXTS}, {part}")
            for row, pair in enumerate(pairs, 1):
                fits = isinstance(pair, list) and len(pair) == 2 and all(isinstance(value, str) for value in pair)
                if not fits or not pair[0].strip() or BAD_TEXT.search(pair[0]) or pair[1] not in domain_of:
                    raise DataError(
                        f"{place}: entry {row:,} is {shown(pair)}; expected a text and an intent of {DOMAINS}"
                    )
            yield TextRows(place, 1, *zip(*((text, intent, domain_of[intent]) for text, intent in pairs), strict=True))


def _json(content: bytes, place: str) -> dict[str, Any]:
    try:
        values = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place} is damaged ({shown(str(error))[1:-1]}); fetch it again") from None
    if not isinstance(values, dict):
        raise DataError(f"{place} is not CLINC150's: expected an object, got {shown(values)}; fetch it again")
    return values


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise DataError(f"CLINC150's {what}: expected a list, got {shown(value)}; fetch the file again")
    return value
