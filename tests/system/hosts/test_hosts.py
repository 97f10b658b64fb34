"""Hosts with addresses, files and failures of their own change no bit of a run."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster_hosts import Host, Hosts
from cluster_runs import LONG, Reference, Run, decided, on_cluster, settings
from integration_helpers import GLYPHS, SINUSOID, STEPS, assert_same, parameters, train
from sweep_helpers import scores, undisturbed_scores, written

pytestmark = pytest.mark.timeout(900)

CPUS = {1: 1, 2: 2, 3: 1}
ALL = str(sum(CPUS.values()))
"""As many workers as the three hosts hold, which the run waits for."""
OMNIGLOT: dict[str, Any] = {
    **GLYPHS,
    "name": "omniglot",
    "tasks": {"kind": "omniglot", "ways": 5, "shots": 1, "queries": 1},
    "run": {"steps": 30, "meta_batch": 4, "tasks_per_shard": 1, "log_every": 1},
}


def keep(hosts: Hosts, *numbers: int) -> None:
    hosts.keep({number: CPUS[number] for number in numbers})


@pytest.mark.slow
def test_same_bits_on_hosts(hosts: Hosts, reference: Callable[..., Reference]) -> None:
    keep(hosts, 1, 2, 3)
    run = Run(hosts[1], "spread", GLYPHS, *on_cluster(ALL))
    expected = reference("glyphs", STEPS)
    result = run.end()
    assert_same(run.parameters(STEPS), expected.parameters)
    assert decided(run.lines()) == decided(expected.lines)
    assert result["meta_test"] == expected.result["meta_test"]
    assert len(result["workers"]["shards_each"]) == result["workers"]["count"] == int(ALL)
    assert sum(result["workers"]["shards_each"]) == sum(expected.result["workers"]["shards_each"])
    assert sum(shards > 0 for shards in result["workers"]["shards_each"]) > 1


@pytest.mark.slow
def test_same_bits_on_one_host(hosts: Hosts, reference: Callable[..., Reference]) -> None:
    """Ray of a run's own, on a host that has a cluster's Ray too."""
    keep(hosts, 1, 2, 3)
    run = Run(hosts[2], "alone", SINUSOID, "cluster.workers=2")
    expected = reference("sinusoid", STEPS)
    result = run.end()
    assert_same(run.parameters(STEPS), expected.parameters)
    assert decided(run.lines()) == decided(expected.lines)
    assert len(result["workers"]["shards_each"]) == 2


# What a driver's host has and others have not ---------------------------------------------------------------------


def stores(host: Host) -> list[Path]:
    return sorted((host.folder / "cache").rglob("omniglot*.arrow"))


@pytest.mark.slow
def test_data_of_the_driver_reach_every_host_once(hosts: Hosts, omniglot: Path, tmp_path: Path) -> None:
    keep(hosts, 1, 2, 3)
    shutil.copytree(omniglot, hosts[1].folder / "data")
    assert not any((hosts[number].folder / "data").exists() for number in (2, 3))
    run = Run(hosts[1], "omniglot", OMNIGLOT, f"tasks.root={hosts.root}/data", *on_cluster(ALL), paced=True)
    train(tmp_path / "expected", OMNIGLOT, *settings(OMNIGLOT, f"tasks.root={omniglot}"))
    run.reach(1)
    sharing = hosts[2].workers()
    assert len(sharing) == 2
    for worker in sharing:
        assert stores(hosts[2])[0].name in Path(f"/proc/{worker}/maps").read_text()
    result = run.end()
    assert_same(run.parameters(30), parameters(tmp_path / "expected", 30))
    assert result["workers"]["count"] == int(ALL)
    assert [len(stores(host)) for host in hosts] == [1, 1, 1]
    assert len({hashlib.sha256(stores(host)[0].read_bytes()).hexdigest() for host in hosts}) == 1


NETWORK = """
from torch import nn

from own_parts import body

def network(outputs: int, hidden: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), body(784, hidden), nn.Linear(hidden, outputs))
"""
PARTS = """
from torch import nn

def body(inputs: int, hidden: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU())
"""


@pytest.mark.slow
def test_network_of_the_driver(hosts: Hosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's module, and one that it imports, that lie in the driver's working folder alone."""
    keep(hosts, 1, 2, 3)
    for folder in (hosts[1].folder / "work", tmp_path):
        (folder / "own_network.py").write_text(NETWORK)
        (folder / "own_parts.py").write_text(PARTS)
    base = {**GLYPHS, "name": "own", "model": {"kind": "module:own_network.network", "hidden": 16}}
    run = Run(hosts[1], "own", base, *on_cluster(ALL))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    train(tmp_path / "expected", base, *settings(base))
    result = run.end()
    assert_same(run.parameters(STEPS), parameters(tmp_path / "expected"))
    assert result["workers"]["count"] == int(ALL)
    found = {host.number: {file.name for file in (host.folder / "cache").rglob("own_*.py")} for host in hosts}
    assert found == {1: set(), 2: {"own_network.py", "own_parts.py"}, 3: {"own_network.py", "own_parts.py"}}


@pytest.mark.slow
def test_a_sweep_on_hosts(hosts: Hosts, tmp_path: Path) -> None:
    """Trials have workers on all hosts, and the scores of trials without any; their files are the driver's."""
    keep(hosts, 1, 2, 3)
    (hosts[1].folder / "work" / "sweep.yaml").write_text(yaml.safe_dump(written()))
    address = ["--address", hosts.cluster]
    resources = ["resources.workers=2", "run.steps=400", "run.validate_every=100"]
    program = hosts[1].start("distmeta", "tune", "sweep.yaml", "--run-dir", "sweep", *address, *resources)
    program.until(lambda: [len(host.workers()) for host in hosts], lambda counts: counts == list(CPUS.values()))
    program.end().succeeded()
    results = json.loads((hosts[1].folder / "work" / "sweep" / "results.json").read_text())
    assert scores(results) == undisturbed_scores(tmp_path, resources[1:])
    assert not any((hosts[number].folder / "work" / "sweep").exists() for number in (2, 3))


# Hosts that fail, come and go -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_host_is_cut_off_and_comes_back(hosts: Hosts, reference: Callable[..., Reference]) -> None:
    keep(hosts, 1, 2, 3)
    run = Run(hosts[1], "cut", SINUSOID, *on_cluster(), f"run.steps={LONG}", paced=True)
    run.reach_value("workers", 4)
    run.advance()
    hosts[3].cut()
    run.reach_value("workers", 3)
    run.advance()
    hosts[3].restore()
    run.reach_value("workers", 4)
    run.advance()
    result = run.end()
    assert_same(run.parameters(LONG), reference("sinusoid", LONG).parameters)
    assert result["faults"]["nodes_lost"] == 1
    assert result["faults"]["nodes_joined"] == 1
    assert result["faults"]["workers_lost"] == 1
    assert result["faults"]["shards_redone"] + result["faults"]["shards_duplicated"] >= 1
    assert len(result["workers"]["shards_each"]) == 5
    assert min(result["workers"]["shards_each"][1:]) > 0  # the first is the lost one's


@pytest.mark.slow
def test_hosts_join_and_one_is_killed(hosts: Hosts, reference: Callable[..., Reference]) -> None:
    keep(hosts, 1)
    run = Run(hosts[1], "elastic", SINUSOID, *on_cluster(), f"run.steps={LONG}", paced=True)
    run.reach(2)
    assert run.last()["workers"] == 1
    hosts.start(2, CPUS[2])
    hosts.start(3, CPUS[3])
    hosts.settle()
    joined = time.monotonic()
    run.reach_value("workers", 4)
    print(f"workers of new nodes were at work {time.monotonic() - joined:.1f} s after the nodes were there")
    run.advance()
    hosts.kill(2)
    run.reach_value("workers", 2)
    run.advance()
    result = run.end()
    assert_same(run.parameters(LONG), reference("sinusoid", LONG).parameters)
    assert result["faults"]["nodes_joined"] == 2
    assert result["faults"]["nodes_lost"] == 1
    assert result["faults"]["workers_lost"] == 2
    assert result["faults"]["shards_redone"] + result["faults"]["shards_duplicated"] >= 1
    assert len(result["workers"]["shards_each"]) == 4
    assert min(result["workers"]["shards_each"][2:]) > 0  # the first two are the lost ones'
