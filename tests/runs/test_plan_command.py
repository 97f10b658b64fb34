"""``distmeta plan``: measured alternatives, and a configuration that asks for the fastest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from integration_helpers import SINUSOID, invoke, train, write_config

from distmeta.functional.kernels import build
from distmeta.loading import load_config

QUICK = ("--seconds", "0.05", "engine.compile=graph")


@pytest.mark.parametrize("compile_", ["graph", pytest.param("auto", marks=pytest.mark.slow)])
def test_a_plan_is_measured_and_written(compile_: str, tmp_path: Path) -> None:
    config = write_config(tmp_path, SINUSOID)
    config.write_text("# a comment of mine\n" + config.read_text())
    told = ("run.steps=20", f"engine.compile={compile_}")
    done = invoke("plan", config, "--seconds", "0.05", "--write", tmp_path / "out.yaml", *told).succeeded()
    assert "to plain autograd in float64" in done.out
    assert "written to" in done.out
    written = load_config(tmp_path / "out.yaml")
    assert written.run.steps == 20
    engine = written.engine.model_dump()
    assert "auto" not in engine.values()
    assert all(f"{key}: {value}" in done.out for key, value in engine.items())


def test_without_overrides_the_text_stays_and_the_result_trains(tmp_path: Path) -> None:
    text = "# a comment of mine\nengine: {compile: graph, layers: general, differentiation: reverse}\n"
    config = write_config(tmp_path, SINUSOID)
    config.write_text(text + config.read_text())
    done = invoke("plan", config, "--seconds", "0.05", "--write", config).succeeded()
    assert config.read_text().startswith("# a comment of mine\n")
    assert "compile: graph" in done.out
    result = train(tmp_path / "run", load_config(config).model_dump(), "run.steps=2")
    assert result["steps"] == 2


def test_figures_as_json(tmp_path: Path) -> None:
    done = invoke("plan", write_config(tmp_path, SINUSOID), "--json", *QUICK).succeeded()
    rows = json.loads(done.out)
    assert {row["plan"]["differentiation"] for row in rows} == {"reverse", "mixed"}
    assert all(row["agrees"] and row["error"] < 1e-5 and row["tasks_per_second"] > 0 for row in rows)


def test_layers_are_measured_on_a_convolutional_network(tmp_path: Path) -> None:
    if build.unavailable():
        pytest.skip(str(build.unavailable()))
    settings = {
        "name": "layers",
        "tasks": {"kind": "glyphs", "ways": 2, "shots": 1, "queries": 1},
        "model": {"kind": "conv4", "filters": 4},
        "algorithm": {"name": "fomaml"},
        "run": {"steps": 10, "meta_batch": 4, "tasks_per_shard": 2},
    }
    done = invoke(
        "plan", write_config(tmp_path, settings), "--json", "--seconds", "0.01", "engine.compile=none"
    ).succeeded()
    assert {row["plan"]["layers"] for row in json.loads(done.out)} == {"native", "products", "general"}


def test_tasks_that_cannot_be_mapped_have_no_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "user_looped.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.head = nn.Linear(1, 1)\n"
        "    def forward(self, x):\n"
        "        return self.head(x if x.sum() > 0 else -x)\n"
    )
    monkeypatch.chdir(tmp_path)
    config = write_config(tmp_path, {**SINUSOID, "model": {"kind": "module:user_looped.Net"}})
    done = invoke("plan", config)
    assert done.code == 2
    assert "tasks are computed one by one here, so there is no plan to choose" in done.err
    asked = invoke("plan", config, "engine.compile=graph")
    assert asked.code == 2
    assert "engine.compile = graph needs tasks that can be mapped together, and these cannot" in asked.err


def test_where_nothing_can_be_written_nothing_is_measured(tmp_path: Path) -> None:
    config = write_config(tmp_path, SINUSOID)
    for target in (tmp_path, config / "x", tmp_path / ("a" * 300)):
        told = invoke("plan", config, "--write", target, "run.steps=20").refused(
            "cannot write the configuration", code=2
        )
        assert "measured" not in told
