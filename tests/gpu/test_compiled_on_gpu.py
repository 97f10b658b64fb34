"""Meta-gradients that torch's compiler has compiled for the device."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from gpu_helpers import MODELS, TASKS, check, configure, samples, worker_on

from distmeta.core.plan import Plan
from distmeta.core.requests import Request, Start
from distmeta.functional.kernels.build import unavailable

LAYERS = ["general", "products"]
COMPILED = [
    *(("maml", model, layers) for model in MODELS for layers in LAYERS),
    *((algorithm, "conv4", "products") for algorithm in ("reptile", "meta_sgd", "protonet")),
]


@pytest.mark.parametrize(("algorithm", "model", "layers"), COMPILED)
def test_compiled_by_inductor(device: torch.device, algorithm: str, model: str, layers: Any) -> None:
    """A CUDA graph writes to the same memory in every call: results of one call stay what they are after others."""
    if device.type == "cpu" and unavailable():
        pytest.skip(str(unavailable()))
    config = configure(algorithm, model)
    with worker_on(device, config, Plan(layers=layers, compile="inductor")) as worker:
        state = Start.of(0, worker.program.initial_vector())
        first = worker.program.answer(Request("gradient", state), "train", range(TASKS)).vector
        kept = first.clone()
        check(samples(worker), algorithm, model)
        assert torch.equal(first, kept)
        assert torch.equal(worker.program.answer(Request("gradient", state), "train", range(TASKS)).vector, kept)
