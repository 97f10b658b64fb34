from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from distmeta.data import store as store_module
from distmeta.data.store import EpisodeStore, write_store
from distmeta.errors import DataError
from distmeta.storage.atomic import process_space
from distmeta.storage.cache import build_once, cache_dir, written_whole

CLASSES = ["b", "a", "b", "c", "a", "b"]
GROUPS = ["two", "one", "two", "two", "one", "two"]


def _images(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (6, *shape), dtype=np.uint8)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_store(tmp_path / "some.arrow", _images(28, 28), CLASSES, GROUPS)
    return tmp_path / "some.arrow"


@pytest.mark.parametrize("shape", [(28, 28), (5, 7, 3)])
def test_round_trip(tmp_path, shape):
    images = _images(*shape)
    write_store(tmp_path / "some.arrow", images, CLASSES, GROUPS)
    store = EpisodeStore.open(tmp_path / "some.arrow")
    assert store.classes == ("a", "b", "c")
    assert store.groups == ("one", "two", "two")
    assert store.first.tolist() == [0, 2, 5]
    assert store.counts.tolist() == [2, 3, 1]
    assert np.array_equal(store.images, images[[1, 4, 0, 2, 5, 3]])
    store.verify()


def test_images_are_a_view_of_the_mapped_file(path):
    before = pa.total_allocated_bytes()
    store = EpisodeStore.open(path)
    assert pa.total_allocated_bytes() - before < store.images.nbytes
    assert not store.images.flags.owndata
    assert not store.images.flags.writeable
    with open("/proc/self/maps") as maps:
        assert str(path) in maps.read()


def test_the_hash_names_the_content(tmp_path, path):
    same, other = tmp_path / "same.arrow", tmp_path / "other.arrow"
    write_store(same, _images(28, 28), CLASSES, GROUPS)
    changed = _images(28, 28)
    changed[0, 0, 0] ^= 1
    write_store(other, changed, CLASSES, GROUPS)
    hashes = [EpisodeStore.open(p).content_hash for p in (path, same, other)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_wrong_rows_are_refused(tmp_path):
    with pytest.raises(ValueError, match="two groups"):
        write_store(tmp_path / "x.arrow", _images(2, 2), ["a"] * 6, GROUPS)
    with pytest.raises(ValueError, match="6 images, 5 class names"):
        write_store(tmp_path / "x.arrow", _images(2, 2), CLASSES[:5], GROUPS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("keep", [0, 3, 1000, -1])
def test_a_truncated_file_is_refused(path, keep):
    content = path.read_bytes()
    path.write_bytes(content[:keep])
    with pytest.raises(DataError, match=rf"{path.name} is damaged or incomplete .*; delete it and build it again"):
        EpisodeStore.open(path)


def test_a_missing_or_foreign_file_is_refused(tmp_path):
    with pytest.raises(DataError, match="there is no episode store"):
        EpisodeStore.open(tmp_path / "none.arrow")
    table = pa.record_batch({"image": [1, 2]})
    with (
        pa.OSFile(str(tmp_path / "foreign.arrow"), "wb") as sink,
        pa.ipc.new_file(sink, table.schema) as writer,
    ):
        writer.write_batch(table)
    with pytest.raises(DataError, match="not written by distmeta"):
        EpisodeStore.open(tmp_path / "foreign.arrow")


def test_another_schema_version_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "SCHEMA_VERSION", "99")
    write_store(tmp_path / "new.arrow", _images(2, 2), CLASSES, GROUPS)
    monkeypatch.undo()
    with pytest.raises(DataError, match="schema version 99, this distmeta reads versions 1 and 2"):
        EpisodeStore.open(tmp_path / "new.arrow")


def test_verify_finds_a_changed_pixel(path):
    content = bytearray(path.read_bytes())
    row = _images(28, 28)[1].tobytes()
    content[content.index(row) + 10] ^= 255
    path.write_bytes(content)
    store = EpisodeStore.open(path)
    with pytest.raises(DataError, match="does not match the hash"):
        store.verify()


@pytest.mark.parametrize("problem", [KeyboardInterrupt, RuntimeError, DataError])
def test_an_interrupted_write_leaves_nothing(tmp_path, problem):
    def interrupted():
        with written_whole(tmp_path / "x") as temporary:
            temporary.write_bytes(b"half")
            raise problem("now")

    with pytest.raises(problem):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_build_can_be_built_again(tmp_path):
    target = tmp_path / "deep" / "x"

    def interrupted(path: Path) -> None:
        with written_whole(path) as temporary:
            temporary.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_once(target, interrupted)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (target.parent / f".partial-{dead.pid}-abc-def-{process_space()}").write_bytes(b"left by a kill")
    build_once(target, lambda path: path.write_text("whole") and None)
    assert target.read_text() == "whole"
    assert {file.name for file in target.parent.iterdir()} <= {"x", "x.lock"}


def _build_in_process(target: Path, log: Path, barrier) -> None:
    def builder(path: Path) -> None:
        with open(log, "a") as file:
            file.write(f"{os.getpid()}\n")
        write_store(path, _images(28, 28), CLASSES, GROUPS)

    barrier.wait(60)
    EpisodeStore.open(build_once(target, builder)).verify()


def test_two_processes_build_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    target, log = tmp_path / "some.arrow", tmp_path / "log"
    processes = [context.Process(target=_build_in_process, args=(target, log, barrier)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(log.read_text().split()) == 1


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"cannot write to the folder .*file/cache: .*DISTMETA_CACHE"):
        build_once(tmp_path / "file" / "cache" / "x.arrow", lambda path: None)
    with pytest.raises(DataError, match="cannot write to the folder"):
        write_store(tmp_path / "file" / "x.arrow", _images(2, 2), CLASSES, GROUPS)


def test_where_the_cache_is(monkeypatch):
    monkeypatch.setenv("DISTMETA_CACHE", "~/mine")
    assert cache_dir() == Path.home() / "mine"
    monkeypatch.delenv("DISTMETA_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_dir() == Path("/x/distmeta")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == Path.home() / ".cache" / "distmeta"


def test_a_large_store_is_read_again_only_where_its_file_has_changed(path, tmp_path, monkeypatch):
    from distmeta.data.verified import verify_once

    monkeypatch.setenv("DISTMETA_CACHE", str(tmp_path / "cache"))
    store = EpisodeStore.open(path)
    reads = []
    monkeypatch.setattr(EpisodeStore, "verify", lambda self: reads.append(self.path))
    verify_once(store)
    verify_once(store)
    assert reads == [path]
    monkeypatch.undo()
    monkeypatch.setenv("DISTMETA_CACHE", str(tmp_path / "cache"))
    times = path.stat()
    content = bytearray(path.read_bytes())
    content[content.index(_images(28, 28)[1].tobytes())] ^= 255
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # as if nothing had happened
    with pytest.raises(DataError, match="does not match the hash"):
        verify_once(EpisodeStore.open(path))
