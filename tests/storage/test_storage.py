from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import fsspec
import pyarrow.fs
import pytest

from distmeta.errors import StorageError
from distmeta.storage.atomic import process_space
from distmeta.storage.files import Storage


def test_files_come_back(storage: Storage) -> None:
    assert storage.list() == []
    storage.write_bytes("a", b"1")
    storage.write_bytes("a", b"22")
    storage.child("deep", "er").write_bytes("b", b"")
    assert storage.list() == ["a", "deep"]
    assert storage.read_bytes("a") == b"22"
    assert storage.child("deep").child("er").read_bytes("b") == b""
    assert storage.exists("a")
    assert storage.exists("deep")
    assert not storage.exists("c")


def test_delete_takes_files_folders_and_nothing(storage: Storage) -> None:
    storage.write_bytes("a", b"1")
    storage.publish("f", {"x": b"1", "manifest.json": b"{}"})
    for name in ("a", "f", "missing"):
        storage.delete(name)
    assert storage.list() == []


def test_publish_replaces_the_whole_folder(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"from a file")
    storage.publish("f", {"old": b"1", "manifest.json": b"1"})
    storage.publish("f", {"new": tmp_path / "source", "manifest.json": b"2"})
    assert storage.child("f").list() == ["manifest.json", "new"]
    assert storage.child("f").read_bytes("new") == b"from a file"
    assert storage.child("f").read_bytes("manifest.json") == b"2"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux swaps two names in one step")
def test_a_replaced_folder_is_never_missing(tmp_path: Path) -> None:
    storage = Storage.at(tmp_path)
    storage.publish("f", {"x": b"0"})
    writer = threading.Thread(target=lambda: [storage.publish("f", {"x": b"1"}) for _ in range(200)])
    writer.start()
    while writer.is_alive():
        assert os.path.exists(tmp_path / "f" / "x")
    assert os.listdir(tmp_path) == ["f"]


def test_missing_file_is_explained(storage: Storage) -> None:
    with pytest.raises(StorageError, match=r"cannot read .*run/nope"):
        storage.read_bytes("nope")


def test_unknown_scheme_is_explained() -> None:
    with pytest.raises(StorageError, match=r"cannot open nosuch://x.*s3://"):
        Storage.at("nosuch://x/y")


def test_location_masks_a_password_and_keeps_the_query() -> None:
    storage = Storage(pyarrow.fs._MockFileSystem(), "b/k", "s3://key:secret@b/k?region=x")
    assert storage.child("c").location == "s3://key:***@b/k/c?region=x"


def test_relative_and_home_paths(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert Storage.at("runs/a").local == tmp_path / "runs" / "a"
    assert Storage.at("~/a").local == tmp_path / "home" / "a"
    assert Storage.at(f"file://{tmp_path}").local == tmp_path


def test_a_file_in_the_path_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    storage = Storage.at(tmp_path / "file" / "run")
    for act in (lambda: storage.write_bytes("a", b""), lambda: storage.publish("a", {})):
        with pytest.raises(StorageError, match=r"file/run.*: a part of this path is a file, not a folder"):
            act()


def test_full_disk_is_explained_and_leaves_nothing(small_disk: Path) -> None:
    storage = Storage.at(small_disk)
    storage.publish("good", {"x": b"1"})
    big = bytes(1 << 20)
    for act in (lambda: storage.write_bytes("b", big), lambda: storage.publish("good", {"x": big})):
        with pytest.raises(StorageError, match=r"no space is left there; free some space"):
            act()
    assert os.listdir(small_disk) == ["good"]
    assert storage.child("good").read_bytes("x") == b"1"


class FailsOn(pyarrow.fs.FSSpecHandler):
    """A remote file system that is full when a file of this name is written."""

    def __init__(self, name: str) -> None:
        super().__init__(fsspec.filesystem("memory"))
        self.name = name

    def open_output_stream(self, path: str, metadata: object) -> object:
        if path.endswith(self.name):
            raise OSError(errno.ENOSPC, "quota exceeded")
        return super().open_output_stream(path, metadata)


def test_remote_folder_gets_its_manifest_last(remote_storage: Storage) -> None:
    failing = Storage(pyarrow.fs.PyFileSystem(FailsOn("b.bin")), remote_storage._path, "memory://x")
    with pytest.raises(StorageError, match="no space is left"):
        failing.publish("f", {"manifest.json": b"{}", "a.bin": b"1", "b.bin": b"2"})
    assert failing.child("f").list() == ["a.bin"]


def test_temporaries_of_the_dead_go_and_those_of_the_living_stay(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    here, old = process_space(), 10**9
    gone = [f".partial-{dead.pid}-abc-def-{here}", f".partial-{os.getpid()}-other-def-{here}", ".partial-x"]
    stay = [f".partial-{os.getppid()}-abc-def-{here}", f".partial-{dead.pid}-abc-def-elsewhere"]
    stay.append(f".partial-{dead.pid}-abc-def-{socket.gethostname()}.1")  # of a container of the same name
    for name in gone + stay:
        (tmp_path / name).mkdir()
    os.utime(tmp_path / ".partial-x", (old, old))
    storage = Storage.at(tmp_path)
    storage.publish("f", {"x": b"1"})
    assert sorted(os.listdir(tmp_path)) == sorted(["f", *stay])
    assert storage.list() == ["f"]
