"""Hosts with addresses, files and failures of their own change no bit of a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cluster_hosts import Hosts
from cluster_runs import LONG, Run, decided, on_cluster
from integration_helpers import GLYPHS, SINUSOID, STEPS, assert_same

CPUS = {1: 1, 2: 2, 3: 1}


def keep(hosts: Hosts, *numbers: int) -> None:
    hosts.keep({number: CPUS[number] for number in numbers})


def test_same_bits_on_hosts(hosts: Hosts, reference: Callable[..., Any]) -> None:
    keep(hosts, 1, 2, 3)
    run = Run(hosts[1], "spread", GLYPHS, *on_cluster())
    expected = reference("glyphs", STEPS)
    result = run.end()
    assert_same(run.parameters(STEPS), expected.parameters)
    assert decided(run.lines()) == decided(expected.lines)
    assert result["meta_test"] == expected.result["meta_test"]
    assert len(result["workers"]["shards_each"]) == result["workers"]["count"] == sum(CPUS.values())
    assert min(result["workers"]["shards_each"]) > 0


def test_same_bits_on_one_host(hosts: Hosts, reference: Callable[..., Any]) -> None:
    """Ray of a run's own, on a host that has a cluster's Ray too."""
    keep(hosts, 1, 2, 3)
    run = Run(hosts[2], "alone", GLYPHS, "cluster.workers=2")
    expected = reference("glyphs", STEPS)
    result = run.end()
    assert_same(run.parameters(STEPS), expected.parameters)
    assert decided(run.lines()) == decided(expected.lines)
    assert len(result["workers"]["shards_each"]) == 2


def test_host_is_killed(hosts: Hosts, reference: Callable[..., Any]) -> None:
    keep(hosts, 1, 2, 3)
    run = Run(hosts[1], "killed", SINUSOID, *on_cluster("cluster.workers=3"), f"run.steps={LONG}", paced=True)
    run.reach(3)
    hosts.kill(3)
    hosts.settle()
    result = run.end()
    assert_same(run.parameters(LONG), reference("sinusoid", LONG).parameters)
    assert result["faults"]["workers_lost"] >= 1
    assert result["faults"]["shards_redone"] >= 1
