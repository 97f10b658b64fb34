"""Meta-gradients on the device against plain autograd in float64 on the CPU, for every algorithm and plan."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from gpu_helpers import ALGORITHMS, MODELS, TASKS, check, configure, samples, worker_on

from distmeta.core.plan import Plan
from distmeta.core.requests import Request, Start
from distmeta.errors import ConfigError
from distmeta.programs.engine.settling import disagreement

LAYERS = ["general", "products"]


@pytest.mark.parametrize("compile_", ["none", "graph"])
@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("model", list(MODELS))
@pytest.mark.parametrize("algorithm", list(ALGORITHMS))
def test_a_plan(device: torch.device, algorithm: str, model: str, layers: Any, compile_: Any) -> None:
    with worker_on(device, configure(algorithm, model), Plan(layers=layers, compile=compile_)) as worker:
        check(samples(worker), algorithm, model)


@pytest.mark.parametrize("algorithm", ["maml", "meta_sgd"])
def test_mixed_mode_in_chunks(device: torch.device, algorithm: str) -> None:
    plan = Plan(layers="products", differentiation="mixed", chunk=2)
    with worker_on(device, configure(algorithm, "conv4"), plan) as worker:
        check(samples(worker), algorithm, "conv4")


def test_chunks_differ_by_rounding_alone(device: torch.device) -> None:
    config, state = configure("maml", "conv4"), None
    found = {}
    for chunk in (None, 3, 2):
        with worker_on(device, config, Plan(layers="products", chunk=chunk)) as worker:
            state = Start.of(0, worker.program.initial_vector())
            both = [worker.program.answer(Request("gradient", state), "train", range(TASKS)) for _ in range(2)]
            assert torch.equal(both[0].vector, both[1].vector)
            assert both[0].vector.device.type == "cpu"
            found[chunk] = both[0]
    for chunk in (3, 2):
        assert disagreement(found[chunk].vector, found[None].vector) < 1e-4
        assert found[chunk].sums["accuracy"] == pytest.approx(found[None].sums["accuracy"], abs=1)


def test_tf32_is_on_where_it_is_asked_for_and_off_afterwards(device: torch.device) -> None:
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    config = configure("maml", "conv4", "engine.precision=tf32")
    if device.type == "cpu":
        with pytest.raises(ConfigError, match="tf32 is a mode of CUDA devices"), worker_on(device, config, Plan()):
            pass
        return
    for layers in ("general", "products"):
        with worker_on(device, config, Plan(layers=layers, precision="tf32")) as worker:
            rounded = samples(worker)
        with worker_on(device, config, Plan(layers=layers)) as worker:
            whole = samples(worker)
        check(rounded, "maml", "conv4", "tf32")
        if torch.cuda.get_device_capability() >= (8, 0):
            assert not torch.equal(rounded[0], whole[0])
    assert before == (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32)


@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("model", list(MODELS))
def test_bfloat16(device: torch.device, model: str, layers: Any) -> None:
    plan = Plan(layers=layers, precision="bf16")
    with worker_on(device, configure("maml", model, "engine.precision=bf16"), plan) as worker:
        check(samples(worker), "maml", model, "bf16")


@pytest.mark.parametrize("running", ["looped", "plain"])
@pytest.mark.parametrize("algorithm", ["maml", "reptile", "protonet"])
def test_tasks_one_by_one(device: torch.device, algorithm: str, running: Any) -> None:
    with worker_on(device, configure(algorithm, "conv4"), Plan(running=running)) as worker:
        check(samples(worker), algorithm, "conv4")
