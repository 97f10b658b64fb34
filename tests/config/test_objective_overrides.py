"""Settings of an objective by dotted overrides, whether the objective is a name, a section, or the family's own."""

from __future__ import annotations

from typing import Any

import pytest

from distmeta.errors import ConfigError
from distmeta.loading import load_config

SINES: dict[str, Any] = {"tasks": {"kind": "sinusoid"}, "model": {"kind": "mlp"}, "algorithm": {"name": "maml"}}


def delta(values: dict[str, Any], *overrides: str) -> float:
    objective: Any = load_config(values, overrides).tasks.objective
    return float(objective.delta)


def test_a_name_becomes_a_section() -> None:
    named = {**SINES, "tasks": {"kind": "sinusoid", "objective": "huber"}}
    assert delta(named, "tasks.objective.delta=2") == 2.0
    assert delta(SINES, "tasks.objective=huber", "tasks.objective.delta=2") == 2.0
    section = {**SINES, "tasks": {"kind": "sinusoid", "objective": {"name": "huber", "delta": 3}}}
    assert delta(section, "tasks.objective.delta=2") == 2.0


def test_settings_alone_are_of_the_familys_own_objective() -> None:
    glyphs = {"tasks": {"kind": "glyphs"}, "model": {"kind": "mlp"}, "algorithm": {"name": "protonet"}}
    objective: Any = load_config(glyphs, ["tasks.objective.label_smoothing=0.1"]).tasks.objective
    assert (objective.name, objective.label_smoothing) == ("cross_entropy", 0.1)


def test_an_inner_objective() -> None:
    overrides = ["algorithm.inner_objective=huber", "algorithm.inner_objective.delta=0.5"]
    inner: Any = load_config(SINES, overrides).algorithm.inner_objective  # type: ignore[attr-defined]
    assert (inner.name, inner.delta) == ("huber", 0.5)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("tasks.objective.delta=2", r"tasks\.objective\.delta: there is no such setting"),
        ("tasks.kind.x=1", "kind is a single value, it has no setting 'x'"),
    ],
)
def test_what_has_no_such_setting_is_refused(override: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_config(SINES, [override])
