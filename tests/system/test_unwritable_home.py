"""Without a home that can be written, runs compute without compiled kernels, build their data elsewhere, and say so."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from distmeta.storage.cache import cache_for

GLYPHS = {
    "tasks": {"kind": "glyphs", "ways": 2, "shots": 1, "queries": 1},
    "model": {"kind": "mlp", "hidden": [4]},
    "algorithm": {"name": "maml"},
    "run": {"steps": 2, "meta_batch": 2, "threads": 1},
    "evaluation": {"tasks": 2},
    "cluster": {"workers": 0},
}


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A home on a real read-only file system, or without write permission where that takes root."""
    home = tmp_path / "home"
    home.mkdir(mode=0o555)
    if os.geteuid() != 0:
        yield home
        return
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(home)], capture_output=True).returncode:
        pytest.skip("this machine does not let root mount a file system")
    try:
        yield home
    finally:
        subprocess.run(["umount", "-l", str(home)], check=True)


def distmeta(tmp_path: Path, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    """A command with an environment of its own; nothing of this session's cache is seen."""
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**GLYPHS, "model": {"kind": "conv4", "filters": 4}}))
    (tmp_path / "tmp").mkdir(exist_ok=True)
    unset = ("DISTMETA_CACHE", "XDG_CACHE_HOME", "TORCHINDUCTOR_CACHE_DIR", "MPLCONFIGDIR", "CXX")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    environment |= {"TMPDIR": str(tmp_path / "tmp"), **changes}
    command = [sys.executable, "-m", "distmeta", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)


def check_said(done: subprocess.CompletedProcess[str], home: Path, reason: str) -> None:
    said = " ".join(done.stderr.split())
    assert done.returncode == 0, said
    assert "Traceback" not in said
    assert f"the cache cannot be written ({home}/.cache/distmeta: {reason})" in said
    assert "DISTMETA_CACHE" in said
    assert "computing without compiled code, which is slower: cannot write to the folder" in said


def test_a_read_only_home(tmp_path: Path, read_only: Path) -> None:
    run = str(tmp_path / "run")
    done = distmeta(tmp_path, "train", "config.yaml", "--run-dir", run, HOME=str(read_only))
    check_said(done, read_only, "Read-only file system" if os.geteuid() == 0 else "Permission denied")
    spare = tmp_path / "tmp" / f"distmeta-{os.getuid()}"
    assert list(spare.glob("glyphs-*.arrow"))
    assert spare.stat().st_mode & 0o077 == 0
    assert not list(spare.rglob("*.so"))  # code is loaded from the user's own cache alone


def test_the_compilers_cache_goes_there_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DISTMETA_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert cache_for(folder="inductor") == tmp_path / f"distmeta-{os.getuid()}" / "inductor"


@pytest.mark.slow  # a read-only home is the same to a run, and the test of spare folders has such a home too
def test_a_home_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    home = tmp_path / "file" / "home"
    done = distmeta(tmp_path, "train", "config.yaml", "--run-dir", str(tmp_path / "run"), HOME=str(home))
    said = " ".join(done.stderr.split())
    assert done.returncode == 0, said
    assert "Traceback" not in said
    assert f"computing without compiled code, which is slower: cannot write to the folder {home}" in said


def test_neither_a_home_nor_a_temporary_folder_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp" / f"distmeta-{os.getuid()}").mkdir()
    (tmp_path / "tmp" / f"distmeta-{os.getuid()}").chmod(0o777)  # others could put data there
    home = tmp_path / "file" / "home"
    done = distmeta(tmp_path, "train", "config.yaml", "--run-dir", str(tmp_path / "run"), HOME=str(home))
    said = " ".join(done.stderr.split())
    assert done.returncode == 1
    assert "Traceback" not in said
    assert "it is not this user's alone" in said
    assert "set DISTMETA_CACHE to a folder that can be" in said
