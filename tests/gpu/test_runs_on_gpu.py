"""Whole runs on the device: the same bits again, resumed, evaluated here and on the CPU; tasks as on the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from gpu_helpers import configure, equal, worker_on

import distmeta
from distmeta.config.schema import Config
from distmeta.core.plan import Plan
from distmeta.core.requests import Request, Start
from distmeta.core.tensor_philox import random_words
from distmeta.loading import load_config
from distmeta.programs.supervised import SupervisedProgram
from distmeta.runs.checkpoint import latest
from distmeta.storage.files import Storage
from distmeta.tasks import open_family

CPU = torch.device("cpu")


def train(config: Config, place: Path, resume: bool = False) -> dict[str, torch.Tensor]:
    """Run to the end; the last meta-parameters."""
    list(distmeta.train(config, place, resume=resume))
    snapshot, _ = latest(Storage.at(place))
    assert snapshot is not None
    assert snapshot.step == config.run.steps
    return dict(snapshot.meta)


def on(device: torch.device, algorithm: str, model: str, *overrides: str) -> Config:
    return configure(algorithm, model, f"run.device={device.type}", *overrides)


@pytest.mark.parametrize("compile_", ["none", "graph"])
@pytest.mark.parametrize(("algorithm", "model"), [("maml", "conv4"), ("meta_sgd", "mlp"), ("protonet", "conv4")])
def test_two_runs_and_a_resumed_one_have_the_same_bits(
    device: torch.device, tmp_path: Path, algorithm: str, model: str, compile_: str
) -> None:
    config = on(device, algorithm, model, f"engine.compile={compile_}")
    whole = train(config, tmp_path / "a")
    assert equal(whole, train(config, tmp_path / "b"))
    train(on(device, algorithm, model, f"engine.compile={compile_}", "run.steps=2"), tmp_path / "c")
    assert equal(whole, train(config, tmp_path / "c", resume=True))
    start = train(on(device, algorithm, model, "run.steps=1", f"engine.compile={compile_}"), tmp_path / "d")
    assert not equal(whole, start)


def test_a_network_with_dropout_and_pools(device: torch.device, tmp_path: Path) -> None:
    config = on(device, "maml", "conv4", "model={kind: resnet12, widths: [4, 4, 4, 4], dropout: 0.2}", "run.steps=2")
    assert equal(train(config, tmp_path / "a"), train(config, tmp_path / "b"))


def test_the_users_random_state_stays(device: torch.device, tmp_path: Path) -> None:
    states = [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if device.type == "cuda" else [])]
    flags = torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision()
    train(on(device, "maml", "conv4", "run.steps=2"), tmp_path / "run")
    after = [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if device.type == "cuda" else [])]
    assert all(torch.equal(a, b) for a, b in zip(states, after, strict=True))
    assert flags == (torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision())


@pytest.mark.parametrize("kind", ["glyphs", "sinusoid"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_tasks_are_those_of_the_cpu(device: torch.device, kind: str, split: str) -> None:
    settings = {"tasks": {"kind": kind}, "model": {"kind": "mlp"}, "algorithm": {"name": "maml"}}
    config = load_config(settings)
    here, there = (open_family(config, place).sample(split, range(5, 12)) for place in (CPU, device))
    for part in ("support", "query"):
        for name, value in getattr(there, part).items():
            assert value.device.type == device.type
            assert torch.equal(value.cpu(), getattr(here, part)[name])


def test_random_words_are_those_of_the_cpu(device: torch.device) -> None:
    key = torch.tensor([0xDEADBEEF, 7])
    there = random_words(key.to(device), (3, 2**32 - 1), 1001)
    assert there.device.type == device.type
    assert torch.equal(there.cpu(), random_words(key, (3, 2**32 - 1), 1001))


def test_minibatches_and_dropout_are_those_of_the_cpu(device: torch.device) -> None:
    config = configure("reptile", "conv4", "model={kind: resnet12, widths: [4, 4, 4, 4], dropout: 0.2}")
    trees = [SupervisedProgram(config, place)._tasks("train", range(4), 2, dropout=True)[0] for place in (CPU, device)]
    for name in ("key", "batches"):
        assert trees[1][name].device.type == device.type
        assert torch.equal(trees[1][name].cpu(), trees[0][name])


@pytest.mark.parametrize(("algorithm", "model"), [("maml", "conv4"), ("protonet", "conv4"), ("anil", "mlp")])
def test_a_run_is_evaluated_here_and_on_the_cpu(
    device: torch.device, tmp_path: Path, algorithm: str, model: str
) -> None:
    config = on(device, algorithm, model)
    steps = distmeta.train(config, tmp_path)
    try:
        while True:
            next(steps)
    except StopIteration as end:
        measured = end.value["meta_test"]
    assert distmeta.evaluate(tmp_path)["accuracy"] == measured["accuracy"]
    assert distmeta.evaluate(tmp_path)["accuracy"] == measured["accuracy"]
    elsewhere = distmeta.evaluate(tmp_path, ["run.device=cpu"])
    # Of 6 tasks with 6 query examples each, rounding may decide on one or the other.
    assert elsewhere["accuracy"]["mean"] == pytest.approx(measured["accuracy"]["mean"], abs=3 / 36)


@pytest.mark.parametrize(("algorithm", "model"), [("maml", "conv4"), ("meta_sgd", "mlp"), ("protonet", "conv4")])
def test_a_meta_learner_here_and_on_the_cpu(device: torch.device, tmp_path: Path, algorithm: str, model: str) -> None:
    config = on(device, algorithm, model, "run.steps=2")
    train(config, tmp_path)
    batch = open_family(config, CPU).sample("test", range(1))
    x, y, queries = batch.support["x"][0], batch.support["y"][0], batch.query["x"][0]
    learners = [distmeta.load(tmp_path, device=place) for place in (device, CPU)]
    before = {name: value.clone() for name, value in learners[0].meta.items()}
    outputs = [learner.adapt(x, y).predict(queries) for learner in learners]
    assert outputs[0].device.type == device.type
    torch.testing.assert_close(outputs[0].cpu(), outputs[1], rtol=1e-2, atol=1e-2)
    assert equal(before, learners[0].meta)


def test_memory_hardly_grows_with_inner_steps(cuda: torch.device) -> None:
    most = {}
    for steps in (1, 50):
        config = configure("maml", "conv4", f"algorithm.inner_steps={steps}", "model.filters=32")
        plan = Plan(layers="products", differentiation="mixed")
        with worker_on(cuda, config, plan) as worker:
            state = Start.of(0, worker.program.initial_vector())
            worker.program.answer(Request("gradient", state), "train", range(6))
            torch.cuda.reset_peak_memory_stats()
            worker.program.answer(Request("gradient", state), "train", range(6))
            most[steps] = torch.cuda.max_memory_allocated()
    assert most[50] < 1.5 * most[1]


def test_memory_does_not_grow_with_meta_steps(cuda: torch.device) -> None:
    with worker_on(cuda, configure("maml", "conv4"), Plan(layers="products")) as worker:
        state = Start.of(0, worker.program.initial_vector())
        held = []
        for step in range(30):
            worker.program.answer(Request("gradient", state), "train", range(6 * step, 6 * step + 6))
            held.append(torch.cuda.memory_allocated())
    assert max(held[20:]) <= 1.1 * max(held[:10])
