"""Tune's own state of a sweep, kept so that a killed driver cannot tear it.

Tune copies its state over the copy before, so that a kill in the middle leaves neither. What is kept here appears whole
or not at all, and is put back before Tune reads it.
"""

from __future__ import annotations

import re
import time
from pathlib import Path

from pydantic import NonNegativeInt

from distmeta.errors import TrustError
from distmeta.runs.directory import to_json
from distmeta.storage.files import MANIFEST, Storage
from distmeta.storage.json_files import JsonValues, read_json
from distmeta.storage.ownership import intruder

TUNE_FOLDER = "tune"
"""Ray Tune's own folder in a sweep's."""

KEPT = ("tune-state-0", "tune-state-1")
"""What is kept of it, by turns: where folders cannot be renamed, one of them is not whole while it is written."""

SECONDS = 2.0
"""Between two copies, at least; and where copying takes long, twenty times as long as it took."""

_FILES = re.compile(r"(experiment_state|search_gen_state|searcher-state|basic-variant-state)-.*")


class _Kept(JsonValues):
    number: NonNegativeInt


class StateKeeper:
    """Copies Tune's state, now and then.

    Args:
        home: the sweep's folder.
    """

    def __init__(self, home: Storage) -> None:
        self._home = home
        self._due = time.monotonic() + SECONDS
        self._number = max(_numbers(home).values(), default=0)

    def keep(self, staging: Path) -> None:
        """Copy the state from the folder where Tune has written it, if it is time to; not while it writes there."""
        began = time.monotonic()
        if began < self._due or not staging.is_dir():
            return
        files = {path.name: path.read_bytes() for path in staging.iterdir() if _FILES.fullmatch(path.name)}
        if files:
            self._number += 1
            self._home.publish(KEPT[self._number % 2], {**files, MANIFEST: to_json({"number": self._number}).encode()})
        ended = time.monotonic()
        self._due = ended + max(SECONDS, 20 * (ended - began))


def check_own(home: Storage) -> None:
    """Refuse a sweep whose state others could have written: to go on from it is to unpickle it, which can run code.

    Raises:
        TrustError: saying whose it is, or who may write to it.
    """
    if home.local is None:
        problem: str | None = "it lies elsewhere, where nobody here can see who may write to it"
    else:
        problem = intruder(home.local, (TUNE_FOLDER, *KEPT))
    if problem is not None:
        raise TrustError(
            f"{home.location}: --resume would unpickle what Ray Tune has kept of the sweep, which can run code, and "
            f"{problem}. Nothing was read. If you trust everybody who may write there, go on with --trust-code "
            "(trust_code=True in Python); else make the folder yours alone (chmod -R go-w)"
        )


def put_back(home: Storage) -> bool:
    """Make Tune's folder hold what was kept last; says whether there is any state to go on from."""
    numbers, state = _numbers(home), home.child(TUNE_FOLDER)
    if not numbers:  # it died in its first seconds, and its trials with it
        return False
    kept = home.child(max(numbers, key=lambda name: numbers[name]))
    for name in state.list():
        if _FILES.fullmatch(name):
            state.delete(name)
    for name in kept.list():
        if _FILES.fullmatch(name):
            state.write_bytes(name, kept.read_bytes(name))
    return True


def _numbers(home: Storage) -> dict[str, int]:
    """The folders that are whole, and when they were written, counted."""
    whole = [name for name in KEPT if home.child(name).exists(MANIFEST)]
    advice = "delete the folder; the other one holds an older state"
    return {name: read_json(home.child(name), MANIFEST, _Kept, advice)["number"] for name in whole}
