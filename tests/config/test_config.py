"""Configurations: what is read, what is refused, and that each refusal names the setting."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from distmeta.algorithms import ALGORITHMS
from distmeta.config.schema import Config, dump_config
from distmeta.errors import ConfigError
from distmeta.loading import load_config

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
SINUSOID: dict[str, Any] = {"tasks": {"kind": "sinusoid"}, "model": {"kind": "mlp"}, "algorithm": {"name": "maml"}}
GLYPHS: dict[str, Any] = {
    "tasks": {"kind": "glyphs", "ways": 5, "shots": 1, "queries": 5},
    "model": {"kind": "conv4"},
    "algorithm": {"name": "maml"},
}


def refused(source: Mapping[Any, Any], *overrides: str) -> str:
    """The message of the refusal."""
    with pytest.raises(ConfigError) as error:
        load_config(source, overrides)
    return str(error.value)


# What is read -------------------------------------------------------------------------------------------------------


def test_defaults_are_resolved() -> None:
    config = load_config(GLYPHS, ["algorithm.inner_steps=3", "outer.lr=0.02"])
    assert (config.run.meta_batch, config.run.tasks_per_shard) == (32, 8)
    evaluation = config.evaluation
    assert (evaluation.ways, evaluation.shots, evaluation.queries, evaluation.inner_steps) == (5, 1, 5, 3)
    assert config.outer.lr_meta == 0.02
    assert (config.algorithm.adaptation, config.algorithm.estimator) == ("gradient_descent", "exact")


@pytest.mark.parametrize(
    ("meta_batch", "shard"), [(1, 1), (2, 1), (3, 1), (4, 2), (7, 1), (10, 5), (12, 6), (16, 8), (25, 5), (100, 5)]
)
def test_the_default_shard_is_the_largest_divisor_up_to_eight_and_half(meta_batch: int, shard: int) -> None:
    assert load_config(SINUSOID, [f"run.meta_batch={meta_batch}"]).run.tasks_per_shard == shard


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 0.001), ("1.e-3", 0.001), ("2E-2", 0.02), ("1.5e-3", 0.0015), ("0.25", 0.25), ("1", 1.0)],
)
def test_numbers_are_numbers(text: str, value: float, tmp_path: Path) -> None:
    assert load_config(SINUSOID, [f"outer.lr={text}"]).outer.lr == value
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(SINUSOID) + f"outer:\n  lr: {text}\n")
    assert load_config(path).outer.lr == value


def test_overrides_take_yaml_and_later_ones_win() -> None:
    config = load_config(
        SINUSOID,
        [
            "run.steps=1",
            "run.steps=2",
            "outer={lr: 0.5}",
            "outer.clip_norm=10",
            "algorithm.adapt=[head.*, 'body.0.*']",
            "outer.schedule={kind: step, every: 5, factor: 0.5}",
            "cluster.workers=2",
            "cluster.address=host:6379",
            "evaluation.queries=null",
        ],
    )
    assert (config.run.steps, config.outer.lr, config.outer.clip_norm) == (2, 0.5, 10)
    assert config.algorithm.adapt == ["head.*", "body.0.*"]  # type: ignore[attr-defined]
    assert config.outer.schedule.every == 5  # type: ignore[union-attr]
    assert config.cluster.address == "host:6379"
    assert config.evaluation.queries == config.tasks.queries


def test_the_given_mapping_is_not_changed() -> None:
    given = {**SINUSOID, "run": {"steps": 3}}
    load_config(given, ["run.steps=5", "tasks.shots=2"])
    assert given["run"] == {"steps": 3}
    assert SINUSOID["tasks"] == {"kind": "sinusoid"}


def round_trip(config: Config) -> None:
    again = load_config(yaml.safe_load(dump_config(config)))
    assert again.model_dump() == config.model_dump()
    assert dump_config(again) == dump_config(config)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_file_in_configs_survives_a_round_trip(path: Path, tmp_path: Path) -> None:
    config = load_config(path)
    assert config.name in (path.stem, "demo", "run")
    round_trip(config)
    copy = tmp_path / "resolved.yaml"
    copy.write_text(dump_config(config))
    assert dump_config(load_config(copy)) == dump_config(config)


def test_there_are_files_in_configs() -> None:
    assert CONFIGS


@pytest.mark.parametrize("name", list(ALGORITHMS))
def test_every_algorithm_survives_a_round_trip_with_its_defaults(name: str) -> None:
    row = ALGORITHMS[name]
    needed = {"classes": 1000} if row.adaptation == "linear_probe" else {}
    own = {"tasks": {"kind": "navigation"}, "model": {"kind": "mlp"}} if row.of_policies else {}
    own |= {"model": {"kind": "prior_fitted"}} if name == "in_context" else {}
    config = load_config({**GLYPHS, **own, "algorithm": {"name": name, **needed}})
    assert config.outer.model_dump().items() >= dict(row.outer).items()
    dumped = config.algorithm.model_dump()
    assert (dumped["adaptation"], dumped["estimator"]) == (row.adaptation, row.estimator)
    for key, value in row.defaults.items():
        assert dumped[key] == value
    round_trip(config)


# What is refused ----------------------------------------------------------------------------------------------------

REFUSED: list[tuple[dict[str, Any], list[str], str]] = [
    # Unknown keys, with the nearest known one.
    ({**SINUSOID, "modle": {}}, [], r"modle: there is no such setting; did you mean 'model'\?"),
    (SINUSOID, ["run.stepz=3"], r"run\.stepz: there is no such setting; did you mean 'steps'\?"),
    (SINUSOID, ["tasks.ways=5"], r"tasks\.ways: there is no such setting"),
    (SINUSOID, ["algorithm.inner_step=1"], r"algorithm\.inner_step: .*did you mean 'inner_steps'\?"),
    (SINUSOID, ["model.hiden=[3]"], r"model\.hiden: .*did you mean 'hidden'\?"),
    (SINUSOID, ["outer.learning=1"], r"outer\.learning: there is no such setting; there are name, on_nonfinite,"),
    # Wrong types and limits.
    (SINUSOID, ["run.steps=many"], r"run\.steps: .*integer.*got 'many'"),
    (SINUSOID, ["run.steps=1.5"], r"run\.steps: .*got 1\.5"),
    (SINUSOID, ["run.steps=-1"], r"run\.steps: .*got -1"),
    (SINUSOID, ["run.meta_batch=0"], r"run\.meta_batch: .*got 0"),
    (SINUSOID, ["outer.lr=-1"], r"outer\.lr: .*got -1"),
    (SINUSOID, ["outer.lr=.nan"], r"outer\.lr: .*got nan"),
    (SINUSOID, ["outer.optimizer=rmsprop"], r"outer\.optimizer: .*'adam'.*got 'rmsprop'"),
    (SINUSOID, ["outer.schedule={kind: step, every: 0, factor: 0.5}"], r"outer\.schedule\.every: .*got 0"),
    (SINUSOID, ["outer.momentum=0.9"], r"outer\.momentum is a setting of optimizer sgd, not of adam"),
    (SINUSOID, ["seed=-1"], r"seed: .*got -1"),
    (SINUSOID, ["name=../x"], r"name: .*got '\.\./x'"),
    (
        SINUSOID,
        ["cluster.workers={min: 3, max: 2}"],
        r"cluster\.workers\.min = 3 is more than cluster\.workers\.max = 2",
    ),
    (SINUSOID, ["cluster.workers={min: 1}"], r"cluster\.workers\.max: this setting is required"),
    (SINUSOID, ["cluster.hang_seconds=0"], r"cluster\.hang_seconds: .*greater than 0"),
    (SINUSOID, ["cluster.workers=some"], r"cluster\.workers: .*got 'some'"),
    (SINUSOID, ["run=3"], r"run: expected a section with settings of its own, got 3"),
    # Kinds and names.
    ({key: SINUSOID[key] for key in ("model", "algorithm")}, [], r"tasks: this setting is required"),
    ({**SINUSOID, "tasks": {}}, [], r"tasks\.kind: this setting is required, one of .*sinusoid"),
    ({**SINUSOID, "model": {}}, [], r"model\.kind: this setting is required"),
    ({**SINUSOID, "algorithm": {}}, [], r"algorithm\.name: this setting is required"),
    (SINUSOID, ["tasks.kind=sinus"], r"tasks\.kind: expected one of .*did you mean 'sinusoid'\?"),
    (SINUSOID, ["algorithm.name=mam"], r"algorithm\.name: .*did you mean 'maml'\?"),
    (SINUSOID, ["algorithm.estimator=exakt"], r"algorithm\.estimator: .*did you mean 'exact'\?"),
    (SINUSOID, ["algorithm.adaptation=x"], r"algorithm\.adaptation: expected one of .*got 'x'"),
    (GLYPHS, ["tasks.shots=0"], r"tasks\.shots: .*got 0"),
    # Right alone, wrong together.
    (SINUSOID, ["run.meta_batch=10", "run.tasks_per_shard=4"], r"run\.tasks_per_shard = 4 .*use one of 1, 2, 5, 10"),
    (GLYPHS, ["evaluation.ways=7"], r"evaluation\.ways = 7 differs from tasks\.ways = 5"),
    (SINUSOID, ["evaluation.ways=5"], r"evaluation\.ways has no meaning for tasks\.kind = sinusoid"),
    (SINUSOID, ["algorithm.name=protonet"], r"algorithm\.adaptation = prototypes needs classes.*sinusoid"),
    (GLYPHS, ["algorithm={name: protonet}", "engine.differentiation=mixed"], r"engine\.differentiation = mixed"),
    (GLYPHS, ["algorithm={name: fomaml}", "engine.differentiation=mixed"], r"engine\.differentiation = mixed"),
    (GLYPHS, ["run.tasks_per_shard=4", "engine.chunk=8"], r"engine\.chunk = 8 is more than a shard"),
    (GLYPHS, ["algorithm.name=in_context"], r"takes no support set; use model\.kind=prior_fitted"),
    (GLYPHS, ["model={kind: prior_fitted}"], r"reads a support set beside the query, and .* use another model, or"),
    (GLYPHS, ["algorithm.name=imaml", "algorithm.proximal=0"], r"algorithm\.proximal = 0; give the proximal term's"),
    (GLYPHS, ["algorithm.name=imaml", "algorithm.learned_rates=per_step"], r"belongs to the way to a task's solution"),
    (GLYPHS, ["algorithm.name=r2d2", "algorithm.estimator=first_order"], r"is about inner steps, and .* takes none"),
    (GLYPHS, ["algorithm={name: r2d2, multi_step: 5}"], r"weighs the losses after inner steps, and .* leave it out"),
    (GLYPHS, ["algorithm={name: baseline, classes: 9}", "algorithm.estimator=exact"], r"is trained on all classes"),
    (GLYPHS, ["algorithm.name=baseline"], r"algorithm\.classes: this setting is required"),
    (GLYPHS, ["algorithm.estimator=hybrid"], r"algorithm\.first_order_steps: this setting is required"),
    (
        GLYPHS,
        ["algorithm.name=r2d2", "algorithm.estimator=joint"],
        r"solves each task, which joint training leaves",
    ),
    (GLYPHS, ["algorithm.name=cavia", "algorithm.estimator=displacement"], r"adapts nothing that is meta-learned"),
    (SINUSOID, ["algorithm={name: metaoptnet}"], r"needs classes, and tasks\.kind = sinusoid is a regression"),
    (GLYPHS, ["engine.precision=tf32", "run.device=cpu"], r"engine\.precision = tf32 is a mode of CUDA"),
    (GLYPHS, ["engine={precision: bf16, layers: native}"], r"engine\.layers = native computes in float32"),
    (GLYPHS, ["engine.compile=fast"], r"engine\.compile: .*graph"),
    (GLYPHS, ["algorithm={name: protonet, estimator: first_order}"], r"algorithm\.estimator = first_order"),
    (GLYPHS, ["algorithm={name: protonet, estimator: displacement}"], r"algorithm\.estimator = displacement"),
    (GLYPHS, ["algorithm={name: protonet}", "evaluation.inner_steps=3"], r"evaluation\.inner_steps has no meaning"),
    (GLYPHS, ["algorithm={name: reptile, adapt: head}"], r"algorithm\.adapt = 'head' with the displacement"),
    (GLYPHS, ["algorithm={name: reptile, learned_rates: per_tensor}"], r"algorithm\.learned_rates has no meta-grad"),
    (SINUSOID, ["algorithm.inner_lr=[0.1, 0.2]"], r"algorithm\.inner_lr = \[0\.1, 0\.2\] is a range"),
    (SINUSOID, ["algorithm={name: meta_sgd, inner_lr: [0.2, 0.1]}"], r"algorithm\.inner_lr = .*expected \[low, high\]"),
    # Overrides that are none.
    (SINUSOID, ["run.steps"], r"override 'run\.steps' is not of the form key=value"),
    (SINUSOID, ["=3"], r"override '=3' is not of the form key=value"),
    (SINUSOID, ["run.steps=[1"], r"override 'run\.steps=\[1': '\[1' is not a valid YAML value"),
    (SINUSOID, ["outer={lr: 1, lr: 2}"], r"override .outer=.*: .lr. is given twice, in line 1"),
    ({**SINUSOID, "run": 3}, ["run.steps=2"], r"override 'run\.steps=2': run is a single value"),
]


@pytest.mark.parametrize(("source", "overrides", "message"), REFUSED, ids=[row[2][:40] for row in REFUSED])
def test_refusals_name_the_setting(source: dict[str, Any], overrides: list[str], message: str) -> None:
    found = refused(source, *overrides)
    assert re.search(message, found), found


def test_all_problems_are_told_at_once() -> None:
    message = refused(SINUSOID, "run.stepz=1", "outer.lr=-1", "algorithm.inner_steps=0", "nonsense=1")
    for setting in ("run.stepz", "outer.lr", "algorithm.inner_steps", "nonsense"):
        assert f"\n  {setting}: " in message


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    broken, text, binary = tmp_path / "broken.yaml", tmp_path / "text.yaml", tmp_path / "binary.yaml"
    broken.write_text("tasks: {kind: sinusoid\nmodel: 3\n")
    text.write_text("just words")
    binary.write_bytes(b"\xff\xfe\x00")
    for path, reason in (
        (tmp_path / "absent.yaml", "No such file"),
        (broken, "line 2"),
        (text, "holds no settings"),
        (binary, "not a text file"),
    ):
        with pytest.raises(ConfigError, match=reason) as error:
            load_config(path)
        assert path.name in str(error.value)


# Defects: strict, so that a repair shows -----------------------------------------------------------------------------


def test_a_key_with_a_dash_is_named() -> None:
    assert "run.meta-batch: there is no such setting; did you mean 'meta_batch'?" in refused(
        SINUSOID, "run.meta-batch=8"
    )


@pytest.mark.parametrize("value", ["16.0", "'16'"])
def test_a_meta_batch_that_pydantic_would_take_gets_its_shard(value: str) -> None:
    assert load_config(SINUSOID, [f"run.meta_batch={value}"]).run.tasks_per_shard == 8


def test_a_key_that_is_a_number_is_refused() -> None:
    assert "1: there is no such setting" in refused({**SINUSOID, 1: 2})


@pytest.mark.parametrize("override", ["algorithm.inner_lr=.inf", "outer.clip_norm=.inf", "algorithm.inner_eps=.inf"])
def test_infinite_numbers_are_refused(override: str) -> None:
    assert override.split("=")[0] in refused(SINUSOID, override)


@pytest.mark.parametrize("key", ["run.steps", "outer.lr", "run.threads", "evaluation.tasks", "tasks.shots"])
def test_a_truth_value_is_no_number(key: str) -> None:
    assert f"{key}: expected something else than true and false, got true" in refused(SINUSOID, f"{key}=true")
