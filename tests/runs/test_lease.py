"""A folder has one driver: of many that begin at once, beside a live one, after a dead one, on any storage."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import pyarrow.fs
import pytest

from distmeta.errors import DistmetaError, LeaseError, StorageError
from distmeta.runs import claims
from distmeta.runs.claims import Claim, Process
from distmeta.runs.lease import VARIABLE, Lease, acquire
from distmeta.storage.files import Storage

ELSEWHERE = Process("far-away", "another kernel", "", 17, 4)
FORKS = multiprocessing.get_context("fork")


@pytest.fixture
def folder(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if kind != "s3":
        return str(tmp_path / "run")
    return str(request.getfixturevalue("bucket").format(f"/leases/{tmp_path.name}"))


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "1.5")


def leave(storage: Storage, owner: Process, silence: float = 0.0, held: bool = True) -> Claim:
    """A claim that another process has made."""
    then = time.time() - silence
    claim = Claim(3, "feed", held, owner, then, then, 60.0)
    storage.write_bytes(claim.name, claim.to_json())
    if storage.local is not None:
        os.utime(storage.local / claim.name, (then, then))
    return claim


def seize(folder: str, gate: Connection, reports: Connection) -> None:
    gate.recv()
    try:
        lease = acquire(Storage.at(folder))
    except DistmetaError as error:
        reports.send(str(error))
        return
    reports.send("")
    time.sleep(1.2)  # until the others have given up
    lease.release()


def test_many_processes_at_the_same_instant(tmp_path: Path) -> None:
    """Exactly one gets it."""
    folder = str(tmp_path)
    for _ in range(2):
        gates, reports = zip(*[(FORKS.Pipe(False), FORKS.Pipe(False)) for _ in range(4)], strict=True)
        racers = [
            FORKS.Process(target=seize, args=(folder, gate[0], report[1]), daemon=True)
            for gate, report in zip(gates, reports, strict=True)
        ]
        for racer in racers:
            racer.start()
        for _, gate in gates:
            gate.send(True)
        told = [report.recv() for report, _ in reports]
        for racer in racers:
            racer.join()
        assert told.count("") == 1, told
        assert all("is in use" in message for message in told if message)
        assert Storage.at(folder).list() == []


def may_write(lease: Lease) -> bool:
    """As every write asks first. A store that shows no file while it is replaced may let two get a lease."""
    try:
        lease.verify()
    except LeaseError:
        return False
    return True


def without_locks(folder: str) -> Storage:
    """A folder on a disk, used as an object store that neither locks files nor replaces them atomically."""
    files = pyarrow.fs.SubTreeFileSystem(folder, pyarrow.fs.LocalFileSystem())
    return Storage(files, "run", f"plain://{folder}/run")


@pytest.mark.parametrize(
    ("kind", "attempts"),
    [
        ("local", 8),
        pytest.param("s3", 3, marks=pytest.mark.slow),
        ("no-locks", 8),
        pytest.param("s3", 12, marks=pytest.mark.slow),
    ],
)
def test_many_threads_at_the_same_instant(kind: str, attempts: int, folder: str) -> None:
    """On storage without locks too; threads of one process are each other's rivals as well. Never two may write."""
    for attempt in range(attempts):
        at = without_locks if kind == "no-locks" else Storage.at
        storage = at(folder).child(str(attempt))
        barrier = threading.Barrier(6)
        held: list[Lease] = []

        def race(storage: Storage = storage, barrier: threading.Barrier = barrier, held: list[Lease] = held) -> None:
            barrier.wait()
            with suppress(LeaseError):
                held.append(acquire(storage))

        with ThreadPoolExecutor(6) as pool:
            for job in [pool.submit(race) for _ in range(6)]:
                job.result()
        writers = [lease for lease in held if may_write(lease)]
        for lease in held:
            lease.release()
        assert len(writers) <= 1

        assert storage.list() == []


@pytest.mark.parametrize("kind", ["local", "s3"])
def test_a_process_that_ends_without_releasing_it(kind: str, folder: str) -> None:
    """It leaves nothing behind, and its thread disturbs nothing while the interpreter ends."""
    code = "import sys; from distmeta.runs.lease import acquire; from distmeta.storage.files import Storage\n"
    code += "kept = acquire(Storage.at(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, folder], check=True, env=os.environ | {VARIABLE: "0.5"}, timeout=60)
    assert Storage.at(folder).list() == []


def hold(folder: str, reports: Connection) -> None:
    os.environ[VARIABLE] = "1.5"
    acquire(Storage.at(folder))
    reports.send(os.getpid())
    time.sleep(100)


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[int]:
    """Another process that holds the folder."""
    receiver, sender = FORKS.Pipe(False)
    process = FORKS.Process(target=hold, args=(str(tmp_path), sender), daemon=True)
    process.start()
    yield receiver.recv()
    process.kill()
    process.join()


def test_beside_a_live_one_and_after_a_dead_one(tmp_path: Path, holder: int, caplog: pytest.LogCaptureFixture) -> None:
    storage = Storage.at(tmp_path)
    before, began = storage.list(), time.monotonic()
    with pytest.raises(LeaseError, match=rf"in use: process {holder} on .* has driven it for .*heartbeat.*--run-dir"):
        acquire(storage)
    assert time.monotonic() - began < 1
    assert storage.list() == before

    os.kill(holder, signal.SIGSTOP)
    time.sleep(2)  # longer than a heartbeat may be late
    with pytest.raises(LeaseError, match=rf"alive but stopped, or very slow: `kill -CONT {holder}`"):
        acquire(storage)
    assert storage.list() == before

    os.kill(holder, signal.SIGKILL)  # unreaped: a zombie is dead
    began = time.monotonic()
    lease = acquire(storage, patience=1.0)
    assert time.monotonic() - began < 2
    assert f"taking over from process {holder}" in caplog.text
    lease.release()
    assert storage.list() == []


def test_a_recycled_process_number_is_no_owner(tmp_path: Path) -> None:
    """Another process now has the dead owner's number; this very one, and the first of all."""
    for pid in (os.getpid(), 1):
        storage = Storage.at(tmp_path / str(pid))
        leave(storage, replace(Process.current(), pid=pid, started=0))
        acquire(storage).release()
        assert storage.list() == []


@pytest.mark.parametrize(
    "owner",
    [
        ELSEWHERE,
        replace(Process.current(), machine="before the restart"),
        replace(Process.current(), namespace="pid:[7]", pid=2**22 + 1),  # a container of this host
    ],
    ids=["host", "restart", "container"],
)
def test_elsewhere_it_is_dead_after_the_limit(owner: Process, tmp_path: Path) -> None:
    storage = Storage.at(tmp_path)
    leave(storage, owner, silence=50.0)
    with pytest.raises(LeaseError, match=rf"process {owner.pid} on .*heartbeat 50 s ago.*goes on in 1\d s"):
        acquire(storage)
    leave(storage, owner, silence=61.0)
    acquire(storage).release()
    assert storage.list() == []


def test_waiting_for_the_one_before(tmp_path: Path) -> None:
    storage = Storage.at(tmp_path)
    leave(storage, ELSEWHERE, silence=58.5)
    acquire(storage, patience=10).release()


def with_values(owner: dict[str, object] | None = None, **values: object) -> bytes:
    """A claim's content, with some values that no process of ours writes."""
    sound = json.loads(Claim(7, "abc", True, ELSEWHERE, 1e9, 1e9, 60.0).to_json())
    return json.dumps(sound | values | {"owner": sound["owner"] | (owner or {})}).encode()


def of_this_host(pid: object) -> bytes:
    here = Process.current()
    return with_values({"machine": here.machine, "namespace": here.namespace, "pid": pid})


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[1]",
        b"\xff",
        b"[" * 200_000,
        b'{"owner": 3}',
        b'{"owner": {}, "held": 1}',
        *(of_this_host(pid) for pid in (0, -1, 2**31, 2**40, 10**30, math.inf, math.nan, "7", None, [7])),
        *(with_values(seconds=seconds) for seconds in (math.inf, math.nan, 10**400, 1e9, 0, -5, "60")),
        *(with_values(since=since) for since in (math.inf, -math.inf, math.nan, 10**400, 1e300, None)),
        *(with_values(heartbeat=heartbeat) for heartbeat in (math.inf, 10**400)),
        *(with_values({"started": started}) for started in (math.inf, "7")),
        with_values({"host": 7}),
        with_values({"machine": []}),
        with_values(held="yes"),
    ],
)
def test_a_damaged_claim_counts_until_it_is_old(content: bytes, tmp_path: Path) -> None:
    """Nothing is known of its owner: no process to end, and no time since when."""
    storage = Storage.at(tmp_path)
    name = "lease-00000007-abc.json"
    storage.write_bytes(name, content)
    with pytest.raises(LeaseError, match=rf"{name} is damaged.*; delete that file .* goes on in (3\d|29) s") as caught:
        acquire(storage)
    assert "kill" not in str(caught.value)
    assert "has driven" not in str(caught.value)
    os.utime(tmp_path / name, (0, 0))
    acquire(storage).release()
    assert storage.list() == []


def test_the_name_of_a_host_changes_no_terminal(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    storage = Storage.at(tmp_path)
    owner = replace(ELSEWHERE, host="far\x1b[2J\nerror: \u202eaway" + 10_000 * "!")
    leave(storage, owner)
    with pytest.raises(LeaseError, match="in use: process 17 on far") as caught:
        acquire(storage)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000
    leave(storage, owner, silence=61.0)
    acquire(storage).release()
    assert all(record.getMessage().isprintable() for record in caplog.records)


def test_files_with_other_names_are_none_of_its_business(tmp_path: Path) -> None:
    storage = Storage.at(tmp_path)
    storage.write_bytes("lease-agreement.json", b"")
    acquire(storage).release()
    assert storage.list() == ["lease-agreement.json"]


def taken_over(storage: Storage) -> None:
    """What another host does that believes the owner dead."""
    leave(storage, ELSEWHERE)
    for claim in claims.read_all(storage):
        if claim.owner != ELSEWHERE:
            storage.delete(claim.name)


@pytest.mark.parametrize("kind", ["local", "s3"])
@pytest.mark.parametrize("how", ["taken over", "brought back", "deleted"])
def test_whoever_lost_it_writes_nothing(how: str, folder: str) -> None:
    """Not even where its own claim came back: a heartbeat was on its way while another one took over."""
    storage = Storage.at(folder)
    lease = acquire(storage)
    mine = storage.guarded(lease.guard)
    mine.write_bytes("a", b"mine")
    mine.publish("folder", {"manifest.json": b"mine"})
    (claim,) = claims.read_all(storage)
    if how == "deleted":
        storage.delete(claim.name)
    else:
        taken_over(storage)
    if how == "brought back":
        storage.write_bytes(claim.name, claim.to_json())
    words = "is gone" if how == "deleted" else "process 17 on far-away has taken over"
    for change in (
        lambda: mine.write_bytes("a", b"late"),
        lambda: mine.write_bytes("b", b"late"),
        lambda: mine.child("folder").write_bytes("manifest.json", b"late"),
        lambda: mine.publish("folder", {"manifest.json": b"late"}),
        lambda: mine.delete("a"),
        lease.check,
    ):
        with pytest.raises(LeaseError, match=words):
            change()
    lease.release()
    others = [name for name in storage.list() if not name.startswith("lease-")]
    assert others == ["a", "folder"]
    assert storage.read_bytes("a") == storage.child("folder").read_bytes("manifest.json") == b"mine"
    assert len(claims.names(storage)) == (how != "deleted")


def test_a_write_that_has_begun_keeps_others_out(tmp_path: Path) -> None:
    """An owner that was stopped between its look and its write cannot be taken over on the same file system."""
    storage = Storage.at(tmp_path)
    lease = acquire(storage)
    (claim,) = claims.read_all(storage)
    far = replace(claim, owner=ELSEWHERE)
    (tmp_path / claim.name).write_bytes(far.to_json())  # the same file: so it seems from another host
    os.utime(tmp_path / claim.name, (0, 0))
    with lease.guard(), pytest.raises(LeaseError, match="stopped in the middle of a write"):
        acquire(storage)
    os.utime(tmp_path / claim.name, (0, 0))
    acquire(storage).release()
    with pytest.raises(LeaseError, match="is gone"):
        lease.verify()
    lease.release()


@pytest.mark.parametrize("kind", ["local", "s3"])
def test_heartbeats(folder: str) -> None:
    """They go on by themselves, and tell of the loss without being asked; after the end there are none."""
    storage = Storage.at(folder)
    lease = acquire(storage)
    (name,) = claims.names(storage)
    first = storage.modified(name)
    assert first is not None
    time.sleep(1.3)
    later = storage.modified(name)
    assert later is not None
    assert later > first
    taken_over(storage)
    time.sleep(0.6)
    with pytest.raises(LeaseError, match="has taken over"):
        lease.check()
    lease.release()
    assert not any(thread.name == "distmeta-lease" for thread in threading.enumerate())


def test_a_fork_is_not_the_driver(tmp_path: Path) -> None:
    storage = Storage.at(tmp_path)
    lease = acquire(storage)
    child = os.fork()
    if child == 0:
        lease.release()
        try:
            storage.guarded(lease.guard).write_bytes("late", b"")
        except LeaseError:
            os._exit(3)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    lease.verify()
    lease.release()
    assert storage.list() == []


@pytest.mark.parametrize("seconds", ["soon", "0", "-1", "nan", "inf"])
def test_a_limit_that_is_none(seconds: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, seconds)
    with pytest.raises(LeaseError, match=f"{VARIABLE} = {seconds}: expected seconds"):
        acquire(Storage.at(tmp_path))


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"cannot .* a part of this path is a file"):
        acquire(Storage.at(tmp_path / "file" / "run"))


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    for name in ("a" * 300, "a" * 6000):
        with pytest.raises(StorageError, match="too long"):
            acquire(Storage.at(tmp_path / name))


def test_what_the_file_says(tmp_path: Path) -> None:
    lease = acquire(Storage.at(tmp_path))
    (file,) = tmp_path.glob("lease-*.json")
    content = json.loads(file.read_text())
    assert content["owner"]["pid"] == os.getpid()
    assert content["held"] is True
    assert content["seconds"] == 1.5
    lease.release()
