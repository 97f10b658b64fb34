"""The program on real task families: what a shard is worth, to the bit where that is promised."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import torch
from numerics_cases import WAYS, Case
from torch import Tensor

from distmeta.config.schema import Config
from distmeta.core.layout import Layout
from distmeta.core.philox import minibatches
from distmeta.core.plan import Plan
from distmeta.core.requests import Request, Start
from distmeta.errors import ConfigError
from distmeta.functional.building import build
from distmeta.loading import load_config
from distmeta.programs.engine.assembly import Assembly
from distmeta.programs.engine.reference import one_task
from distmeta.programs.supervised import SupervisedProgram
from distmeta.tasks import TASKS, open_family

CPU = torch.device("cpu")
SINUSOID: dict[str, Any] = {
    "tasks": {"kind": "sinusoid"},
    "model": {"kind": "mlp", "hidden": [8, 8], "activation": "tanh"},
    "algorithm": {"name": "maml", "inner_steps": 3},
}
GLYPHS: dict[str, Any] = {
    "tasks": {"kind": "glyphs", "ways": WAYS, "shots": 1, "queries": 2},
    "model": {"kind": "conv4", "filters": 4},
    "algorithm": {"name": "maml", "inner_lr": 0.1},
}
CONFIGS: dict[str, dict[str, Any]] = {
    "sinusoid-maml": SINUSOID,
    "sinusoid-meta_sgd": {**SINUSOID, "algorithm": {"name": "meta_sgd", "inner_lr": [0.01, 0.05], "inner_steps": 2}},
    "glyphs-maml": GLYPHS,
    "glyphs-mixed": {**GLYPHS, "algorithm": {"name": "maml", "inner_steps": 2}, "engine": {"differentiation": "mixed"}},
    "glyphs-anil": {**GLYPHS, "algorithm": {"name": "anil", "inner_steps": 2, "inner_lr": 0.1}},
    "glyphs-reptile": {**GLYPHS, "algorithm": {"name": "reptile", "inner_steps": 4, "inner_batch": 4}},
    "glyphs-protonet": {**GLYPHS, "algorithm": {"name": "protonet"}},
}


@pytest.fixture(scope="module", params=list(CONFIGS))
def config(request: pytest.FixtureRequest) -> Config:
    return load_config(CONFIGS[request.param], ["evaluation.queries=4", "run.steps=10"])


def initial(config: Config) -> Start:
    meta = Assembly(config).initial_meta()
    return Start.of(0, Layout.of(meta).flatten(meta))


def near(actual: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
    """Up to float32 rounding, relative to the largest element."""
    assert (actual - expected).abs().max() <= tolerance * expected.abs().max()


def reference(config: Config, ids: range) -> Tensor:
    """(P,) float64 sum of the tasks' meta-gradients by plain autograd, one task at a time."""
    spec = TASKS[config.tasks.kind].spec(config.tasks)
    algorithm = {key: value for key, value in config.algorithm.model_dump().items() if value is not None}
    outputs = spec.outputs if algorithm["name"] != "protonet" else None
    module = build(config.model, spec.inputs, outputs, config.seed).double()
    batch = open_family(config, CPU).sample("train", ids)
    double = {
        name: {"x": data["x"].double(), "y": data["y"].double() if data["y"].is_floating_point() else data["y"]}
        for name, data in (("support", batch.support), ("query", batch.query))
    }
    case = Case(algorithm, module, config.tasks.objective, double, config.seed)
    if "batches" in case.tree:
        steps, size = case.tree["batches"].shape[1:]
        examples = case.tree["support"]["x"].shape[1]
        case.tree["batches"] = torch.from_numpy(minibatches(config.seed, "train", ids, examples, steps, size))
    return Layout.of(case.meta).flatten({name: value.sum(0) for name, value in case.reference().items()})


def test_gradient_is_that_of_plain_autograd(config: Config) -> None:
    ids = range(5, 8)
    gradient = SupervisedProgram(config, CPU).answer(Request("gradient", initial(config)), "train", ids)
    assert (gradient.tasks, gradient.nonfinite, gradient.vector.dtype) == (3, (), torch.float32)
    near(gradient.vector.double(), reference(config, ids), 1e-3)


def test_a_shard_is_the_sum_of_its_tasks(config: Config) -> None:
    program, state = SupervisedProgram(config, CPU), initial(config)
    whole = program.answer(Request("gradient", state), "train", range(4))
    single = [program.answer(Request("gradient", state), "train", [i]) for i in range(4)]
    near(whole.vector, torch.stack([part.vector for part in single]).sum(0))
    assert whole.sums.keys() == single[0].sums.keys()
    for name, total in whole.sums.items():
        assert total == pytest.approx(sum(part.sums[name] for part in single), rel=1e-4)


def test_gradients_are_the_same_to_the_bit_in_every_instance_and_after_prefetch(config: Config) -> None:
    state = initial(config)
    first = SupervisedProgram(config, CPU)
    expected = first.answer(Request("gradient", state), "train", range(3, 6))
    second = SupervisedProgram(config, CPU)
    second.prefetch("train", [range(3), range(3, 6), range(6, 9)])
    second.answer(Request("gradient", state), "train", range(6, 9))
    second.prefetch("train", [range(3, 6)])
    for program in (second, first):
        again = program.answer(Request("gradient", state), "train", range(3, 6))
        assert torch.equal(again.vector, expected.vector)
        assert again.sums == expected.sums


def test_evaluation_is_the_same_with_details_and_in_shards(config: Config) -> None:
    """Chunks of another size round differently, so shards agree to float32; the flag changes no bit."""
    program, state = SupervisedProgram(config, CPU), initial(config)
    whole = program.evaluate(state, "test", range(6), details=False)
    detailed = program.evaluate(state, "test", range(6), details=True)
    assert whole.by_step is None
    assert whole.ids.tolist() == list(range(6))
    for name, value in whole.values.items():
        assert torch.equal(value, detailed.values[name])
        assert (value.dtype, value.shape) == (torch.float64, (6,))
    shards = [program.evaluate(state, "test", ids, details=True) for ids in (range(2), range(2, 6))]
    for name, value in detailed.values.items():
        near(torch.cat([shard.values[name] for shard in shards]), value)
    inductive = {name for name in detailed.values if name.endswith("_inductive")}
    assert inductive == ({"accuracy_inductive"} if config.tasks.kind == "glyphs" else set())


def test_by_step_goes_from_no_adaptation_to_the_reported_metric() -> None:
    for values, metric in ((SINUSOID, "mse"), (GLYPHS, "accuracy")):
        adapted = load_config(values, ["evaluation.inner_steps=3"])
        measured = SupervisedProgram(adapted, CPU).evaluate(initial(adapted), "test", range(4), details=True)
        assert measured.by_step is not None
        assert measured.by_step.shape == (4, 4)
        assert torch.equal(measured.by_step[:, -1], measured.values[metric])
        still = load_config(values, ["evaluation.inner_steps=0"])
        before = SupervisedProgram(still, CPU).evaluate(initial(still), "test", range(4), details=False)
        assert torch.equal(measured.by_step[:, 0], before.values[metric])
        assert metric == "accuracy" or (measured.by_step[:, 3] != measured.by_step[:, 0]).all()


def test_evaluation_may_take_more_steps_on_minibatches_than_training() -> None:
    """Four steps when trained, six when evaluated, each on two of the three support examples."""
    config = load_config(CONFIGS["glyphs-reptile"], ["algorithm.inner_batch=2", "evaluation.inner_steps=6"])
    program, state = SupervisedProgram(config, CPU), initial(config)
    measured = program.evaluate(state, "validation", range(3), details=True)
    assert measured.by_step is not None
    assert measured.by_step.shape == (3, 7)
    assert torch.equal(measured.by_step[:, -1], measured.values["accuracy"])


def test_dropout_is_on_in_training_and_off_in_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With p = 0 the same network gives other gradients and the same evaluation."""
    dropping, still = (
        user_config("dropping", tmp_path, monkeypatch, f"model.p={p}", "engine.differentiation=mixed")
        for p in (0.5, 0.0)
    )
    state = initial(dropping)
    gradients, values = [], []
    for config in (dropping, dropping, still):
        program = SupervisedProgram(config, CPU)
        gradients.append(program.answer(Request("gradient", state), "train", range(3)).vector)
        values.append(program.evaluate(state, "test", range(3), details=True).values["mse"])
    assert torch.equal(gradients[0], gradients[1])
    assert (gradients[0] - gradients[2]).abs().max() > 0.01 * gradients[2].abs().max()
    assert torch.equal(values[0], values[2])


def test_protonet_is_evaluated_with_other_ways() -> None:
    config = load_config(CONFIGS["glyphs-protonet"], ["evaluation.ways=7", "evaluation.shots=2"])
    measured = SupervisedProgram(config, CPU).evaluate(initial(config), "test", range(3), details=True)
    assert measured.by_step is None
    assert ((measured.values["accuracy"] > 1 / 7) & (measured.values["accuracy"] <= 1)).all()


# What is not finite -------------------------------------------------------------------------------------------------


def test_nan_parameters_name_every_task(config: Config) -> None:
    state = initial(config)
    broken = Start.of(0, torch.full_like(state.theta, torch.nan))
    assert SupervisedProgram(config, CPU).answer(Request("gradient", broken), "train", range(2, 5)).nonfinite == (
        2,
        3,
        4,
    )


def test_tasks_that_overflow_are_named_and_no_others() -> None:
    """One huge inner step of a linear model; the query error of large sinusoids exceeds float32 first."""
    values = {**SINUSOID, "model": {"kind": "mlp", "hidden": []}, "algorithm": {"name": "maml", "inner_lr": 5e17}}
    config = load_config(values)
    program, state = SupervisedProgram(config, CPU), initial(config)
    alone = [i for i in range(8) if program.answer(Request("gradient", state), "train", [i]).nonfinite]
    assert 0 < len(alone) < 8
    assert program.answer(Request("gradient", state), "train", range(8)).nonfinite == tuple(alone)


def test_not_finite_with_scalar_learned_rates() -> None:
    config = load_config(SINUSOID, ["algorithm.learned_rates=per_tensor"])
    broken = Start.of(0, torch.full_like(initial(config).theta, torch.nan))
    assert SupervisedProgram(config, CPU).answer(Request("gradient", broken), "train", range(2, 5)).nonfinite == (
        2,
        3,
        4,
    )


def test_dropout_of_the_query_is_not_that_of_the_support() -> None:
    data = {"x": torch.ones(2, 3), "y": torch.tensor([0, 1])}
    for steps in (2, None):
        task = one_task({"support": data, "query": data, "key": torch.tensor([1, 2])}, 2, steps)
        draws = [task.support.step(step).draw for step in range(steps or 1)]
        assert task.query.draw not in draws


# What vmap cannot map -----------------------------------------------------------------------------------------------

USER_MODULES = {
    "recurrent": """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.body = nn.GRU(1, 4, batch_first=True)
                self.head = nn.Linear(4, 1)
            def forward(self, x):
                return self.head(self.body(x.unsqueeze(-1))[0][:, -1])
        """,
    "branching": """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.body = nn.Linear(1, 4)
                self.head = nn.Linear(4, 1)
            def forward(self, x):
                h = self.body(x)
                return self.head(h.tanh() if x.mean() > 0 else h.sigmoid())
        """,
    "memory": """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.body = nn.LSTM(1, 4, batch_first=True)
                self.head = nn.Linear(4, 1)
            def forward(self, x):
                return self.head(self.body(x.unsqueeze(-1))[0][:, -1])
        """,
    "dropping": """
        class Net(nn.Module):
            def __init__(self, p):
                super().__init__()
                self.body = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Dropout(p))
                self.head = nn.Linear(8, 1)
            def forward(self, x):
                return self.head(self.body(x))
        """,
    "faulty": """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.body = nn.Linear(1, 1)
            def forward(self, x):
                if len(x) != 2:
                    raise RuntimeError("a bug of the model's own")
                return self.body(x)
        """,
}


def user_config(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, *overrides: str) -> Config:
    """A configuration whose model is a file in the current directory."""
    (folder / f"user_{name}.py").write_text("from torch import nn\n" + dedent(USER_MODULES[name]))
    monkeypatch.chdir(folder)
    return load_config({**SINUSOID, "model": {"kind": f"module:user_{name}.Net"}}, overrides)


@pytest.mark.parametrize("differentiation", ["reverse", "mixed"])
@pytest.mark.parametrize("name", ["recurrent", "branching"])
def test_what_cannot_be_mapped_is_looped(
    name: str, differentiation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = user_config(name, tmp_path, monkeypatch, f"engine.differentiation={differentiation}")
    program, state = SupervisedProgram(config, CPU), initial(config)
    plan = program.probe()
    assert plan.running == "looped"
    assert len(plan.reason) > 10
    program.follow(plan)
    near(
        program.answer(Request("gradient", state), "train", range(3)).vector.double(), reference(config, range(3)), 1e-3
    )
    measured = program.evaluate(state, "test", range(3), details=True)
    assert measured.values["mse"].isfinite().all()


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_what_maps_in_gradients_alone_is_evaluated_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = user_config("memory", tmp_path, monkeypatch)
    program, state = SupervisedProgram(config, CPU), initial(config)
    program.follow(program.probe())
    near(
        program.answer(Request("gradient", state), "train", range(3)).vector.double(), reference(config, range(3)), 1e-3
    )
    measured = program.evaluate(state, "test", range(3), details=True)
    assert measured.values["mse"].isfinite().all()


def test_a_bug_of_the_model_is_said_with_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It works on the two examples of the check of shapes, and on no support set."""
    program = SupervisedProgram(user_config("faulty", tmp_path, monkeypatch), CPU)
    with pytest.raises(ConfigError, match=r"RuntimeError: a bug of the model's own \(.*user_faulty\.py, line 9\)"):
        program.probe()


def test_what_can_be_mapped_is_mapped(config: Config) -> None:
    # The plan is tried on whole shards; a recording of it would take longer than all the rest.
    small = load_config(config.model_dump(), ["run.tasks_per_shard=2", "engine.compile=none"])
    plan = SupervisedProgram(small, CPU).probe()
    assert (plan.running, plan.reason) == ("mapped", "")


def test_looped_is_mapped(config: Config) -> None:
    program, state = SupervisedProgram(config, CPU), initial(config)
    mapped = program.answer(Request("gradient", state), "train", range(3))
    program.follow(Plan(running="looped", reason="asked for"))
    looped = program.answer(Request("gradient", state), "train", range(3))
    near(looped.vector, mapped.vector)
