"""The Grafana dashboard asks for what runs on Ray show, under the names that Prometheus sees."""

from __future__ import annotations

import json
import re
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import ray
from prometheus_client.parser import text_string_to_metric_families

import distmeta
from distmeta.core.records import FAULTS, StepRecord
from distmeta.runs.metrics import flat
from distmeta.workers.ray.metrics import REPORTER, gauge_name

DASHBOARD = json.loads((Path(__file__).parents[2] / "cluster" / "grafana.json").read_text())
SMALL: dict[str, Any] = {
    "model": {"kind": "mlp", "hidden": [4]},
    "algorithm": {"name": "fomaml"},
    "engine": {"compile": "none"},
    "run": {"steps": 2, "meta_batch": 2, "tasks_per_shard": 1, "validate_every": 1, "log_every": 1},
    "evaluation": {"tasks": 1, "validation_tasks": 1},
}
FAMILIES = {"glyphs": 2, "sinusoid": 1}  # workers; one classifies and one does not, so that their metrics differ


def targets() -> Iterator[dict[str, Any]]:
    for panel in DASHBOARD["panels"]:
        yield from panel["targets"]


def metrics_of(expression: str) -> set[str]:
    return set(re.findall(r"\bray_\w+", expression))


def exposed() -> dict[str, dict[str, float]]:
    """Values by metric and run at the node's Prometheus endpoint."""
    address = f"http://127.0.0.1:{ray.nodes()[0]['MetricsExportPort']}/metrics"
    with urllib.request.urlopen(address, timeout=10) as answer:
        text = answer.read().decode()
    found: dict[str, dict[str, float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name.startswith("ray_distmeta_"):
                found.setdefault(sample.name, {})[sample.labels["run"]] = sample.value
    return found


@dataclass(frozen=True)
class Shown:
    """The last records of two runs, what the endpoint gave while they were open, and the threads that showed it."""

    records: dict[str, StepRecord]
    values: dict[str, dict[str, float]]
    reporters: set[threading.Thread]


def missing_of(run: str, record: StepRecord, values: dict[str, dict[str, float]]) -> list[str]:
    """What a run logged and the endpoint does not show, or shows with another value."""
    found = {name: values.get(f"ray_{gauge_name(name)}", {}).get(run) for name in flat(record)}
    return [name for name, value in flat(record).items() if found[name] != pytest.approx(float(value))]


@pytest.fixture(scope="module")
def shown(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Shown:
    folder = tmp_path_factory.mktemp("shown")
    runs, records = [], {}
    for family, workers in FAMILIES.items():
        base = {**SMALL, "name": f"of-{family}", "tasks": {"kind": family}}
        runs.append(distmeta.train(distmeta.load_config(base, [f"cluster.workers={workers}"]), folder / family))
        records[f"of-{family}"] = [next(runs[-1]) for _ in range(2)][-1]
    end = time.monotonic() + 60  # Ray passes gauges on every ten seconds
    values = exposed()
    while missing := [name for run, record in records.items() for name in missing_of(run, record, values)]:
        assert time.monotonic() < end, f"not shown: {missing}"
        time.sleep(1)
        values = exposed()
    reporters = {thread for thread in threading.enumerate() if thread.name == REPORTER}
    for run in runs:
        run.close()
    return Shown(records, values, reporters)


@pytest.mark.slow
def test_a_run_shows_what_it_logs(shown: Shown) -> None:
    for run, record in shown.records.items():
        assert missing_of(run, record, shown.values) == []
    assert shown.values["ray_distmeta_workers"] == {"of-glyphs": 2, "of-sinusoid": 1}


@pytest.mark.slow
def test_nothing_is_shown_of_runs_that_have_ended(shown: Shown) -> None:
    """In a process that goes on, and with a Ray that does."""
    assert len(shown.reporters) == 2
    assert not any(thread.is_alive() for thread in shown.reporters)
    end = time.monotonic() + 90  # Ray lets go of gauges that are not set any more after twenty seconds or so
    while exposed():
        assert time.monotonic() < end, f"still shown: {sorted(exposed())}"
        time.sleep(1)


@pytest.mark.slow
def test_every_panel_asks_for_what_is_there(shown: Shown) -> None:
    asked = {name for target in targets() for name in metrics_of(target["expr"])}
    assert asked <= shown.values.keys()
    assert all(metrics_of(target["expr"]) for target in targets())
    assert all('{run=~"$run"}' in target["expr"] for target in targets())
    shares = {f"ray_distmeta_share_{name}" for name in ("compute", "data", "aggregation", "waiting")}
    faults = {f"ray_distmeta_faults_{name}" for name in FAULTS}
    others = {f"ray_distmeta_{name}" for name in ("tasks_per_second", "seconds", "workers", "train_loss")}
    assert shares | faults | others <= asked


@pytest.mark.slow
def test_the_variables(shown: Shown) -> None:
    datasource, run = DASHBOARD["templating"]["list"]
    assert (datasource["name"], datasource["type"], datasource["query"]) == ("datasource", "datasource", "prometheus")
    match = re.fullmatch(r"label_values\((\w+), run\)", run["query"]["query"])
    assert match
    assert shown.values[match[1]].keys() == shown.records.keys()
    places = [run, *DASHBOARD["panels"], *targets()]
    assert all(place["datasource"] == {"type": "prometheus", "uid": "${datasource}"} for place in places)


def test_the_layout() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        assert 0 <= panel["gridPos"]["x"] <= 24 - panel["gridPos"]["w"]
    for first, second in combinations([panel["gridPos"] for panel in panels], 2):
        beside = first["x"] + first["w"] <= second["x"] or second["x"] + second["w"] <= first["x"]
        below = first["y"] + first["h"] <= second["y"] or second["y"] + second["h"] <= first["y"]
        assert beside or below
    (stacked,) = (panel for panel in panels if panel["fieldConfig"]["defaults"].get("custom", {}).get("stacking"))
    assert "ray_distmeta_share_compute" in stacked["targets"][0]["expr"]
