"""One driver at a time: a lease in a run's or a sweep's folder, on any storage.

Whoever wants a folder writes a claim of its own there, ``lease-GENERATION-TOKEN.json``, and then lists all claims.
Names are never used twice, so no two processes ever write the same file, and no file system needs locks or conditional
writes: of two that begin at the same instant at least one sees the other's claim. A claim that is held wins over all
that are not; among those that are not, the one with the lower rank goes on. Whoever takes over from a dead owner
deletes that claim.

The owner renews its claim in a thread, and looks before every write whether it still holds it: it may have been
stopped, or cut off, for so long that another host's driver took over. On a local file system a lock on the claim covers
the look and the write that follows, so that nobody can take over in between; elsewhere that is as long as one request
lasts.
"""

from __future__ import annotations

import atexit
import fcntl
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

from distmeta.errors import LeaseError, StorageError
from distmeta.runs import claims
from distmeta.runs.claims import DEFAULT_SECONDS, LONGEST_CLAIM, SHORTEST, Claim, Process
from distmeta.storage.files import Storage, explained

log = logging.getLogger(__name__)

VARIABLE = "DISTMETA_LEASE_SECONDS"
"""Environment variable: seconds without a heartbeat after which a driver that runs elsewhere counts as dead."""

HEARTBEATS = 6
"""Heartbeats in that time."""

_TOGETHER = 0.8  # seconds to wait for others that began at the same instant
_LOOK_AGAIN = 0.05


def _limit() -> float:
    said = os.environ.get(VARIABLE, "")
    try:
        seconds = float(said or DEFAULT_SECONDS)
    except ValueError:
        seconds = 0.0
    if not SHORTEST <= seconds < LONGEST_CLAIM:
        raise LeaseError(f"{VARIABLE} = {said}: expected seconds, from 0.5 to a day")
    return seconds


# To get one -------------------------------------------------------------------------------------------------------


def acquire(storage: Storage, patience: float = 0.0, check: Callable[[], None] = lambda: None) -> Lease:
    """Become the one driver of a folder.

    Args:
        storage: the run's or the sweep's folder; it need not exist yet.
        patience: seconds to wait for another driver to end, or to be known as dead.
        check: called while it waits; raises to end that.

    Raises:
        LeaseError: another driver holds it: who, since when, and what to do.
        StorageError: the folder cannot be read or written.

    >>> import tempfile
    >>> storage = Storage.at(tempfile.mkdtemp())
    >>> lease = acquire(storage)
    >>> acquire(storage)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    distmeta.errors.LeaseError: ... is in use: this very process has driven it for ...
    >>> lease.release()
    """
    end, waiting = time.monotonic() + patience, False
    while True:
        try:
            return _contend(storage)
        except LeaseError as error:
            if time.monotonic() >= end:
                raise
            if not waiting:
                log.info("%s; waiting for up to %s", error, _told(patience))
            waiting = True
        check()
        time.sleep(1.0)


def is_driven(storage: Storage) -> bool:
    """Whether a driver is at work in a folder, as far as its heartbeats tell; nothing is written."""
    now = time.time()
    here = Claim(0, "", False, Process.current(), now, now, _limit())
    found = [claim for claim in claims.read_all(storage) if claim.held]
    return any(not _is_dead(claim, here, max(0.0, now - claim.heartbeat)) for claim in found)


def _contend(storage: Storage) -> Lease:
    with explained("look for", storage.location):
        new = storage.local is not None and not storage.local.exists()
    now, generation = time.time(), 1 + max((-claims.rank_of(name)[0] for name in claims.names(storage)), default=0)
    mine = Claim(generation, uuid.uuid4().hex[:12], False, Process.current(), now, now, _limit())
    try:
        storage.write_bytes(mine.name, mine.to_json())
        dead = _wait_for_turn(storage, mine)
        mine = replace(mine, held=True)
        storage.write_bytes(mine.name, mine.to_json())
        for claim in dead:
            _remove_dead(storage, claim)
        return Lease(storage, mine, new)
    except BaseException:
        with suppress(StorageError):
            storage.delete(mine.name)
        raise


def _wait_for_turn(storage: Storage, mine: Claim) -> list[Claim]:
    """Give way to who holds the folder, or goes first; gives the claims of the dead."""
    end = time.monotonic() + _TOGETHER
    while True:
        others = [claim for claim in claims.read_all(storage) if claim.name != mine.name]
        silent = {claim.name: _silence(storage, claim, mine) for claim in others}
        dead = [claim for claim in others if _is_dead(claim, mine, silent[claim.name])]
        alive = [claim for claim in others if claim not in dead]
        for claim in alive:
            if claim.held:
                raise LeaseError(_refusal(storage, claim, mine, silent[claim.name]))
        if not alive:
            return dead
        if time.monotonic() > end or any(claim.rank < mine.rank for claim in alive):
            raise LeaseError(
                f"{storage.location} is in use: {alive[0].owner} began to drive it at the same instant, 0 s ago; let "
                "it go on, or try again when it has ended, with --resume"
            )
        time.sleep(_LOOK_AGAIN)


def _silence(storage: Storage, claim: Claim, mine: Claim) -> float:
    """Seconds since a claim was renewed; by the storage's own clock where it has one, for hosts' clocks differ."""
    then, now = storage.modified(claim.name), storage.modified(mine.name)
    if now is None:  # this storage does not tell times
        return max(0.0, time.time() - claim.heartbeat)
    return 0.0 if then is None else max(0.0, now - then)  # one that is not there right now is being replaced


def _is_dead(claim: Claim, mine: Claim, silence: float) -> bool:
    return not claim.owner.lives() if mine.owner.sees(claim.owner) else silence > claim.seconds


def _remove_dead(storage: Storage, claim: Claim) -> None:
    """Delete a dead owner's claim, unless the owner was stopped in the middle of a write and could finish it."""
    if claim.held:
        log.warning("%s: taking over from %s, which is dead or silent", storage.location, claim.owner)
    if storage.local is None:
        storage.delete(claim.name)
        return
    with suppress(FileNotFoundError), (storage.local / claim.name).open("rb+") as file:
        if not _lock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB):
            raise LeaseError(
                f"{storage.location} is in use: {claim.owner} was stopped in the middle of a write; end that process "
                "first, then go on with --resume"
            )
        storage.delete(claim.name)


def _refusal(storage: Storage, claim: Claim, mine: Claim, silence: float) -> str:
    owner, here = claim.owner, mine.owner.sees(claim.owner)
    if not owner.known:
        file = storage.child(claim.name).location
        return (
            f"{storage.location} is in use: its lease {file} is damaged and does not tell by whom; delete that file if "
            f"nothing runs there, or wait: --resume goes on in {_told(claim.seconds - silence + 1)}"
        )
    who = "this very process" if owner == mine.owner else str(owner)
    begun = f"{storage.location} is in use: {who} has driven it for {_told(time.time() - claim.since)}"
    if owner == mine.owner:
        advice = "let that run end first (`close()` ends what `train` gave), or name another --run-dir"
    elif not here:
        advice = (
            f"wait until it ends, or end it there (`kill {owner.pid}` saves its steps), or name another --run-dir. If "
            f"that process is dead, --resume goes on in {_told(claim.seconds - silence + 1)}"
        )
    elif silence > claim.seconds:
        advice = (
            f"it is alive but stopped, or very slow: `kill -CONT {owner.pid}` lets it go on, `kill -KILL {owner.pid}` "
            "ends it, after which --resume continues from its last checkpoint"
        )
    else:
        advice = f"wait until it ends, or end it (`kill {owner.pid}` saves its steps), or name another --run-dir"
    return f"{begun} (last heartbeat {_told(silence)} ago); {advice}"


def _told(seconds: float) -> str:
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def _lock(file: int, how: int) -> bool:
    """Lock or unlock a file; false where another process has it. Without effect where the file system has no locks."""
    try:
        fcntl.flock(file, how)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


# To hold one ------------------------------------------------------------------------------------------------------


class Lease:
    """A folder that this process holds, from :func:`acquire` until :meth:`release`.

    Args:
        storage: the folder.
        claim: this process's, written there.
        new: whether the folder was made for it; it is removed with the lease where nothing else came into it.

    Raises:
        LeaseError: another driver holds the folder; from every method but :meth:`release`.
    """

    def __init__(self, storage: Storage, claim: Claim, new: bool) -> None:
        self._storage, self._claim, self._new = storage, claim, new
        self._lost: str | None = None
        self._confirmed = _clock()
        self._lock = threading.RLock()
        self._ended = threading.Event()
        local = storage.local
        self._file = os.open(local / claim.name, os.O_RDWR) if local is not None else None
        self._thread = threading.Thread(target=self._renew_for_ever, name="distmeta-lease", daemon=True)
        try:
            self.verify()
        except BaseException:
            self._close_file()
            raise
        self._thread.start()
        atexit.register(self.release)  # before libraries that the thread calls end

    def check(self) -> None:
        """Raise if the folder is known to be lost; looks there only after a long silence, so it costs nothing."""
        if self._lost is not None:
            raise LeaseError(self._lost)
        if _clock() - self._confirmed > self._claim.seconds:
            with suppress(StorageError):  # what cannot be asked now is asked before the next write
                self.verify()
            if self._lost is not None:
                raise LeaseError(self._lost)

    def verify(self) -> None:
        """Look in the folder, and raise if another driver has taken it over."""
        if self._lost is None and os.getpid() != self._claim.owner.pid:
            self._lost = f"process {os.getpid()} is a fork of the driver of {self._storage.location}, and may not write"
        if self._lost is not None:
            raise LeaseError(self._lost)
        names, mine = claims.names(self._storage), self._claim
        better = [claims.read(self._storage, name) for name in names if claims.rank_of(name) < mine.rank]
        winner = next((claim for claim in better if claim is not None and claim.held), None)
        if winner is None and mine.name in names:
            self._confirmed = _clock()
            return
        self._lost = self._loss(winner)
        raise LeaseError(self._lost)

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Around a write: only while the folder is held."""
        if self._file is None:
            self.verify()
            yield
            return
        with self._lock:
            _lock(self._file, fcntl.LOCK_EX)
            try:
                self.verify()
                yield
            finally:
                _lock(self._file, fcntl.LOCK_UN)

    def release(self) -> None:
        """Let others have the folder; a second call does nothing."""
        if self._ended.is_set() or os.getpid() != self._claim.owner.pid:
            return
        atexit.unregister(self.release)
        self._ended.set()
        self._thread.join()
        self._close_file()
        try:
            self._storage.delete(self._claim.name)
            if self._new and self._storage.local is not None:
                with suppress(OSError):  # it holds a run now
                    self._storage.local.rmdir()
        except StorageError as error:
            log.warning("the lease is left behind: %s", error)

    def _renew_for_ever(self) -> None:
        told = False
        while not self._ended.wait(self._claim.seconds / HEARTBEATS):
            try:
                self.verify()
                self._renew()
                told = False
            except LeaseError:
                return
            except StorageError as error:
                if not told:
                    log.warning("the lease cannot be renewed: %s", error)
                told = True

    def _renew(self) -> None:
        if self._file is not None:
            with explained("write", self._storage.child(self._claim.name).location):
                os.utime(self._file)  # of what is open: it never brings back a file that was deleted
            return
        self._claim = replace(self._claim, heartbeat=time.time())
        self._storage.write_bytes(self._claim.name, self._claim.to_json())

    def _close_file(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _loss(self, winner: Claim | None) -> str:
        silent, place = _told(_clock() - self._confirmed), self._storage.location
        if winner is None:
            return (
                f"the lease of this process in {place} is gone, {silent} after it was last seen: another driver took "
                "over and has ended, or somebody deleted it. This one ends and writes nothing more; --resume goes on"
            )
        return (
            f"{winner.owner} has taken over {place} {_told(time.time() - winner.since)} ago, since this process was "
            f"silent for {silent} (stopped, or cut off from its storage) and counted as dead. This one ends and writes "
            "nothing more; the other one goes on with the run"
        )


def _clock() -> float:
    """Seconds that go on while this process is stopped, and where the platform can tell while the machine sleeps."""
    boot = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boot is None else time.clock_gettime(boot)
