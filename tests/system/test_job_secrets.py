"""A secret in a URI is not sent with a job: it works by the cluster's environment, and Ray writes nothing of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow.fs
import pytest
from job_helpers import Head, running_head, write_config

from distmeta.jobs.packing import Submission, prepare
from distmeta.storage.credentials import S3_VARIABLES

SECRET = "PLANTED5ecretOfThisTest"


@pytest.fixture
def place(bucket: str, tmp_path: Path) -> str:
    return bucket.replace("key:secret@", f"key:{SECRET}@").format(f"/{tmp_path.name}")


def test_what_is_sent(tmp_path: Path) -> None:
    secret = f"s3://key:{SECRET}@bucket/runs"
    config = write_config(tmp_path, run={"dir": secret})
    jobs = [
        prepare("train", Submission(str(config), name="a")),
        prepare("train", Submission(str(config), (f"run.dir={secret}",), run_dir=secret)),
        prepare("evaluate", Submission(secret, (f"tasks.root={secret}",))),
    ]
    for job in jobs:
        assert SECRET not in str(job)
        assert "AWS_SECRET_ACCESS_KEY" in job.notes[-1]
    assert jobs[0].arguments == ["train", "config.yaml", "--run-dir", "s3://key:***@bucket/runs/a"]
    assert not any("AWS" in note for note in prepare("evaluate", Submission("s3://bucket/runs")).notes)


@pytest.fixture
def head(tmp_path: Path) -> Iterator[Head]:
    """One that has the credentials in its environment."""
    given = dict(zip(S3_VARIABLES, ("key", "of-the-cluster"), strict=True))
    with running_head(tmp_path, {"RAY_AUTH_MODE": "disabled", **given}) as found:
        yield found


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_job(head: Head, place: str, tmp_path: Path) -> None:
    config = write_config(tmp_path)
    done = [
        head.invoke("submit", config, "cluster.workers=0", "--run-dir", place, "--name", "first").succeeded(),
        head.invoke("submit", place, "cluster.workers=0", "--command", "evaluate", "--name", "second").succeeded(),
        head.invoke("jobs").succeeded(),
        head.invoke("logs", "first", "--no-follow").succeeded(),
    ]
    assert "secrets in URIs are not sent" in done[0].err
    assert "meta-test" in done[1].out
    assert SECRET not in str(done)
    assert not [str(file) for file in head.files.rglob("*") if file.is_file() and SECRET.encode() in file.read_bytes()]
    filesystem, path = pyarrow.fs.FileSystem.from_uri(place)
    infos = filesystem.get_file_info(pyarrow.fs.FileSelector(path, recursive=True))
    files = [info.path for info in infos if info.is_file]
    assert files
    assert not [name for name in files if SECRET.encode() in filesystem.open_input_file(name).read()]
