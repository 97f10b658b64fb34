"""Room that a run waits for and asks for, and nodes that say beforehand that they go."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from cluster_light import LightCluster
from cluster_runs import LONG, Reference, Run, on_cluster
from integration_helpers import SINUSOID, STEPS, assert_same

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LightCluster]:
    """A cluster with room for one worker."""
    cluster = LightCluster(tmp_path_factory.mktemp("light"))
    try:
        yield cluster
    finally:
        cluster.close()


@pytest.mark.slow
def test_waits_for_room_and_asks_for_it(light: LightCluster, reference: Callable[..., Reference]) -> None:
    run = Run(light, "waits", SINUSOID, *on_cluster("{min: 2, max: 4}", light.address))
    run.program.until(lambda: run.program.err, lambda said: "waiting for workers: 1 of at least 2" in said)
    run.program.until(light.requested, lambda bundles: bundles == 4 * [{"CPU": 1.0}])
    assert run.step() == 0
    node = light.add(1)
    result = run.end()
    light.remove(node)
    assert_same(run.parameters(STEPS), reference("sinusoid", STEPS).parameters)
    assert result["workers"]["count"] == 2
    assert light.requested() == []


@pytest.mark.slow
def test_announced_end_of_a_node(light: LightCluster, reference: Callable[..., Reference]) -> None:
    node = light.add(1)
    run = Run(light, "drained", SINUSOID, *on_cluster("auto", light.address), f"run.steps={LONG}", paced=True)
    run.reach_value("workers", 2)
    run.advance()
    light.drain(node, seconds=600)
    step = run.reach_value("faults/workers_drained", 1)
    assert step["workers"] == 1
    assert step["faults/workers_lost"] == step["faults/shards_redone"] == step["faults/nodes_lost"] == 0
    light.remove(node)
    node = light.add(1)
    run.reach_value("workers", 2)
    light.drain(node, seconds=600)
    run.reach_value("workers", 1)
    light.remove(node)  # at once, perhaps before its workers were sent away
    node = light.add(1)
    run.reach_value("workers", 2)
    run.advance()
    result = run.end()
    light.remove(node)
    assert_same(run.parameters(LONG), reference("sinusoid", LONG).parameters)
    assert result["faults"]["workers_drained"] + result["faults"]["workers_lost"] == 2
    assert result["faults"]["nodes_joined"] == 2
    assert result["faults"]["nodes_lost"] == 0
    assert len(result["workers"]["shards_each"]) == 4
