"""Sweep files: what their spaces hold, and that each refusal names the setting before anything starts."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from sweep_helpers import BASE, SPACE, STEPS, sweep, written

from distmeta.config.migrations import CONFIG_MIGRATIONS, newest, renamed
from distmeta.config.schema import dump_config
from distmeta.errors import ConfigError
from distmeta.loading import load_config
from distmeta.sweeps.points import perturb
from distmeta.sweeps.sweep import SWEEP_MIGRATIONS, check_same_sweep, dump_sweep, load_sweep

NEWEST = newest(CONFIG_MIGRATIONS)
"""The version of configurations."""

SWEEPS = sorted((Path(__file__).parents[2] / "configs" / "sweeps").glob("*.yaml"))
GLYPHS = {**BASE, "tasks": {"kind": "glyphs", "ways": 2, "shots": 1, "queries": 2}, "model": {"kind": "conv4"}}


@pytest.mark.parametrize("file", SWEEPS, ids=lambda file: file.stem)
def test_published_sweeps(file: Path) -> None:
    loaded = load_sweep(file)
    assert loaded.trials >= 8
    for values in loaded.points or ():
        for key, value in values.items():
            low, high = loaded.options.space[key].values
            assert low <= value <= high


def test_random_points_follow_the_seed() -> None:
    assert sweep().points == sweep().points
    assert sweep().points != sweep("seed=1").points
    assert sweep().points == (sweep("trials=6").points or ())[:4]


def test_a_rate_is_uniform_in_its_logarithm() -> None:
    points = sweep("trials=400", space={"outer.lr": {"loguniform": [1e-4, 1e-2]}}).points or ()
    below = sum(values["outer.lr"] < 1e-3 for values in points)
    assert 150 < below < 250


def test_whole_numbers_reach_both_bounds() -> None:
    points = sweep("trials=60", space={"algorithm.inner_steps": {"randint": [1, 3]}}).points or ()
    assert {values["algorithm.inner_steps"] for values in points} == {1, 2, 3}


def test_grid_of_conditional_keys() -> None:
    """A key that is not set makes no further trials."""
    space = {
        "algorithm.name": {"choice": ["maml", "meta_sgd"]},
        "outer.lr_meta": {"choice": [0.1, 0.2], "when": {"algorithm.name": "meta_sgd"}},
    }
    content = {key: value for key, value in written(space=space, searcher="grid").items() if key != "trials"}
    assert load_sweep(content).points == (
        {"algorithm.name": "maml"},
        {"algorithm.name": "meta_sgd", "outer.lr_meta": 0.1},
        {"algorithm.name": "meta_sgd", "outer.lr_meta": 0.2},
    )
    content["searcher"] = "random"
    for values in load_sweep(content).points or ():
        assert ("outer.lr_meta" in values) == (values["algorithm.name"] == "meta_sgd")


def test_conditions_of_conditions() -> None:
    """A key is checked under all that it depends on: weight decay is fine beside momentum, which sgd alone has."""
    space = {
        "outer.optimizer": {"choice": ["adam", "sgd"]},
        "outer.momentum": {"choice": [0.9], "when": {"outer.optimizer": "sgd"}},
        "outer.weight_decay": {"choice": [0.1], "when": {"outer.momentum": [0.9]}},
    }
    loaded = load_sweep({**written(space=space, searcher="grid"), "trials": None})
    assert [len(values) for values in loaded.points or ()] == [1, 3]


def test_sections_as_values() -> None:
    """A key within a section that is itself searched changes its own trial alone."""
    space = {
        "outer": {"choice": [{"optimizer": "adam"}, {"optimizer": "sgd"}]},
        "outer.momentum": {"choice": [0.9], "when": {"outer": {"optimizer": "sgd"}}},
    }
    loaded = load_sweep({**written(space=space, searcher="grid"), "trials": None})
    for _ in range(2):
        found = [loaded.trial_config(values, 0).outer for values in loaded.points or ()]
        assert [(outer.optimizer, outer.momentum) for outer in found] == [("adam", 0.0), ("sgd", 0.9)]


def test_data_is_the_same_wherever_a_trial_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tasks = {"kind": "omniglot", "root": "data", "ways": 5, "shots": 1, "queries": 1}
    loaded = sweep(base={**BASE, "tasks": tasks, "model": {"kind": "conv4"}})
    monkeypatch.chdir("/")
    root = getattr(loaded.trial_config((loaded.points or ())[0], 0).tasks, "root", "")
    assert root == yaml.safe_load(dump_sweep(loaded))["base"]["tasks"]["root"] == str(tmp_path / "data")


def test_grid_keys_are_tried_equally_often() -> None:
    points = sweep(space={**SPACE, "model.hidden": {"grid": [[4], [8]]}}).points or ()
    assert [values["model.hidden"] for values in points] == [[4], [8], [4], [8]]


def test_first_trials() -> None:
    """Given values come first, and the others are those that would be drawn without them."""
    given = {"algorithm.inner_lr": 0.01, "outer.lr": 0.001}
    loaded = sweep(first=[given])
    assert loaded.trials == 4
    assert loaded.points == (given, *(sweep("trials=3").points or ()))
    assert yaml.safe_load(dump_sweep(loaded))["first"] == [given]


def test_overrides_change_the_sweep_or_the_base() -> None:
    loaded = sweep("trials=2", "run.meta_batch=8", "scheduler={kind: asha, grace: 4}")
    assert loaded.trials == 2
    assert loaded.config.run.meta_batch == 8
    assert loaded.options.scheduler.model_dump() == {"kind": "asha", "grace": 4, "reduction": 3}


def test_overrides_within_space_and_settings() -> None:
    """Their keys are dotted keys of the configuration, each replaced by itself."""
    loaded = sweep("space.outer.lr={choice: [0.5]}", "settings.run.meta_batch=2")
    assert {values["outer.lr"] for values in loaded.points or ()} == {0.5}
    assert len({values["algorithm.inner_lr"] for values in loaded.points or ()}) == 4
    assert (loaded.config.run.meta_batch, loaded.config.run.steps) == (2, STEPS)


def test_the_base_is_found_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(BASE))
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(written(base="base.yaml", settings={"seed": 5})))
    assert load_sweep(tmp_path / "sweep.yaml").seeds == [5]


def test_a_trial_differs_from_the_best_configuration_in_nothing_that_counts() -> None:
    """What ``best.yaml`` says gives the trial's own bits: only what a resumed run may change differs."""
    loaded = sweep("resources.workers=2", "repeats=2")
    values = (loaded.points or ())[0]
    trial, best = (
        config.model_dump(exclude={"cluster", "name"})
        for config in (loaded.trial_config(values, loaded.seeds[0]), loaded.best_config(values))
    )
    for key in ("checkpoint_every", "keep"):
        trial["run"].pop(key)
        best["run"].pop(key)
    assert trial == best
    assert best["outer"]["lr"] == values["outer.lr"]
    assert loaded.trial_config(values, 0).cluster.cpus_per_worker == 0.5


def test_dump_is_read_again() -> None:
    loaded = sweep("run.meta_batch=8", space={**SPACE, "model.hidden": {"choice": [[4], [8]]}}, scheduler="median")
    text = dump_sweep(loaded)
    again = load_sweep(yaml.safe_load(text))
    assert again.points == loaded.points
    assert dump_config(again.config) == dump_config(loaded.config)
    check_same_sweep(
        text, dump_sweep(sweep("run.meta_batch=8", space=yaml.safe_load(text)["space"], scheduler="median"))
    )


def test_resume_keeps_the_settings() -> None:
    check_same_sweep(dump_sweep(sweep()), dump_sweep(sweep("resources.cpus=2")))
    changed = dump_sweep(sweep("trials=5", "run.meta_batch=8", "cluster.hang_seconds=20"))
    with pytest.raises(
        ConfigError, match=r"differ:\n  base\.run\.meta_batch: was 4, is 8\n  trials: was 4, is 5\nstart"
    ):
        check_same_sweep(dump_sweep(sweep()), changed)


def test_perturbed_rates_stay_in_the_space() -> None:
    options = sweep(scheduler={"kind": "pbt", "interval": 4, "resample": 0.0}).options
    chance = random.Random(0)
    values = {"algorithm.inner_lr": 0.01, "outer.lr": 1e-2}
    seen = [perturb(values, options, chance) for _ in range(20)]
    assert {new["algorithm.inner_lr"] for new in seen} == {0.008, 0.0125}
    assert {new["outer.lr"] for new in seen} == {0.008, 0.01}


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in written().items() if name != key}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({}, r"base: this setting is required"),
        (without("space"), r"space: this setting is required"),
        (written(space={}), r"space: "),
        (written(trialz=3), r"trialz: there is no such setting; did you mean 'trials'"),
        (written(space={"outer.lrr": {"choice": [1]}}), r"space\.outer\.lrr: 1 is refused: .*did you mean 'lr'"),
        (written(space={"outer.lr": 0.1}), r"space\.outer\.lr: expected settings of its own, loguniform"),
        (written(space={"outer.lr": {"loguni": [1, 2]}}), r"space\.outer\.lr\.loguni: there is no such setting"),
        (written(space={"outer.lr": {"choice": [1], "grid": [1]}}), r"exactly one of .* got choice and grid"),
        (written(space={"outer.lr": {"uniform": [2, 1]}}), r"space\.outer\.lr: uniform: expected .* low < high"),
        (written(space={"outer.lr": {"loguniform": [0, 1]}}), r"loguniform: expected bounds above 0"),
        (written(space={"outer.lr": {"uniform": [-1, 1]}}), r"space\.outer\.lr: -1\.0 is refused: outer\.lr"),
        (written(space={"outer.lr": {"choice": []}}), r"space\.outer\.lr: choice: expected at least one value"),
        (written(space={"run.steps": {"choice": [5]}}), r"space\.run\.steps: run\.steps is the same for all trials"),
        (written(space={"evaluation.seed": {"choice": [5]}}), r"evaluation is the same for all trials"),
        (
            written(base=GLYPHS, space={"tasks.shots": {"choice": [1, 5]}}),
            r"tasks\.shots: 5 changes the tasks of validation.*set evaluation\.ways",
        ),
        (
            written(space={"outer.lr": {"choice": [1], "when": {"algorithm.name": "maml"}}}),
            r"space\.outer\.lr\.when: algorithm\.name is no earlier key of the space",
        ),
        (
            written(
                space={
                    "model.hidden": {"choice": [[4]]},
                    "algorithm.name": {"choice": ["maml", "protonet"]},
                }
            ),
            r"space\.algorithm\.name: 'protonet' is refused: .*needs classes",
        ),
        (written(metric="accuracy"), r"metric: expected one of mse, loss"),
        (written(mode="max"), r"mode: mse is better the lower: expected min"),
        (written(scheduler="ashaa"), r"scheduler\.kind: .* did you mean 'asha'"),
        (written(scheduler={"kind": "asha", "gracee": 1}), r"scheduler\.gracee: there is no such setting"),
        (written(scheduler={"kind": "asha", "grace": STEPS}), r"scheduler\.grace = 12: expected less than run\.steps"),
        (written(scheduler="pbt"), r"scheduler\.interval: this setting is required"),
        (
            written(scheduler={"kind": "pbt", "interval": 10}),
            r"scheduler\.interval = 10: expected a validation \(run\.validate_every = 4\) after it and before the end",
        ),
        (
            written(scheduler={"kind": "pbt", "interval": 4}, concurrency=3),
            r"concurrency = 3: the trials of a population take turns by themselves",
        ),
        (written(resources={"gpus": 1.5}), r"resources\.gpus: .*less than or equal to 1"),
        (written(space={"run": {"choice": [{"steps": 5}]}}), r"space\.run: run\.steps is the same for all trials"),
        (
            written(
                space={
                    "algorithm.inner_steps": {"choice": [1, 3]},
                    "algorithm.inner_lr": {"choice": [0.1], "when": {"algorithm.inner_steps": 4}},
                }
            ),
            r"space\.algorithm\.inner_lr\.when: 4 is no value of algorithm\.inner_steps",
        ),
        (
            written(scheduler={"kind": "pbt", "interval": 4}, space={"algorithm.inner_steps": {"choice": [1, 2]}}),
            r"space\.algorithm\.inner_steps: population-based training changes rates",
        ),
        (
            written(
                base={**BASE, "algorithm": {"name": "meta_sgd"}},
                scheduler={"kind": "pbt", "interval": 4},
                space={"algorithm.inner_lr": {"uniform": [0.01, 0.1]}},
            ),
            r"space\.algorithm\.inner_lr: learned rates only begin at it.*search outer\.lr_meta",
        ),
        (written(searcher="grid"), r"the searcher grid takes listed values.*\n.*trials: the searcher grid"),
        (written(space={"outer.lr": {"grid": [1, 2, 3]}}), r"trials = 4: the keys with grid have 3 combinations"),
        (written(first=[{"outer.lr": 0.01}]), r"first, number 1: algorithm\.inner_lr is missing"),
        (written(first=[{"outer.lrr": 1}]), r"first, number 1: outer\.lrr is no key of the space"),
        (
            written(first=[{"algorithm.inner_lr": 0.5, "outer.lr": 0.01}]),
            r"algorithm\.inner_lr = 0\.5: expected a value of the space, loguniform \[0\.001, 0\.1\]",
        ),
        (
            written(
                first=[{"algorithm.inner_steps": 2.5}], space={"algorithm.inner_steps": {"randint": [1, 3]}}, trials=1
            ),
            r"algorithm\.inner_steps = 2\.5: expected a value of the space, randint \[1, 3\]",
        ),
        (
            written(first=[{"algorithm.inner_lr": 0.01, "outer.lr": 0.01}] * 5),
            r"first: expected no more than trials = 4, got 5",
        ),
        (written(settings={"run.validate_every": 0}), r"run\.validate_every = 0, run\.steps = 12: trials are compared"),
        (written(resources={"cpus": 0}), r"resources\.cpus"),
        (written(base="nowhere.yaml"), r"cannot read the configuration .*nowhere\.yaml"),
        (written(settings={"outer.lr": -1}), r"outer\.lr: .*greater than or equal to 0"),
    ],
    ids=lambda value: None if isinstance(value, dict) else re.sub(r"\W+", "-", value)[:40],
)
def test_refusals(content: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_sweep(content)


def test_best_configuration_loads(tmp_path: Path) -> None:
    loaded = sweep()
    values = (loaded.points or ())[1]
    (tmp_path / "best.yaml").write_text(dump_config(loaded.best_config(values)))
    assert load_config(tmp_path / "best.yaml").algorithm.model_dump()["inner_lr"] == values["algorithm.inner_lr"]


# Versions -----------------------------------------------------------------------------------------------------------


def without_versions(text: str) -> dict[str, Any]:
    """A sweep's own file as distmeta 0.1.0 wrote it."""
    values: dict[str, Any] = yaml.safe_load(text)
    assert (values.pop("schema"), values["base"].pop("schema")) == (1, NEWEST)
    return values


def test_a_sweep_without_versions_is_of_the_first() -> None:
    text = dump_sweep(sweep())
    old = without_versions(text)
    assert text.startswith("schema: 1\n")
    assert dump_sweep(load_sweep(old)) == text
    check_same_sweep(yaml.safe_dump(old), text)


def test_a_key_of_the_base_that_was_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = without_versions(dump_sweep(sweep()))
    old["base"] = renamed(old["base"], "run.meta_batch", "run.batch")
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(old["base"]))
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump({**old, "base": "base.yaml"}))
    monkeypatch.setitem(CONFIG_MIGRATIONS, NEWEST, lambda values: renamed(values, "run.batch", "run.meta_batch"))
    now = dump_sweep(sweep())
    assert yaml.safe_load(now)["base"]["schema"] == NEWEST + 1
    check_same_sweep(yaml.safe_dump(old), now)
    for source in (old, tmp_path / "sweep.yaml"):
        assert yaml.safe_load(dump_sweep(load_sweep(source))) == yaml.safe_load(now)
    assert load_sweep(old, ["base.run.meta_batch=8"]).config.run.meta_batch == 8
    assert load_sweep(tmp_path / "sweep.yaml", ["run.meta_batch=8"]).config.run.meta_batch == 8


def test_a_key_of_a_sweep_that_was_renamed(monkeypatch: pytest.MonkeyPatch) -> None:
    old = without_versions(dump_sweep(sweep()))
    old["count"] = old.pop("trials")
    monkeypatch.setitem(SWEEP_MIGRATIONS, 1, lambda values: renamed(values, "count", "trials"))
    now = dump_sweep(sweep())
    assert now.startswith("schema: 2\n")
    assert dump_sweep(load_sweep(old)) == now
    check_same_sweep(yaml.safe_dump(old), now)


@pytest.mark.parametrize(
    ("content", "overrides", "words"),
    [
        (written(schema=7), [], r"the sweep is of a newer format \(schema 7, .* reads up to 1\); install"),
        (
            written(base={**BASE, "schema": 7}),
            [],
            r"base is of a newer format \(schema 7, .* reads up to \d\); install",
        ),
        (written(schema="x"), [], r"the sweep is not valid:\n  schema: expected the number of a version"),
        (written(base={**BASE, "schema": 0}), [], r"base is not valid:\n  schema: expected the number of a version"),
        (written(), ["schema=1"], r"schema: a file says in which version it is written"),
        (written(settings={"schema": 1}), [], r"schema: a file says in which version it is written"),
        (written(space={**SPACE, "schema": {"grid": [1]}}), [], r"schema: a file says in which version it is written"),
    ],
)
def test_versions_that_are_refused(content: dict[str, Any], overrides: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_sweep(content, overrides)
