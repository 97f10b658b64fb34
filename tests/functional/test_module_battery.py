"""Every kind of network that people bring: the meta-step, validation and meta-test are what plain PyTorch computes.

The reference (``battery_reference.py``) is autograd in float64 on the user's own module, one task at a time.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, get_args

import pytest
import torch
from battery_configs import NETWORKS, configure
from battery_reference import Case
from torch import Tensor, nn

from distmeta.core.plan import Plan, Running
from distmeta.core.requests import Request, Start
from distmeta.programs.supervised import SupervisedProgram

TASKS = range(4)
DROPOUT = {"dropout", "feature_dropout", "transformer_dropout"}
TWINS = {"checkpointed_reentrant": "checkpointed"}
"""The same network in a form that ``torch.autograd.grad`` can differentiate."""


def apart(ours: dict[str, Tensor], reference: dict[str, Tensor]) -> float:
    difference = sum(float((ours[name].double() - value).square().sum()) for name, value in reference.items())
    return float((difference / sum(float(value.square().sum()) for value in reference.values())) ** 0.5)


def gradient(program: SupervisedProgram) -> dict[str, Tensor]:
    state = Start.of(0, program.initial_vector())
    total = program.answer(Request("gradient", state), "train", TASKS).vector
    return {name.removeprefix("model/"): value for name, value in program.layout.unflatten(total).items()}


def test_the_battery_is_large() -> None:
    assert len(NETWORKS) >= 60


KINDS = {
    *("Bookkeeping", "Branches", "CausalAttention", "Detached", "Dictionaries", "Energy", "Experts", "Fixpoint"),
    *("FrozenTied", "FunctionalNorms", "HookedTensor", "Hyper", "InnerStep", "KeepsAttention", "OwnAttention"),
    *("PartlyEvaluated", "Residual", "SharedEmbedding", "ThroughNumpy", "Unused", "WritesInputs"),
    *("batch_norm_cumulative", "batch_norm_frozen", "batch_norm_without_affine", "bilinear", "checkpointed"),
    *("classic_function", "dropout", "feature_dropout", "gradient_reversal", "gru", "half_batch_norm", "linear"),
    *("orthogonal", "pruned", "straight_through", "traced", "transformer", "weight_norm"),
}
"""One network, or a few, of each kind."""


def some(names: Iterable[str], quick: set[str]) -> list[Any]:
    """Networks as parameters: those that are not of the quick ones are tried in the long battery alone."""
    assert quick <= set(NETWORKS)
    return [pytest.param(name, marks=() if name in quick else pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", some(NETWORKS, KINDS))
def test_computes_what_plain_pytorch_computes(name: str) -> None:
    config = configure(name)
    program = SupervisedProgram(config, torch.device("cpu"))
    program.follow(program.probe())
    case = Case(configure(TWINS.get(name, name)))
    initial = program.layout.unflatten(program.initial_vector())
    assert {key.removeprefix("model/") for key in initial} == set(case.initial)
    assert all(torch.equal(initial[f"model/{key}"], value.float()) for key, value in case.initial.items())

    assert apart(gradient(program), case.gradient(TASKS, name in DROPOUT)) < 1e-4

    state = Start.of(0, program.initial_vector())
    validation = program.evaluate(state, "validation", TASKS, details=False)
    torch.testing.assert_close(validation.values["loss"], case.losses("validation", TASKS), rtol=1e-4, atol=1e-5)
    test = program.evaluate(state, "test", TASKS, details=True)
    torch.testing.assert_close(test.values["loss"], case.losses("test", TASKS), rtol=1e-4, atol=1e-5)
    assert same_hits(test.values["accuracy"], case.hits("test", TASKS))
    assert test.by_step is not None
    assert same_hits(test.by_step[:, -1], test.values["accuracy"])
    if "accuracy_inductive" in test.values and name not in OWN_STATISTICS:
        assert same_hits(test.values["accuracy_inductive"], case.inductive_hits("test", TASKS))
    assert ("accuracy_inductive" in test.values) == uses_batch_statistics(case.module)


def same_hits(a: Tensor, b: Tensor) -> bool:
    """Whether two accuracies of six query examples mean the same numbers of hits."""
    return bool((a - b).abs().max() < 1e-6)


OWN_STATISTICS = {"FunctionalNorms", "CallsTheClass"}
"""Networks whose batch norms are not called as layers, so that the reference cannot replace their statistics."""


def uses_batch_statistics(module: nn.Module) -> bool:
    norms = [layer for layer in module.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    return any(layer.training or layer.running_mean is None for layer in norms) or hasattr(module, "variance")


QUICK = {"Branches", "checkpointed", "HookedTensor", "SharedEmbedding", "gru", "half_batch_norm", "transformer_dropout"}


@pytest.mark.parametrize("name", some(NETWORKS, QUICK))
def test_each_way_is_right_or_fails(name: str) -> None:
    """Mapped, looped, plain: where a way runs at all, it gives the reference's meta-gradient."""
    config = configure(name)
    program = SupervisedProgram(config, torch.device("cpu"))
    reference = Case(configure(TWINS.get(name, name))).gradient(TASKS, name in DROPOUT)
    ran = []
    for running in get_args(Running):
        program.follow(Plan(running=running))
        try:
            found = gradient(program)
        except (RuntimeError, NotImplementedError):
            continue
        ran.append(running)
        if (name, running) not in MISLED:
            assert apart(found, reference) < 1e-4, running
    assert "plain" in ran
    assert program.probe().running in [way for way in ran if (name, way) not in MISLED]


MISLED = {("HookedTensor", "mapped"), ("HookedTensor", "looped")}
"""Ways in which a network sees that it is transformed and computes something else, which is noticed before the run."""
