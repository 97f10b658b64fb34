"""Configurations of other versions: older ones are brought to the present, newer ones refused.

No key has had to be renamed yet, so the tests pretend that ``run.meta_batch`` was ``run.batch`` in version 1.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from distmeta.config.migrations import CONFIG_MIGRATIONS, Migration, migrated, newest, renamed
from distmeta.config.schema import dump_config, written_values
from distmeta.errors import ConfigError
from distmeta.loading import load_config
from distmeta.storage.migrations import MANIFEST_MIGRATIONS
from distmeta.sweeps.sweep import SWEEP_MIGRATIONS

NEWEST = newest(CONFIG_MIGRATIONS)
"""The version of configurations."""

SINUSOID: dict[str, Any] = {"tasks": {"kind": "sinusoid"}, "model": {"kind": "mlp"}, "algorithm": {"name": "maml"}}
OLD = {**SINUSOID, "run": {"batch": 6, "steps": 3}}
NEW = {**SINUSOID, "run": {"meta_batch": 6, "steps": 3}}


@pytest.fixture
def next_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CONFIG_MIGRATIONS, NEWEST, lambda values: renamed(values, "run.batch", "run.meta_batch"))


def refused(source: Mapping[str, Any] | Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as error:
        load_config(source, overrides)
    return str(error.value)


# What is written, and what is read ----------------------------------------------------------------------------------


def test_what_is_written_begins_with_its_version() -> None:
    config = load_config(SINUSOID)
    assert dump_config(config).startswith(f"schema: {newest(CONFIG_MIGRATIONS)}\nname: run\n")
    assert list(written_values(config))[:2] == ["schema", "name"]
    assert load_config(written_values(config)) == config


def test_without_the_key_it_is_the_first_version() -> None:
    assert load_config({"schema": 1, **SINUSOID}) == load_config(SINUSOID)


@pytest.mark.usefixtures("next_version")
@pytest.mark.parametrize("source", [OLD, {"schema": 1, **OLD}, {"schema": NEWEST + 1, **NEW}, NEW])
def test_a_renamed_key(source: dict[str, Any], tmp_path: Path) -> None:
    """Whoever had no need to name a version may go on without, and take the new name too."""
    given = copy.deepcopy(source)
    config = load_config(source)
    assert source == given
    assert (config.run.meta_batch, config.run.steps) == (6, 3)
    assert dump_config(config).startswith(f"schema: {NEWEST + 1}\n")
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(source))
    assert load_config(file) == load_config(dict(written_values(config))) == config


@pytest.mark.usefixtures("next_version")
def test_overrides_take_the_present_name() -> None:
    assert load_config(OLD, ["run.meta_batch=8"]).run.meta_batch == 8
    assert "run.batch: there is no such setting" in refused(OLD, "run.batch=8")


@pytest.mark.usefixtures("next_version")
def test_the_old_name_in_a_file_of_the_new_version() -> None:
    assert "run.batch: there is no such setting" in refused({"schema": NEWEST + 1, **OLD})


@pytest.mark.usefixtures("next_version")
def test_both_names() -> None:
    assert refused({**SINUSOID, "run": {"batch": 6, "meta_batch": 8}}) == (
        "the configuration is not valid:\n"
        "  run.batch: this setting is called run.meta_batch now, and both are given; keep run.meta_batch"
    )


def test_a_newer_version_is_refused_with_both(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("schema: 7\nother: {x: 1}\n")
    message = refused(file)
    assert message.startswith(f"{file} is of a newer format (schema 7, and this version of distmeta, ")
    assert message.endswith(f", reads up to {newest(CONFIG_MIGRATIONS)}); install a newer version")
    assert refused({"schema": 7}).startswith("the configuration is of a newer format (schema 7, ")


@pytest.mark.parametrize("value", ["1", "one", 0, -1, True, 1e9, 1.0, None, [1], {"a": 1}])
def test_versions_that_are_none(value: Any) -> None:
    message = refused({"schema": value, **SINUSOID})
    assert message.startswith("the configuration is not valid:\n  schema: expected the number of a version, from 1 to ")


@pytest.mark.parametrize("override", ["schema=1", "schema=99", "schema.x=1"])
def test_no_override_says_a_version(override: str) -> None:
    assert "schema: a file says in which version it is written" in refused(SINUSOID, override)


# Renaming -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("a", "z", {"z": 1, "b": {"c": 2, "d": {"e": 3}}}),
        ("b.c", "b.z", {"a": 1, "b": {"z": 2, "d": {"e": 3}}}),
        ("b.d", "d", {"a": 1, "b": {"c": 2}, "d": {"e": 3}}),
        ("b.d.e", "b.e", {"a": 1, "b": {"c": 2, "d": {}, "e": 3}}),
        ("a", "x.y.z", {"b": {"c": 2, "d": {"e": 3}}, "x": {"y": {"z": 1}}}),
        ("missing", "z", {"a": 1, "b": {"c": 2, "d": {"e": 3}}}),
        ("b.missing", "b.c", {"a": 1, "b": {"c": 2, "d": {"e": 3}}}),
        ("missing.c", "z.c", {"a": 1, "b": {"c": 2, "d": {"e": 3}}}),
        ("a.c", "z", {"a": 1, "b": {"c": 2, "d": {"e": 3}}}),
    ],
)
def test_renamed(old: str, new: str, expected: dict[str, Any]) -> None:
    values = {"a": 1, "b": {"c": 2, "d": {"e": 3}}}
    before = copy.deepcopy(values)
    assert renamed(values, old, new) == expected
    assert values == before


def test_a_name_that_cannot_be_taken() -> None:
    with pytest.raises(ValueError, match=r"b: this setting is called a\.c now, and both are given; keep a\.c"):
        renamed({"a": {"c": 1}, "b": 2}, "b", "a.c")
    with pytest.raises(ValueError, match="a: expected a section with settings of its own, got 1"):
        renamed({"a": 1, "b": 2}, "b", "a.c")


# The tables ---------------------------------------------------------------------------------------------------------


def test_one_version_after_the_other() -> None:
    table: dict[int, Migration] = {
        1: lambda values: renamed(values, "a", "b"),
        2: lambda values: {**values, "b": values["b"] * 10},
    }
    assert migrated({"a": 1}, table) == {"schema": 3, "b": 10}
    assert migrated({"schema": 2, "b": 1}, table) == {"schema": 3, "b": 10}
    assert migrated({"schema": 3, "b": 1}, table) == {"schema": 3, "b": 1}


@pytest.mark.parametrize("table", [CONFIG_MIGRATIONS, MANIFEST_MIGRATIONS, SWEEP_MIGRATIONS])
def test_no_version_is_left_out_and_each_says_what_has_changed(table: dict[int, Migration]) -> None:
    assert list(table) == list(range(1, newest(table)))
    for version, migration in table.items():
        assert (migration.__doc__ or "").startswith(f"Version {version + 1}: ")
