"""What is said of workers that a run waits for: only what is so."""

from __future__ import annotations

import pytest

pytest.importorskip("ray")

from distmeta.workers.ray.pool import waiting


def test_workers_that_start_are_said_to_start() -> None:
    said = waiting(0, 2, 0, 2, "")
    assert "2 are starting" in said
    assert "free" not in said
    assert "room" not in said


def test_a_full_cluster_is_said_to_be_full() -> None:
    said = waiting(1, 3, 0, 2, "0 of 2 CPU free")
    assert "1 of at least 3 are ready" in said
    assert "2 wait for room" in said
    assert "the cluster has 0 of 2 CPU free" in said
    assert "Nodes that join are used" in said


def test_workers_that_have_arrived_are_no_lack_of_room() -> None:
    said = waiting(1, 2, 1, 0, "0 of 2 CPU free")
    assert "1 opens data and model, or compiles" in said
    assert "free" not in said
