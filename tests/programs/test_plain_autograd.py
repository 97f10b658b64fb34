"""Networks that torch.func cannot run: computed by plain autograd, with the derivatives of an ordinary twin."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
import torch.utils.checkpoint
from torch import Tensor

from distmeta.adaptations import Support
from distmeta.config.schema import Config
from distmeta.core.plan import Plan
from distmeta.core.requests import Start
from distmeta.errors import ConfigError
from distmeta.functional.recomputation import without_checkpoints
from distmeta.loading import load_config
from distmeta.programs.engine.comparison import disagreement
from distmeta.programs.supervised import SupervisedProgram
from distmeta.runs.inference import MetaLearner

CPU = torch.device("cpu")
ALGORITHMS: dict[str, dict[str, Any]] = {
    "maml": {"name": "maml", "inner_steps": 2},
    "momentum": {"name": "maml", "inner_steps": 3, "inner_optimizer": "momentum"},
    "adam": {"name": "maml", "inner_steps": 2, "inner_optimizer": "adam"},
    "rates": {"name": "meta_sgd", "inner_steps": 2},
    "fomaml": {"name": "fomaml", "inner_steps": 2},
    "reptile": {"name": "reptile", "inner_steps": 3, "inner_batch": 4},
}
MIXED = ["engine.differentiation=mixed"]
TWINS = {
    "OldFunction": "Net",
    "SavedTensorHooks": "Net",
    "DetachedInput": "DetachedTwin",
    "Force": "Energy",
    "ForceInGradMode": "Energy",
    "ForceByBackward": "Energy",
}


def configure(model: str, algorithm: str = "maml", *overrides: str, **settings: Any) -> Config:
    values = {
        "tasks": {"kind": "sinusoid"},
        "model": {"kind": f"module:plain_models.{model}", **settings},
        "algorithm": {"inner_lr": 0.05, **ALGORITHMS[algorithm]},
        "run": {"meta_batch": 4, "tasks_per_shard": 4, "steps": 10, "device": "cpu"},
        "evaluation": {"inner_steps": 3},
        "engine": {"compile": "none"},  # recording a twin takes longer than all that is compared with it
    }
    return load_config(values, overrides)


def decided(config: Config) -> tuple[SupervisedProgram, Plan]:
    program = SupervisedProgram(config, CPU)
    plan = program.probe()
    program.follow(plan)
    return program, plan


def measured(program: SupervisedProgram) -> list[Tensor]:
    """Gradient and every figure of an evaluation."""
    state = Start.of(0, program.initial_vector())
    details = program.evaluate(state, "test", range(3), details=True)
    brief = program.evaluate(state, "validation", range(3), details=False)
    assert details.by_step is not None
    return [program.sample_gradient(3), details.by_step, details.values["loss"], brief.values["loss"]]


PAIRS = [(model, algorithm) for model in TWINS for algorithm in ALGORITHMS]
QUICK = [pair for number, pair in enumerate(PAIRS) if pair == ("OldFunction", "rates") or number % len(ALGORITHMS) < 1]


@pytest.mark.parametrize(
    ("model", "algorithm"), [pair if pair in QUICK else pytest.param(*pair, marks=pytest.mark.slow) for pair in PAIRS]
)
def test_it_computes_what_its_twin_does(model: str, algorithm: str) -> None:
    ways = [[], MIXED] if algorithm in ("maml", "adam", "rates") else [[]]
    twin, plan = decided(configure(TWINS[model], algorithm))
    assert plan.running == "mapped"
    expected = measured(twin)
    for way in ways:
        program, plan = decided(configure(model, algorithm, *way))
        assert plan.running == "plain"
        assert plan.reason
        for found, right in zip(measured(program), expected, strict=True):
            assert disagreement(found, right) < 1e-5
        assert disagreement(program.reference_gradient(3), expected[0]) < 1e-5


@pytest.mark.parametrize("reentrant", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("algorithm", "way"),
    [
        ("maml", []),
        pytest.param("maml", MIXED, marks=pytest.mark.slow),
        pytest.param("fomaml", [], marks=pytest.mark.slow),
        pytest.param("reptile", [], marks=pytest.mark.slow),
    ],
)
def test_checkpoints_keep_weights_and_masks(reentrant: bool, algorithm: str, way: list[str]) -> None:
    """A recomputation would see the module's own weights and other dropout masks."""
    program, plan = decided(configure("Checkpointed", algorithm, *way, reentrant=reentrant))
    twin, _ = decided(configure("Dropping", algorithm, *way))
    assert plan.running == "mapped"
    for running in ("mapped", "looped", "plain"):
        program.follow(Plan(running=running, differentiation=plan.differentiation))
        for found, right in zip(measured(program), measured(twin), strict=True):
            assert disagreement(found, right) < 1e-5


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints_of_others_stay(reentrant: bool) -> None:
    """Another thread's checkpoints compute twice while ours do not, and afterwards everything is as before."""
    before = torch.utils.checkpoint.CheckpointFunction
    counted: list[str] = []

    def step(name: str) -> None:
        x = torch.ones(2, requires_grad=True)

        def function(value: Tensor) -> Tensor:
            counted.append(name)
            return value.tanh()

        torch.utils.checkpoint.checkpoint(function, x, use_reentrant=reentrant).sum().backward()

    with without_checkpoints():
        other = threading.Thread(target=step, args=("other",))
        other.start()
        other.join()
        step("ours")
    step("after")
    assert [counted.count(name) for name in ("ours", "other", "after")] == [1, 2, 2]
    assert torch.utils.checkpoint.CheckpointFunction is before


def test_prototypes() -> None:
    values = {
        "tasks": {"kind": "glyphs", "ways": 3, "shots": 1, "queries": 2},
        "model": {"kind": "module:plain_models.Embedded", "old": True},
        "algorithm": {"name": "protonet"},
        "run": {"meta_batch": 4, "tasks_per_shard": 4, "steps": 10, "device": "cpu"},
        "evaluation": {"ways": 5},
    }
    program, plan = decided(load_config(values))
    twin, _ = decided(load_config(values, ["model.old=false"]))
    assert plan.running == "plain"
    assert disagreement(program.sample_gradient(4), twin.sample_gradient(4)) < 1e-5
    assert disagreement(program.sample_losses(4), twin.sample_losses(4)) < 1e-5


@pytest.mark.parametrize("algorithm", ["fomaml", "reptile"])
@pytest.mark.parametrize("model", ["OnceDifferentiable", "NumpyBackward"])
def test_first_order_methods_ask_for_no_second_derivative(model: str, algorithm: str) -> None:
    program, plan = decided(configure(model, algorithm))
    twin, _ = decided(configure("Net", algorithm))
    assert plan.running == "plain"
    assert disagreement(program.sample_gradient(4), twin.sample_gradient(4)) < 1e-5


@pytest.mark.parametrize("way", [[], MIXED])
@pytest.mark.parametrize("model", ["OnceDifferentiable", "NumpyBackward"])
def test_exact_methods_say_that_there_is_no_second_derivative(model: str, way: list[str]) -> None:
    named = r"no second derivatives.*(OnceTanh|DetachedBackward).*algorithm\.name=fomaml"
    with pytest.raises(ConfigError, match=named):
        decided(configure(model, "maml", *way))


def test_a_backward_pass_may_be_another_than_the_derivative() -> None:
    program, plan = decided(configure("Reversal"))
    assert plan.running == "plain"
    assert disagreement(program.sample_gradient(4), program.reference_gradient(4)) < 1e-5
    other, _ = decided(configure("Net"))
    assert disagreement(program.sample_gradient(4), other.sample_gradient(4)) > 0.1


def test_plain_is_looped_is_mapped() -> None:
    """What all ways can run is the same in all of them, and a loop's bits are those of torch.func."""
    program, _ = decided(configure("Net"))
    found = {}
    for running in ("mapped", "looped", "plain"):
        program.follow(Plan(running=running))
        found[running] = program.sample_gradient(4)
        assert disagreement(found[running], program.reference_gradient(4)) < 1e-5
    assert torch.equal(found["looped"], found["plain"])


def test_what_transforms_change_silently_is_found() -> None:
    program, plan = decided(configure("OtherUnderTransforms"))
    assert plan.running == "plain"
    assert "its meta-gradient differs from plain autograd's by" in plan.reason
    assert disagreement(program.sample_gradient(4), program.reference_gradient(4)) < 1e-5


def test_what_only_evaluation_cannot_map_is_found_before_the_first_step() -> None:
    program, plan = decided(configure("UnmappableInEvaluation"))
    assert plan.running == "looped"
    measured(program)


def test_a_module_that_insists_on_float32_is_compared_in_float32() -> None:
    _, plan = decided(configure("HardFloat32"))
    assert plan.running == "mapped"
    assert any("compared with plain autograd in float32" in note for note in plan.notes)


@pytest.mark.parametrize("model", ["OldFunction", "Force", "ForceInGradMode", "ForceByBackward"])
def test_a_learner_adapts_and_predicts_outside_of_a_run(model: str) -> None:
    config = configure(model)
    program, _ = decided(config)
    learner = MetaLearner(config, program.layout.unflatten(program.initial_vector()))
    tasks, _ = program._tasks("test", range(1), 3, dropout=False)
    support, query = ({name: value[0] for name, value in tasks[part].items()} for part in ("support", "query"))
    outputs = learner.adapt(support["x"], support["y"]).predict(query["x"])
    loss = (outputs - query["y"]).square().mean()
    assert not outputs.requires_grad
    assert not any(value.requires_grad for value in (*support.values(), *query.values()))
    assert float(loss) == pytest.approx(float(program.sample_losses(1)[0]), rel=1e-5)


def test_derivatives_through_an_adaptation_of_ones_own() -> None:
    """Outside of the engine an adaptation can be differentiated through, if its meta-parameters ask for it."""
    program, _ = decided(configure("OldFunction"))
    vector = program.initial_vector().requires_grad_()
    tasks, _ = program._tasks("train", range(1), 2, dropout=False)
    support, query = ({name: value[0] for name, value in tasks[part].items()} for part in ("support", "query"))
    adaptation, meta = program._parts.adaptation, program.layout.unflatten(vector)
    adapted = adaptation.adapt(meta, Support(support), 2)
    outputs = program._parts.network({**adapted}, query["x"])
    (outputs - query["y"]).square().mean().backward()
    assert vector.grad is not None
    assert disagreement(vector.grad, program.reference_gradient(1)) < 1e-5
