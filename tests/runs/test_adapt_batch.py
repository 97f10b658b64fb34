"""Many tasks at once: each gets what it gets alone, to the bit, whatever stands beside it and whoever computes it."""

from __future__ import annotations

import os
import pickle
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import distmeta
from distmeta.algorithms import ALGORITHMS
from distmeta.config.schema import Config
from distmeta.errors import ConfigError, WrongTask
from distmeta.loading import load_config
from distmeta.programs.engine.assembly import Assembly
from distmeta.programs.policy_assembly import PolicyAssembly
from distmeta.runs.inference import MetaLearner
from distmeta.runs.policies import PolicyLearner

GLYPHS = {"kind": "glyphs", "ways": 3, "shots": 2, "queries": 2}
CONV = {"kind": "conv4", "filters": 4}
LEARNERS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "maml": (GLYPHS, CONV, {"name": "maml", "inner_lr": 0.1, "inner_steps": 2}),
    "protonet": (GLYPHS, CONV, {"name": "protonet"}),
    "r2d2": (GLYPHS, CONV, {"name": "r2d2"}),
    "own": (GLYPHS, {"kind": "module:learner_models.Attentive"}, {"name": "maml", "inner_lr": 0.1}),
    "sinusoid": ({"kind": "sinusoid"}, {"kind": "mlp", "hidden": [16]}, {"name": "maml", "inner_lr": 0.01}),
}


def learner_of(name: str, **more: Any) -> MetaLearner:
    tasks, model, algorithm = LEARNERS[name]
    config = load_config({"tasks": tasks, "model": model, "algorithm": algorithm, **more})
    return MetaLearner(config, Assembly(config).initial_meta())


def tasks_of(name: str, count: int, seed: int = 3) -> list[tuple[Tensor, Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    if name == "sinusoid":
        draw = [torch.rand(5, 1, generator=generator) for _ in range(3 * count)]
        return [(draw[3 * t], draw[3 * t + 1], draw[3 * t + 2]) for t in range(count)]
    images = [torch.rand(6, 1, 28, 28, generator=generator) for _ in range(2 * count)]
    return [(images[2 * t], torch.arange(3).repeat(2), images[2 * t + 1]) for t in range(count)]


@pytest.mark.parametrize(
    ("count", "most", "expected"),
    [
        (1, 32, [1]),
        (13, 32, [8, 4, 1]),
        (15, 32, [16]),
        (24, 32, [16, 8]),
        (29, 32, [32]),
        (33, 32, [32, 1]),
        (70, 32, [32, 32, 4, 2]),
        (6, 4, [4, 2]),
        (9, 1, [1] * 9),
    ],
)
def test_few_copies_fill_up_what_a_service_computes(count: int, most: int, expected: list[int]) -> None:
    """And each of its tasks gets, up to rounding, what it gets alone."""
    learner = learner_of("sinusoid")
    learner.batch_by(most, steady=False)
    tasks = tasks_of("sinusoid", count)
    models = learner.adapt_batch([task[:2] for task in tasks])
    for model, outputs, task in zip(models, learner.predict_batch(models, [x for *_, x in tasks]), tasks, strict=True):
        alone = learner.adapt(*task[:2])
        torch.testing.assert_close(model.predict(task[2]), alone.predict(task[2]))
        torch.testing.assert_close(outputs, alone.predict(task[2]))
    with learner.batched() as batches:
        sizes = {shapes[3][0][0] for shapes in batches._seen if shapes[0] == "adapt"}
        found = []
        while (done := sum(found)) < count:
            found.append(batches._fitting(count - done, most))
    assert found == expected
    assert sizes == set(expected)


@pytest.mark.parametrize(
    ("name", "statistics"), [*((name, "support") for name in LEARNERS), ("maml", "query"), ("own", "query")]
)
def test_a_task_gets_what_it_gets_alone(name: str, statistics: Any) -> None:
    learner = learner_of(name)
    tasks = tasks_of(name, 70)
    together = list(distmeta.adapt(learner, tasks, statistics=statistics))
    for number in (0, 63, 64, 69):
        alone = next(distmeta.adapt(learner, [tasks[number]], statistics=statistics))
        assert torch.equal(alone, together[number])
    backwards = list(distmeta.adapt(learner, tasks[::-1], statistics=statistics))[::-1]
    assert all(map(torch.equal, together, backwards))


@pytest.mark.parametrize("name", LEARNERS)
def test_it_is_what_adapt_gives_up_to_rounding(name: str) -> None:
    learner = learner_of(name)
    tasks = tasks_of(name, 5)
    for (x, y, query), found in zip(tasks, distmeta.adapt(learner, tasks), strict=True):
        torch.testing.assert_close(found, learner.adapt(x, y).predict(query), rtol=1e-4, atol=1e-4)


def test_tasks_of_several_shapes_come_in_their_order() -> None:
    learner = learner_of("sinusoid")
    tasks = [(x[:n], y[:n], q) for n, (x, y, q) in zip([5, 2, 5, 3, 2, 5], tasks_of("sinusoid", 6), strict=True)]
    found = list(distmeta.adapt(learner, tasks, steps=3))
    alone = [next(distmeta.adapt(learner, [task], steps=3)) for task in tasks]
    assert all(map(torch.equal, found, alone))


def test_models_of_a_batch_are_models() -> None:
    learner = learner_of("maml")
    tasks = tasks_of("maml", 3)
    models = learner.adapt_batch([(x, y) for x, y, _ in tasks])
    again = pickle.loads(pickle.dumps(models[1]))
    query = tasks[1][2]
    assert torch.equal(models[1].predict(query), again.predict(query))
    torch.testing.assert_close(learner.predict_batch(models, [q for *_, q in tasks])[1], models[1].predict(query))


def refusal(name: str) -> str:
    try:
        load_config({"tasks": GLYPHS, "model": CONV, "algorithm": {"name": name}})
    except ConfigError as error:
        return str(error)
    return ""


WITH_EXAMPLES = [name for name in ALGORITHMS if "for tasks with actions" not in refusal(name) and name != "rl2"]


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_every_algorithm_adapts_in_batches(name: str) -> None:
    own: dict[str, Any] = {"classes": 40} if "classes" in refusal(name) else {}
    own |= {"film": ["body.2.1"]} if name == "cavia" else {}
    model = {"kind": "prior_fitted", "width": 16, "depth": 1, "heads": 2} if name == "in_context" else CONV
    config = load_config({"tasks": GLYPHS, "model": model, "algorithm": {"name": name, **own}})
    learner = MetaLearner(config, Assembly(config).initial_meta())
    tasks = tasks_of(name, 3)
    for (x, y, query), found in zip(tasks, distmeta.adapt(learner, tasks), strict=True):
        torch.testing.assert_close(found, learner.adapt(x, y).predict(query), rtol=1e-3, atol=1e-3)


def test_a_wrong_task_is_named() -> None:
    learner = learner_of("sinusoid")
    tasks: list[Any] = list(tasks_of("sinusoid", 70))
    tasks[66] = (torch.zeros(5, 2), *tasks[66][1:])
    with pytest.raises(WrongTask, match=r"^task 66: x_support should have the shape") as caught:
        list(distmeta.adapt(learner, tasks))
    assert caught.value.number == 66
    tasks[66] = tasks[0][:2]
    with pytest.raises(WrongTask, match="task 66: expected"):
        list(distmeta.adapt(learner, tasks))
    with pytest.raises(ConfigError, match="workers = -1"):
        distmeta.adapt(learner, tasks, workers=-1)
    with pytest.raises(ConfigError, match="steps = -2"):
        list(distmeta.adapt(learner, tasks[:1], steps=-2))


def test_policies_say_how_they_adapt() -> None:
    config: Config = load_config(
        {"tasks": {"kind": "navigation"}, "model": {"kind": "mlp", "hidden": [8]}, "algorithm": {"name": "maml_vpg"}}
    )
    learner = PolicyLearner(config, PolicyAssembly(config).initial_meta())
    with pytest.raises(ConfigError, match=r"call adapt\(collect\)"):
        learner.adapt_batch([])


def test_workers_give_the_same_bits_though_they_are_killed(ray_cluster: None) -> None:
    learner = learner_of("maml", cluster={"cpus_per_worker": 1})
    tasks = tasks_of("maml", 400)
    here = list(distmeta.adapt(learner, tasks))

    def watched() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for number, task in enumerate(tasks):
            if number == 300:
                os.kill(_pid_of_a_worker(), signal.SIGKILL)
            yield task

    there = list(distmeta.adapt(learner, watched(), workers=2))
    assert len(there) == 400
    assert all(map(torch.equal, here, there))


def test_what_fails_on_a_worker_fails_here(ray_cluster: None) -> None:
    tasks: list[Any] = list(tasks_of("sinusoid", 70))
    tasks[65] = (torch.full((5, 1), torch.nan), *tasks[65][1:])
    with pytest.raises(WrongTask, match=r"^task 65: x_support holds numbers that are not finite"):
        list(distmeta.adapt(learner_of("sinusoid"), tasks, workers=1))


def _pid_of_a_worker() -> int:
    while True:
        names = {int(path.parent.name): path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline")}
        for pid, name in names.items():
            if name.startswith(b"ray::_Caller"):
                return pid
        time.sleep(0.1)
