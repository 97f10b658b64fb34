"""Sweeps whose files are in a bucket, on a server that speaks S3's protocol."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pyarrow.fs
import pytest
from moto.server import ThreadedMotoServer
from sweep_helpers import scores, undisturbed_scores, written

import distmeta
from distmeta import checkpoint
from distmeta.errors import Interrupted
from distmeta.storage import Storage
from distmeta.sweep_results import TRIALS

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """An empty bucket's URI, to which a path is added; it holds credentials, as trials run in other processes."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        port = server.get_host_and_port()[1]
        uri = "s3://key:secret@sweeps{}?scheme=http&region=us-east-1&allow_bucket_creation=true"
        uri += f"&endpoint_override=127.0.0.1:{port}"
        pyarrow.fs.FileSystem.from_uri(uri.format(""))[0].create_dir("sweeps")
        yield uri
    finally:
        server.stop()


def test_a_sweep_in_a_bucket(bucket: str, tmp_path: Path) -> None:
    """Ended in the middle and resumed, it has the files and the scores of one on a disk."""
    home = Storage.at(bucket.format("/runs/sweep"))

    def end() -> None:
        trials = home.child(TRIALS)
        if any(trials.child(name, "seed-0", "checkpoints").list() for name in trials.list()):
            raise Interrupted("interrupted")

    with pytest.raises(Interrupted, match=r"saved in s3://key:\*\*\*@sweeps/runs/sweep\?.*go on with --resume"):
        distmeta.tune(written(), ["trials=3"], home.uri, check=end)
    assert "results.json" not in home.list()

    results = distmeta.tune(written(), ["trials=3"], home.uri, resume=True)
    assert scores(results) == undisturbed_scores(tmp_path / "whole", ["trials=3"])
    assert {"best.yaml", "curves.png", "results.json", "sweep.yaml", "trials.csv", "trials.parquet"} <= set(home.list())
    assert checkpoint.resolve(results["best"]["checkpoint"])[0].step == results["best"]["step"]
    assert distmeta.tune(written(), ["trials=3"], home.uri, resume=True) == results
