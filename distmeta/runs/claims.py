"""What processes write into a folder that they want for themselves; :mod:`distmeta.runs.lease` says who gets it."""

from __future__ import annotations

import json
import os
import re
import socket
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from distmeta.config.text import parse_json
from distmeta.core.quoting import shown
from distmeta.errors import StorageError
from distmeta.storage.files import Storage
from distmeta.storage.json_files import JsonValues

DEFAULT_SECONDS = 30.0
"""Without a heartbeat after which a process of another host counts as dead."""

SHORTEST, LONGEST_CLAIM = 0.5, 86400.0
"""Limits of such a time."""

_NAME = re.compile(r"lease-(\d{8,})-([0-9a-f]+)\.json")


@dataclass(frozen=True)
class Process:
    """A process, told from every other one that ever has its number.

    Attributes:
        host: its host's name, for people.
        machine: the running kernel: other hosts and the same one after a restart have another.
        namespace: the process numbers that it sees; containers have their own.
        pid: its number there.
        started: when it began, in the kernel's ticks; ``None`` where the platform does not say.
    """

    host: str
    machine: str
    namespace: str
    pid: int
    started: int | None

    @classmethod
    def current(cls) -> Process:
        """This process."""
        host = socket.gethostname()
        try:
            machine = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
            namespace = os.readlink("/proc/self/ns/pid")
        except OSError:  # not Linux
            machine, namespace = host, ""
        seen = _look_up(os.getpid())
        return cls(host, machine, namespace, os.getpid(), seen[1] if seen else None)

    def sees(self, other: Process) -> bool:
        """Whether this process can tell if the other one is alive."""
        return (self.machine, self.namespace) == (other.machine, other.namespace)

    def lives(self) -> bool:
        """Whether this process, of this host, is alive; a stopped one is."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        seen = _look_up(self.pid)
        return seen is None or (seen[0] not in "ZX" and seen[1] == self.started)

    def __str__(self) -> str:
        # Others wrote the host's name: it must not change a terminal.
        return (
            f"process {self.pid} on {shown(self.host)[1:-1]}"
            if self.known
            else "a process that its damaged lease hides"
        )

    @property
    def known(self) -> bool:
        """Whether its claim could be read."""
        return self.pid > 0


def _look_up(pid: int) -> tuple[str, int] | None:
    """A process's state and start time, where ``/proc`` shows it."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return fields[0], int(fields[19])


_UNKNOWN = Process("", "", "", 0, None)
_Time = Annotated[float, Field(ge=0, lt=1e11)]  # seconds since 1970, for some thousand years


class _Owner(JsonValues):
    host: str
    machine: str
    namespace: str
    pid: int = Field(gt=0, lt=2**31)  # what the kernel takes; 0 and less would be groups of processes
    started: int | None


class _Content(JsonValues):
    """What a claim's file holds."""

    held: bool
    owner: _Owner
    since: _Time
    heartbeat: _Time
    seconds: float = Field(ge=SHORTEST, lt=LONGEST_CLAIM)


@dataclass(frozen=True)
class Claim:
    """What a process says in a folder that it wants, or holds.

    Attributes:
        generation: one more than any claim that it found there.
        token: tells this claim from all others.
        held: whether it has got the folder.
        owner: the process.
        since: when it was made, by the owner's clock.
        heartbeat: when the owner last renewed it, likewise.
        seconds: without a heartbeat after which others may take the owner for dead.
    """

    generation: int
    token: str
    held: bool
    owner: Process
    since: float
    heartbeat: float
    seconds: float

    @property
    def name(self) -> str:
        """Of its file."""
        return f"lease-{self.generation:08d}-{self.token}.json"

    @property
    def rank(self) -> tuple[int, str]:
        """The lower one goes on where two meet."""
        return rank_of(self.name)

    def to_json(self) -> bytes:
        """The file's content."""
        return (json.dumps(asdict(self), indent=2) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes, name: str) -> Claim:
        """What :meth:`to_json` gave; where it is damaged, somebody unknown holds it."""
        generation, token = rank_of(name)
        try:
            values = _Content.model_validate(parse_json(data))
        except ValueError:
            return cls(-generation, token, True, _UNKNOWN, 0.0, 0.0, DEFAULT_SECONDS)
        its = values.owner
        owner = Process(its.host, its.machine, its.namespace, its.pid, its.started)
        return cls(-generation, token, values.held, owner, values.since, values.heartbeat, values.seconds)


def rank_of(name: str) -> tuple[int, str]:
    """Of the claim in a file of this name."""
    match = _NAME.fullmatch(name)
    assert match is not None
    return -int(match[1]), match[2]


def names(storage: Storage) -> list[str]:
    """The files of all claims in a folder."""
    return [name for name in storage.list() if _NAME.fullmatch(name)]


def read(storage: Storage, name: str) -> Claim | None:
    """A claim; ``None`` where it was taken back meanwhile."""
    try:
        return Claim.from_json(storage.read_bytes(name), name)
    except StorageError:
        if name in storage.list():
            raise
        return None


def read_all(storage: Storage) -> list[Claim]:
    """All claims in a folder."""
    found = (read(storage, name) for name in names(storage))
    return [claim for claim in found if claim is not None]
