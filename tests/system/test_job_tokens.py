"""A cluster that wants a token."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from job_helpers import Head, result_of, running_head, write_config

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

TOKEN = "0123456789abcdef" * 4


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """A head that wants a token."""
    with running_head(tmp_path_factory.mktemp("head"), {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}) as found:
        yield found


def test_the_right_token(head: Head, tmp_path: Path) -> None:
    """The client, the job and its worker all get in."""
    run = tmp_path / "run"
    done = head.run("submit", write_config(tmp_path), "cluster.workers=1", "--run-dir", run).succeeded()
    assert "step 3/3" in done.out
    assert result_of(run)["workers"]["count"] == 1


def test_wrong_tokens(head: Head) -> None:
    head.run("jobs", RAY_AUTH_TOKEN=TOKEN[::-1]).refused("refuses this token", "RAY_AUTH_TOKEN")
    head.run("jobs", RAY_AUTH_MODE="disabled").refused("got none", "RAY_AUTH_MODE=token")
