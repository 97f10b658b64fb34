"""Shots and ways that are drawn for every meta-step, by its number and the seed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from integration_helpers import assert_same, parameters, train, train_until

from distmeta.config.schema import written_values
from distmeta.errors import ConfigError
from distmeta.loading import load_config
from distmeta.programs.deciding import GRAPH_REPAYS, Facts, decide
from distmeta.programs.samples import Samples, Use
from distmeta.tasks import fit_family, open_family
from distmeta.tasks.base import Episode, episodes

CPU = torch.device("cpu")
EVALUATION = ["evaluation.ways=3", "evaluation.shots=1"]
GLYPHS: dict[str, Any] = {
    "tasks": {"kind": "glyphs", "ways": {"min": 2, "max": 4}, "shots": {"min": 1, "max": 3}, "examples": 5},
    "model": {"kind": "mlp", "hidden": [8]},
    "algorithm": {"name": "protonet"},
    "run": {"meta_batch": 4, "tasks_per_shard": 2},
    "evaluation": {"ways": 3, "shots": 1},
}
SINUSOID: dict[str, Any] = {
    "tasks": {"kind": "sinusoid", "shots": {"min": 2, "max": 6}},
    "model": {"kind": "mlp", "hidden": [8]},
    "algorithm": {"name": "maml"},
    "run": {"meta_batch": 4, "tasks_per_shard": 2},
    "evaluation": {"shots": 5},
}


def sizes(settings: dict[str, Any], steps: int, *overrides: str) -> list[Episode]:
    config = load_config(settings, overrides)
    batch = config.run.meta_batch
    return [episodes(config)["train"].at(range(batch * step, batch * (step + 1))) for step in range(steps)]


def test_every_size_is_as_likely_and_examples_stay_constant() -> None:
    drawn = sizes(GLYPHS, 900)
    counts = Counter((each.ways, each.shots) for each in drawn)
    assert set(counts) == {(ways, shots) for ways in (2, 3, 4) for shots in (1, 2, 3)}
    assert 70 < min(counts.values()) <= max(counts.values()) < 130  # 100 expected of each
    assert {each.shots + each.queries for each in drawn} == {5}
    assert {each.queries for each in sizes(SINUSOID, 50)} == {10}


def test_sizes_depend_on_seed_and_step_alone() -> None:
    assert sizes(GLYPHS, 30) == sizes(GLYPHS, 30, "run.tasks_per_shard=1", "cluster.workers=3", "evaluation.shots=9")
    own = [(each.ways, each.shots) for each in sizes(GLYPHS, 30)]
    assert own != [(each.ways, each.shots) for each in sizes(GLYPHS, 30, "seed=1")]


@pytest.fixture(params=["glyphs", "sinusoid", "table", "ordered table", "text"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """The configuration of each family that draws sizes."""
    if request.param == "text":
        texts = [f"{word} of class {label},{label}" for label in range(30) for word in "abcde"]
        (tmp_path / "texts.csv").write_text("\n".join(["text,label", *texts]))
        return {**GLYPHS, "tasks": {**GLYPHS["tasks"], "kind": "text", "root": str(tmp_path / "texts.csv")}}
    if request.param.endswith("table"):
        rows = [f"{task},{row},{row / 7},{task * row / 7}" for task in range(40) for row in range(20)]
        (tmp_path / "lines.csv").write_text("\n".join(["task,time,x,y", *rows]))
        order = {"order": "time"} if request.param.startswith("ordered") else {}
        columns = {"path": str(tmp_path / "lines.csv"), "task": "task", "target": "y", **order}
        return {**SINUSOID, "tasks": {"kind": "table", **columns, "shots": {"min": 2, "max": 6}}}
    return {"glyphs": GLYPHS, "sinusoid": SINUSOID}[request.param]


def test_families_give_tasks_of_the_steps_size(settings: dict[str, Any]) -> None:
    config = fit_family(load_config(settings))
    family, episode = open_family(config, CPU), episodes(config)["train"]
    for step in range(6):
        ids = range(4 * step, 4 * step + 4)
        size, batch = episode.at(ids), family.sample("train", ids)
        assert batch.support["y"].shape[1] == (size.ways or 1) * size.shots
        assert batch.query["y"].shape[1] == (size.ways or 1) * size.queries
        again = family.sample("train", ids[2:])
        for part, found in ((batch.support, again.support), (batch.query, again.query)):
            assert_same({name: value[2:] for name, value in part.items()}, found)
    held_out = family.sample("validation", range(5))
    assert held_out.support["y"].shape[1] == (5 if episode.ways is None else 3)


def test_shards_of_several_steps_are_sampled_ahead() -> None:
    """Of other sizes in one call: each comes as it would by itself."""
    config = load_config(GLYPHS)
    samples, alone = (Samples(open_family(config, CPU), episodes(config), CPU) for _ in range(2))
    shards = [range(first, first + 2) for first in range(0, 16, 2)]
    samples.prefetch("train", shards)
    use = Use(None)
    for ids in shards:
        ahead, now = (each.tasks("train", ids, use) for each in (samples, alone))
        for part in ("support", "query"):
            assert_same(ahead[part], now[part])
        assert samples.ways("train", ids) == int(ahead["support"]["y"].max()) + 1
    assert samples.alike(range(2, 9)) == [range(2, 4), range(4, 8), range(8, 9)]
    for each in (samples, alone):
        each.close()


def test_auto_counts_the_sizes() -> None:
    """A recording of each size is repaid by as many chunks of it as one recording is."""
    for settings, count in ((GLYPHS, 9), (SINUSOID, 5)):
        for steps, expected in ((count * GRAPH_REPAYS // 2 - 1, "none"), (count * GRAPH_REPAYS // 2 + 1, "graph")):
            config = load_config(settings, [f"run.steps={steps}"])
            facts = Facts("cpu", False, True, 1, None, shapes=count)
            assert decide(config, facts).compile == expected
            assert count == getattr(episodes(config)["train"].drawn, "count")  # noqa: B009


def test_a_run_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    settings = {**GLYPHS, "run": {**GLYPHS["run"], "steps": 5, "checkpoint_every": 2}}
    settings |= {"evaluation": {**GLYPHS["evaluation"], "tasks": 4}, "engine": {"layers": "general", "compile": "none"}}
    result = train(tmp_path / "whole", settings)
    assert result["meta_test"]["accuracy"]["tasks"] == 4
    train_until(2, tmp_path / "cut", settings)
    train(tmp_path / "cut", settings, resume=True)
    assert_same(parameters(tmp_path / "cut", 5), parameters(tmp_path / "whole", 5))


REFUSED = {
    "no shots to evaluate": (SINUSOID, ["evaluation={tasks: 5}"], "set evaluation.shots to a number"),
    "no ways to evaluate": (GLYPHS, ["evaluation={shots: 1}"], "set evaluation.ways to a number"),
    "a head": (GLYPHS, ["algorithm={name: maml}"], "the network's head has one output for each way"),
    "empty range": (SINUSOID, ["tasks.shots={min: 3, max: 2}"], "tasks.shots: min = 3 is more than max = 2"),
    "one way": (GLYPHS, ["tasks.ways={min: 1, max: 2}"], r"tasks\.ways\.min: .*greater than or equal to 2"),
    "no queries": (GLYPHS, ["tasks.examples=3"], "tasks.examples = 3 leaves no queries beside 3 shots"),
    "two numbers": (GLYPHS, ["tasks.queries=4"], "with tasks.examples = 5 there are 2 queries beside 3 shots"),
}


@pytest.mark.parametrize(("settings", "overrides", "said"), REFUSED.values(), ids=REFUSED)
def test_settings_that_make_no_sense(settings: dict[str, Any], overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_config(settings, overrides)


def test_too_many_examples_for_the_data() -> None:
    config = load_config(GLYPHS, ["tasks.examples=21"])
    with pytest.raises(ConfigError, match="of the train split has 20 images"):
        open_family(config, CPU)


def test_what_is_written_is_read_again() -> None:
    config = load_config(GLYPHS)
    assert load_config(written_values(config)) == config
