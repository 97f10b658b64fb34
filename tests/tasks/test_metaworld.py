"""Meta-World's benchmarks. Its package pins an older MuJoCo, so that it is not installed for development."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch

from distmeta.core.requests import Start
from distmeta.errors import ConfigError
from distmeta.loading import load_config
from distmeta.programs import open_program
from distmeta.tasks import TASKS
from distmeta.tasks.base import episodes
from distmeta.tasks.environments import metaworld

ARM: dict[str, Any] = {
    "tasks": {"kind": "metaworld", "episodes": 2, "horizon": 20},
    "model": {"kind": "mlp", "hidden": [8], "activation": "tanh", "weights": "xavier"},
    "algorithm": {"name": "maml_trpo", "inner_steps": 1},
    "run": {"meta_batch": 2, "tasks_per_shard": 1, "steps": 1, "device": "cpu"},
    "evaluation": {"tasks": 4, "validation_tasks": 2},
}


def test_what_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "metaworld", None)
    metaworld._benchmark.cache_clear()
    config = load_config(ARM)
    with pytest.raises(ConfigError, match=r"pip install distmeta\[metaworld\]"):
        TASKS["metaworld"].prepare(config.tasks, episodes(config))


def test_a_kind_of_task_belongs_to_ml1() -> None:
    with pytest.raises(ConfigError, match="is for benchmark ml1"):
        load_config(ARM, ["tasks.benchmark=ml10", "tasks.task=reach-v3"])
    with pytest.raises(ConfigError, match=r"tasks\.horizon"):
        load_config(ARM, ["tasks.horizon=501"])


@pytest.mark.parametrize("benchmark", ["ml1", "ml10"])
def test_the_protocol(benchmark: str) -> None:
    pytest.importorskip("metaworld", reason="pip install distmeta[metaworld]")
    config = load_config(ARM, [f"tasks.benchmark={benchmark}"])
    family = TASKS["metaworld"]
    family.prepare(config.tasks, episodes(config))
    drawn = [family.task_of(config.tasks, None, "train", 0, task) for task in range(300)]  # type: ignore[attr-defined]
    tested = [family.task_of(config.tasks, None, "test", 0, task) for task in range(50)]  # type: ignore[attr-defined]
    trained, held_out = ({task.env_name for task in tasks} for tasks in (drawn, tested))
    if benchmark == "ml1":
        assert trained == held_out == {"reach-v3"}
    else:
        assert (len(trained), len(held_out)) == (10, 5)
        assert not trained & held_out
    assert not {task.data for task in drawn} & {task.data for task in tested}
    groups = family.groups(config.tasks, "test", range(5))
    assert groups == ([task.env_name for task in tested[:5]] if benchmark == "ml10" else None)


def test_a_policy_is_measured_by_success() -> None:
    pytest.importorskip("metaworld", reason="pip install distmeta[metaworld]")
    program: Any = open_program(load_config(ARM), torch.device("cpu"))
    start = Start.of(0, program.initial_vector())
    first, second = (program.evaluate(start, "test", range(2), details=True) for _ in range(2))
    assert set(first.values) == {"return", "return_before", "success", "success_before"}
    assert torch.equal(first.by_step, second.by_step)


def test_unknown_kinds_of_task() -> None:
    pytest.importorskip("metaworld", reason="pip install distmeta[metaworld]")
    config = load_config(ARM, ["tasks.task=rech-v3"])
    with pytest.raises(ConfigError, match="reach-v3"):
        TASKS["metaworld"].prepare(config.tasks, episodes(config))
