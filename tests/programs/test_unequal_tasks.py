"""Tasks of unequal numbers of examples: padded ones compute what each computes alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

import distmeta
from distmeta.config.schema import Config
from distmeta.core.philox import minibatches
from distmeta.errors import ConfigError
from distmeta.loading import load_config
from distmeta.programs.engine.assembly import Assembly
from distmeta.programs.engine.mapping import run_tasks
from distmeta.programs.engine.reference import one_task
from distmeta.programs.measuring import measure
from distmeta.programs.samples import Samples, Use
from distmeta.tasks import open_family
from distmeta.tasks.base import episodes

CPU, TASKS = torch.device("cpu"), 6
NUMBERS: dict[str, Any] = {
    "tasks": {"kind": "module:users_padded.Padded", "metrics": ["mae", "r2"]},
    "model": {"kind": "mlp", "hidden": [5], "activation": "tanh"},
    "algorithm": {"name": "maml", "inner_steps": 2, "inner_lr": 0.1},
    "run": {"steps": 3, "meta_batch": 4, "tasks_per_shard": 2},
    "evaluation": {"tasks": 5, "validation_tasks": 3},
    "engine": {"compile": "none", "layers": "general"},
}
CLASSES = {"kind": "module:users_padded.Padded", "classes": True, "objective": "cross_entropy"}
CASES: dict[str, list[str]] = {
    "maml": [],
    "mixed": ["algorithm.inner_steps=3"],
    "fomaml": ["algorithm={name: fomaml, inner_steps: 2}"],
    "meta_sgd": ["algorithm={name: meta_sgd, inner_steps: 2}"],
    "reptile": ["algorithm={name: reptile, inner_batch: 4, inner_steps: 3}"],
    "small minibatches": ["algorithm={name: maml, inner_batch: 2, inner_steps: 3}"],
    "gaussian": ["tasks.objective=gaussian"],
    "huber inside": ["algorithm.inner_objective=huber"],
    "classes": [f"tasks={CLASSES}".replace("'", '"')],
    "protonet": [f"tasks={CLASSES}".replace("'", '"'), "algorithm={name: protonet}"],
}


def doubled(tree: Any) -> Any:
    return tree_map(lambda value: value.double() if value.is_floating_point() else value, tree)


class Computed:
    """Meta-gradients and measurements of some tasks, padded and mapped, and each alone without padding."""

    def __init__(self, config: Config, differentiation: str) -> None:
        self.config, self.parts = config, Assembly(config)
        self.steps = getattr(config.algorithm, "inner_steps", None)
        self.ways = 3 if self.parts.objective.classes else None
        if differentiation == "mixed":
            self.parts.estimator.follow("mixed")
        self.meta = doubled(self.parts.initial_meta())
        batch = getattr(config.algorithm, "inner_batch", None)
        use = Use(self.steps, self.parts.estimator.merges_query, batch)
        samples = Samples(open_family(config, CPU), episodes(config), CPU)
        self.tree = doubled(samples.tasks("train", range(TASKS), use))
        samples.close()

    def one(self, meta: Any, tree: Any) -> Any:
        task = one_task(tree, self.ways, self.steps)
        found, _ = self.parts.estimator.gradient(meta, task, self.steps)
        return found, measure(self.parts, meta, task, self.steps, details=True)

    def together(self) -> Any:
        return run_tasks(self.one, self.meta, self.tree, TASKS, running="mapped")

    def alone(self, task: int) -> Any:
        """With the examples that weigh something alone, and minibatches of these."""
        tree = tree_map(lambda value: value[task], {part: self.tree[part] for part in ("support", "query")})
        real = {part: {n: v[data["weight"] > 0] for n, v in data.items()} for part, data in tree.items()}
        plain: dict[str, Any] = {p: {n: v for n, v in d.items() if n != "weight"} for p, d in real.items()}
        count, batch = len(plain["support"]["y"]), getattr(self.config.algorithm, "inner_batch", None)
        if batch is not None and batch < count:
            seed = self.config.seed
            plain["batches"] = torch.from_numpy(minibatches(seed, "train", [task], count, self.steps or 1, batch)[0])
        return self.one(self.meta, plain)


@pytest.mark.parametrize("name", CASES)
def test_padded_tasks_are_what_they_are_alone(name: str) -> None:
    computed = Computed(load_config(NUMBERS, CASES[name]), name)
    assert len({int(count) for count in computed.tree["support"]["weight"].sum(1)}) > 1
    gradients, measured = computed.together()
    for task in range(TASKS):
        expected, figures = computed.alone(task)
        for key, value in expected.items():
            torch.testing.assert_close(gradients[key][task], value, rtol=1e-9, atol=1e-12)
        for key, value in figures.items():
            torch.testing.assert_close(measured[key][task], value, rtol=1e-9, atol=1e-12, equal_nan=True)


def test_minibatches_hold_no_padding_where_there_are_enough() -> None:
    computed = Computed(load_config(NUMBERS, CASES["small minibatches"]), "")
    weights = computed.tree["support"]["weight"]
    chosen = np.take_along_axis(weights.numpy(), computed.tree["batches"].reshape(TASKS, -1).numpy(), 1)
    assert chosen.all()


def test_a_class_without_examples_is_never_predicted() -> None:
    parts = Assembly(load_config(NUMBERS, CASES["protonet"]))
    meta = parts.initial_meta()
    x, y = torch.randn(4, 4), torch.tensor([0, 0, 1, 2])
    support = {"x": x, "y": y, "weight": torch.tensor([1.0, 1.0, 1.0, 0.0])}
    tree = {"support": support, "query": {"x": x, "y": y.clamp(max=1), "weight": torch.ones(4)}}
    task = one_task(tree, 3, None)
    outputs = parts.adaptation.predict(meta, parts.adaptation.adapt(meta, task.support, None), task.query)
    assert outputs.isfinite().all()
    assert int(outputs.argmax(-1).max()) <= 1
    gradients, _ = parts.estimator.gradient(meta, task, None)
    assert all(value.isfinite().all() for value in gradients.values())


def test_a_run_of_unequal_tasks(tmp_path: Path) -> None:
    """Whole, resumed and used, to the same bits."""

    def parameters(folder: Path, resume: bool = False) -> dict[str, Tensor]:
        list(distmeta.train(load_config(NUMBERS, ["run.checkpoint_every=1"]), folder, resume=resume))
        return dict(distmeta.load(folder, trust_code=True).meta)

    whole = parameters(tmp_path / "whole")
    for record in distmeta.train(load_config(NUMBERS, ["run.checkpoint_every=1"]), tmp_path / "cut"):
        if record.step == 1:
            break
    again = parameters(tmp_path / "cut", resume=True)
    assert all(torch.equal(value, again[name]) for name, value in whole.items())
    measured = distmeta.evaluate(tmp_path / "whole", trust_code=True)
    assert measured["mae"]["tasks"] == 5


PADDED = "kind: 'module:users_padded.Padded'"
REFUSED = {
    "batch statistics": ("model={kind: 'module:users_padded.normed'}", "normalises by the statistics of all examples"),
    "not announced": ("tasks.said=false", "holds weight, but its TaskSpec has not weighted=True"),
    "not there": ("tasks.given=false", "the tasks' data holds no weight"),
    "an objective that knows none": (
        f"tasks={{{PADDED}, objective: 'module:users_padded.Plain'}}",
        r"tasks\.objective \(Plain\) does not say that it heeds weights",
    ),
}


@pytest.mark.parametrize(("override", "said"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_know_padding_is_refused(override: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        next(distmeta.train(load_config(NUMBERS, [override]), tmp_path / "run"))
