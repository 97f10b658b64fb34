"""A secret in a URI stands in nothing that runs, sweeps and jobs write or print, Ray's own files included."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.fs
import pytest
import yaml
from integration_helpers import SINUSOID, invoke

from distmeta.core.secrets import mask
from distmeta.storage.credentials import S3_VARIABLES
from distmeta.storage.files import below

BASE = {**SINUSOID, "name": "run", "engine": {"compile": "none"}}
SPACE: dict[str, Any] = {"outer.lr": {"loguniform": [1e-4, 1e-2]}}
SECRET = "PLANTED5ecretOfThisTest"


@pytest.fixture
def secret_bucket(bucket: str, tmp_path: Path) -> str:
    return bucket.replace("key:secret@", f"key:{SECRET}@").format(f"/{tmp_path.name}")


@pytest.fixture
def ray_files() -> Iterator[Path]:
    """Where Ray keeps its sockets, whose paths are short, and its logs."""
    folder = Path(tempfile.mkdtemp(prefix="dm-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def command(folder: Path, ray_files: Path, *arguments: str, **variables: str) -> str:
    """What a command prints; it ends with success."""
    environment = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", *S3_VARIABLES)}
    environment |= {"RAY_TMPDIR": str(ray_files), "HOME": str(folder), "TMPDIR": str(ray_files), **variables}
    done = subprocess.run(
        [sys.executable, "-m", "distmeta", *arguments],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    told = done.stdout + done.stderr
    assert SECRET not in told
    assert "Traceback" not in told, told
    return f"{done.returncode}\n{told}"


def holding(uri: str, *folders: Path) -> list[str]:
    """The files in which the secret is, at a URI and in folders."""
    filesystem, path = pyarrow.fs.FileSystem.from_uri(uri)
    infos = filesystem.get_file_info(pyarrow.fs.FileSelector(path, recursive=True))
    names = [info.path for info in infos if info.is_file]
    assert len(names) > 5
    found = [name for name in names if SECRET.encode() in filesystem.open_input_file(name).read() or SECRET in name]
    for folder in folders:
        files = [file for file in folder.rglob("*") if file.is_file()]
        found += [str(file) for file in files if SECRET.encode() in file.read_bytes()]
    return found


def config(uri: str) -> dict[str, Any]:
    """Of a run that names its secret in every place that takes a URI; the data's is not read."""
    return {**BASE, "run": {**BASE["run"], "steps": 6, "dir": uri}}


@pytest.mark.slow  # tests/core/test_secrets.py has what is masked, and where
def test_a_run(
    secret_bucket: str,
    tmp_path: Path,
    ray_files: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """And what evaluates it, with the URI or with the environment's credentials; what is refused; and errors."""
    for name in (*S3_VARIABLES, "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "none")
    monkeypatch.chdir(tmp_path)
    file = ray_files / "run.yaml"
    file.write_text(yaml.safe_dump(config(secret_bucket)))
    run = below(secret_bucket, "run")
    told = [invoke("train", file).succeeded(), invoke("train", file, "--resume").succeeded()]
    told += [invoke("train", file, "--resume", "seed=1"), invoke("evaluate", run, "--json").succeeded()]
    masked = mask(run)
    told.append(invoke("evaluate", masked))
    told[-1].refused("set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment")
    told += [invoke("evaluate", f"{kind}://key:{SECRET}@none/x?region=nowhere") for kind in ("s3", "what")]
    told.append(invoke("train", file, f"tasks.root=s3://key:{SECRET}@bucket", f"run.steps=s3://key:{SECRET}@bucket"))
    for name in S3_VARIABLES:
        monkeypatch.setenv(name, "any")
    told += [invoke("evaluate", masked, "--json").succeeded()]
    assert [each.code for each in told] == [0, 0, 2, 0, 1, 1, 1, 2, 0]
    assert SECRET not in str(told) + caplog.text
    assert holding(secret_bucket, tmp_path) == []


@pytest.mark.slow
def test_a_sweep(secret_bucket: str, tmp_path: Path, ray_files: Path) -> None:
    """Its own files, those of its trials, one of which fails, Tune's and Ray's."""
    content = {"base": config(secret_bucket), "space": SPACE, "trials": 2, "resources": {"workers": 1}}
    (ray_files / "sweep.yaml").write_text(yaml.safe_dump(content))
    told = command(tmp_path, ray_files, "tune", str(ray_files / "sweep.yaml"))
    (ray_files / "sweep.yaml").unlink()
    assert list(ray_files.rglob("raylet.out"))
    assert told.startswith("0\n"), told
    assert holding(secret_bucket, tmp_path, ray_files) == []


@pytest.mark.slow
def test_on_a_command_line(secret_bucket: str, tmp_path: Path, ray_files: Path) -> None:
    """Ray notes the command line of whoever starts it."""
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(BASE))
    told = command(tmp_path, ray_files, "train", "run.yaml", "cluster.workers=1", "--run-dir", secret_bucket)
    assert told.startswith("0\n"), told
    assert list(ray_files.rglob("raylet.out"))
    assert holding(secret_bucket, tmp_path, ray_files) == []


def test_values_of_trials(tmp_path: Path, ray_files: Path) -> None:
    space = {"tasks.root": {"choice": [f"s3://key:{SECRET}@bucket/a", f"s3://key:{SECRET}@bucket/b"]}}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump({"base": BASE, "space": space, "trials": 2}))
    told = command(tmp_path, ray_files, "tune", "sweep.yaml")
    assert told.startswith("2\n")
    assert "space.tasks.root" in told
