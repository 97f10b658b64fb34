"""The rules of ``auto``, and a configuration's text with a plan in it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import yaml

from distmeta.core.plan import Plan
from distmeta.loading import load_config
from distmeta.programs.deciding import Facts, RunPlan, decide
from distmeta.runs.plan_file import with_engine

CONV: dict[str, Any] = {
    "tasks": {"kind": "glyphs"},
    "model": {"kind": "conv4"},
    "algorithm": {"name": "maml"},
    "run": {"steps": 10_000, "meta_batch": 32, "tasks_per_shard": 8, "device": "cpu"},
}
CPU = Facts(device="cpu", task_layers=True, iterative=True, activations=2**20, no_compiler=None)
LONG = "run.steps=10000"

RULES = {
    "a long run": ([], CPU, ("native", "inductor", "reverse", 8)),
    "a short run": (["run.steps=100"], CPU, ("native", "graph", "reverse", 8)),
    "a trial": (["run.steps=1"], CPU, ("native", "none", "reverse", 8)),
    "no compiler": ([], replace(CPU, no_compiler="none is found"), ("general", "graph", "reverse", 8)),
    "no such layers": ([], replace(CPU, task_layers=False), ("general", "inductor", "reverse", 8)),
    "CUDA": (["run.device=auto"], replace(CPU, device="cuda"), ("products", "inductor", "reverse", 8)),
    "a short run of products": (
        ["outer.name=trust_region", "run.steps=99"],
        CPU,
        ("native", "inductor", "reverse", 8),
    ),
    "a shorter one": (["outer.name=trust_region", "run.steps=80"], CPU, ("native", "graph", "reverse", 8)),
    "several epochs": (
        [
            "tasks={kind: navigation}",
            "model={kind: mlp}",
            "algorithm={name: promp}",
            "outer={name: clipped, epochs: 10}",
            "run.steps=99",
        ],
        CPU,
        ("native", "inductor", "reverse", 8),
    ),
    "many steps": (["algorithm.inner_steps=9"], CPU, ("native", "inductor", "mixed", 8)),
    "very many steps": (["algorithm.inner_steps=50"], CPU, ("native", "none", "mixed", 8)),
    "many first-order steps": (
        ["algorithm={name: fomaml, inner_steps: 9}"],
        CPU,
        ("native", "inductor", "reverse", 8),
    ),
    "large activations": ([], replace(CPU, activations=20 * 2**20), ("native", "inductor", "reverse", 2)),
    "huge activations": ([], replace(CPU, activations=2**30), ("native", "inductor", "reverse", 1)),
    "bfloat16": (["engine.precision=bf16"], CPU, ("general", "inductor", "reverse", 8)),
    "as asked": (
        ["engine={layers: general, compile: graph, differentiation: mixed, chunk: 4}"],
        CPU,
        ("general", "graph", "mixed", 4),
    ),
}


@pytest.mark.parametrize("name", list(RULES))
def test_rules(name: str) -> None:
    overrides, facts, expected = RULES[name]
    plan = decide(load_config(CONV, overrides), facts)
    assert (plan.layers, plan.compile, plan.differentiation, plan.chunk) == expected
    assert plan == decide(load_config(CONV, overrides), facts)


def test_a_missing_compiler_is_said_once_and_only_where_it_matters() -> None:
    lacking = replace(CPU, no_compiler="none is found")
    assert [len(decide(load_config(CONV), facts).notes) for facts in (CPU, lacking)] == [0, 1]
    asked = load_config(CONV, ["engine={layers: general, compile: graph}"])
    assert decide(asked, lacking).notes == ()


def test_a_plan_goes_through_a_checkpoint() -> None:
    plan = Plan(chunk=4, layers="native", compile="graph", differentiation="mixed", notes=("a", "b"))
    assert Plan.from_dict(plan.as_dict()) == plan
    assert Plan.from_dict({"running": "looped", "reason": "a"}) == Plan(running="looped", reason="a")


def test_when_an_evaluation_keeps_its_runs_plan() -> None:
    auto, general = (load_config(CONV, [f"engine.layers={layers}"]).engine for layers in ("auto", "general"))
    native = RunPlan(Plan(layers="native"), auto, {"device": "cpu", "compiler": "c++ 12"})
    assert native.unfit(auto, "cpu", lambda: "c++ 12") == ""
    assert native.unfit(general, "cpu", lambda: "c++ 12") == "engine.layers=general is asked for"
    assert "C++ compiler was c++ 12, here it is missing" in native.unfit(auto, "cpu", lambda: None)
    assert "the run computed on cpu, this is cuda" in native.unfit(auto, "cuda", lambda: "c++ 12")
    card = RunPlan(Plan(layers="products"), auto, {"device": "NVIDIA H100"})
    assert card.unfit(auto, "cuda", lambda: None) == ""
    assert "the run computed on NVIDIA H100" in card.unfit(auto, "cpu", lambda: None)


def test_a_plan_for_an_evaluation_compiles_nothing() -> None:
    config = load_config(CONV, ["evaluation.tasks=32"])
    assert decide(config, CPU).compile == "inductor"
    assert decide(config, CPU, training=False).compile == "none"
    assert decide(load_config(CONV, ["evaluation.tasks=100000"]), CPU, training=False).compile == "graph"


@pytest.mark.parametrize(
    "text",
    [
        "run: {steps: 1}\n",
        "run: {steps: 1}",
        "engine: {chunk: 2}\nrun: {steps: 1}\n",
        "engine:\n  chunk: 2\n\n  compile: none\nrun: {steps: 1}\n",
        "run: {steps: 1}\nengine:\n    layers: general",
    ],
)
def test_a_plan_written_into_a_configuration(text: str) -> None:
    plan = Plan(chunk=4, layers="native", compile="graph")
    written = with_engine(text, plan)
    values = yaml.safe_load(written)
    assert values["run"] == {"steps": 1}
    config = load_config({**CONV, "engine": values["engine"]})
    assert replace(decide(config, CPU), notes=()) == plan


def test_comments_stay() -> None:
    assert "# mine\n" in with_engine("# mine\nseed: 1 # and this\n", Plan(chunk=1))
