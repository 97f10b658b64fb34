"""Sweeps whose files are in a bucket, on a server that speaks S3's protocol."""

from __future__ import annotations

from pathlib import Path

import pytest
from sweep_helpers import scores, undisturbed_scores, written

import distmeta
from distmeta.errors import Interrupted, TrustError
from distmeta.runs import checkpoint, claims
from distmeta.storage.credentials import S3_VARIABLES
from distmeta.storage.files import Storage
from distmeta.sweeps.results import TRIALS_FOLDER

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.mark.slow
def test_a_sweep_in_a_bucket(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ended in the middle and resumed, it has the files and the scores of one on a disk."""
    home = Storage.at(bucket.format("/runs/sweep"))

    def end() -> None:
        trials = home.child(TRIALS_FOLDER)
        assert len(claims.names(home)) == 1
        if any(trials.child(name, "seed-0", "checkpoints").list() for name in trials.list()):
            raise Interrupted("interrupted")

    with pytest.raises(
        Interrupted, match=r"saved in s3://key:\*\*\*@bucket/runs/sweep\?.*go on with --resume --trust-code"
    ):
        distmeta.tune(written(), ["trials=3"], home.uri, check=end)
    assert "results.json" not in home.list()
    assert claims.names(home) == []

    with pytest.raises(TrustError, match="it lies elsewhere"):
        distmeta.tune(written(), ["trials=3"], home.uri, resume=True)
    results = distmeta.tune(written(), ["trials=3"], home.uri, resume=True, trust_code=True)
    assert scores(results) == undisturbed_scores(tmp_path / "whole", ["trials=3"])
    assert {"best.yaml", "curves.png", "results.json", "sweep.yaml", "trials.csv", "trials.parquet"} <= set(home.list())
    with monkeypatch.context() as patch:  # what is told has no secret
        for name in S3_VARIABLES:
            patch.setenv(name, "any")
        assert checkpoint.resolve(results["best"]["checkpoint"])[0].step == results["best"]["step"]
    assert distmeta.tune(written(), ["trials=3"], home.uri, resume=True) == results
