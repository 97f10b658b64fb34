"""The program of policies that remember."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

import distmeta
from distmeta.adaptations.base import Batch
from distmeta.core.requests import Request, Start
from distmeta.errors import ConfigError
from distmeta.loading import load_config
from distmeta.objectives.distributions import log_probability
from distmeta.programs.recurrent import RecurrentProgram
from distmeta.programs.recurrent_assembly import RecurrentAssembly
from distmeta.runs.directory import RunDirectory
from distmeta.runs.planning import measure_plans
from distmeta.runs.recurrent_policies import RecurrentLearner, RecurrentPolicy

TRIALS: dict[str, Any] = {
    "tasks": {"kind": "mdps", "states": 3, "choices": 2, "episodes": 3, "horizon": 4},
    "model": {"kind": "gru", "width": 8},
    "algorithm": {"name": "rl2"},
    "run": {"meta_batch": 4, "tasks_per_shard": 2, "steps": 2, "device": "cpu"},
    "evaluation": {"tasks": 4, "validation_tasks": 2},
}
NAVIGATION = "tasks={kind: navigation, episodes: 2, horizon: 6}"
CPU = torch.device("cpu")


def opened(*overrides: str) -> RecurrentProgram:
    return RecurrentProgram(load_config(TRIALS, overrides), CPU)


def trials(program: RecurrentProgram, count: int) -> tuple[Tensor, dict[str, Any]]:
    theta = program.initial_vector()
    theta = theta + 0.3 * torch.randn(len(theta), generator=torch.Generator().manual_seed(0))
    return theta, program._trials.roll_out(theta, "train", range(count), 0)


def plain_loss(program: RecurrentProgram, theta: Tensor, tasks: dict[str, Any], clip: float | None) -> Tensor:
    """The sum of the tasks' losses, by the module's own forward pass and in the parameters' type."""
    objective, losses = cast(Any, program._parts.objective), []
    data = {
        name: value.to(theta.dtype) if value.is_floating_point() else value for name, value in tasks["query"].items()
    }
    program._parts.network.to(dtype=theta.dtype)
    for task in range(len(data["x"])):
        own = {name: value[task] for name, value in data.items()}
        outputs = program._parts.adaptation.predict(program.layout.unflatten(theta), {}, Batch(own))
        losses.append(objective.loss(outputs, own) if clip is None else objective.clipped(outputs, own, clip))
    program._parts.network.to(dtype=torch.float32)
    return torch.stack(losses).sum()


@pytest.mark.parametrize("tasks", ["tasks.horizon=4", NAVIGATION], ids=["mdps", "navigation"])
@pytest.mark.parametrize("clip", [None, 0.2], ids=["gradient", "clipped"])
def test_gradients_are_those_of_the_tasks_one_by_one_and_of_differences(tasks: str, clip: float | None) -> None:
    outer = "outer.name=gradient" if clip is None else "outer.epochs=2"
    program = opened(tasks, outer, "tasks.objective={name: likelihood_ratio, entropy: 0.1}")
    program.follow(program.probe())
    theta, sample = trials(program, 3)
    at = theta + 0.1 * torch.randn(len(theta), generator=torch.Generator().manual_seed(1))
    if clip is None:
        found, _ = program._gradient_sums(None, (at,), sample)
    else:
        found, _ = program._clipped_sums(None, (theta, at, torch.zeros(1)), sample)
    exact = at.double().requires_grad_()
    (wanted,) = torch.autograd.grad(plain_loss(program, exact, sample, clip), exact)
    torch.testing.assert_close(found, wanted.float(), rtol=1e-3, atol=1e-5 * float(wanted.norm()))
    direction = torch.randn(len(theta), generator=torch.Generator().manual_seed(2)).double()
    with torch.no_grad():
        ends = [plain_loss(program, at.double() + sign * 1e-6 * direction, sample, clip) for sign in (1, -1)]
    assert float((ends[0] - ends[1]) / 2e-6) == pytest.approx(float(wanted @ direction), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("tasks", ["tasks.horizon=4", NAVIGATION], ids=["mdps", "navigation"])
def test_a_trial_is_one_sequence_from_its_beginning(tasks: str) -> None:
    """What was stored while acting step by step is what the whole sequence gives."""
    program = opened(tasks)
    theta, sample = trials(program, 2)
    for task in range(2):
        data = {name: value[task] for name, value in sample["query"].items()}
        outputs = program._parts.adaptation.predict(program.layout.unflatten(theta), {}, Batch(data))
        torch.testing.assert_close(outputs, data["outputs"], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(log_probability(outputs[:, :-1], data["y"]), data["log_probs"], rtol=1e-4, atol=1e-5)


def test_the_policy_sees_what_it_did_what_that_gave_and_where_an_episode_ended() -> None:
    program = opened()
    _, sample = trials(program, 2)
    seen, done = sample["query"]["x"], sample["query"]["y"]
    before, reward, ended = seen[:, 1:, 3:5], seen[:, :, 5], seen[:, :, 6]
    assert torch.equal(before.argmax(-1), done[:, :-1])
    assert not seen[:, 0, 3:].any()
    assert torch.equal(ended, torch.tensor([0.0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0]).expand(2, 12))
    first = torch.stack([reward[:, first + 1 : first + 4].sum(1) for first in (0, 4)], 1)  # without the last steps'
    whole = sample["returns"][:, :2].float()
    last = torch.stack([reward[:, 4], reward[:, 8]], 1)
    torch.testing.assert_close(first + last, whole, rtol=1e-5, atol=1e-5)


def test_steps_after_an_episodes_end_are_idle() -> None:
    """Poles fall at different times; what comes then is zeros and the flag of an end, and has no weight."""
    program = opened("tasks={kind: cartpole, episodes: 2, horizon: 40, baseline: network}")
    _, sample = trials(program, 3)
    data = sample["query"]
    real = data["weight"].view(3, 2, 40)
    lengths = real.sum(-1)
    assert lengths.max() < 40
    for task in range(3):
        for episode in range(2):
            length = int(lengths[task, episode])
            assert bool((real[task, episode, :length] == 1).all())
            idle = data["x"][task].view(2, 40, -1)[episode, length:]
            assert not idle[:, :4].any()
            assert bool((idle[:, -1] == 1).all())
    assert not data["advantages"].view(3, 80)[data["weight"] == 0].any()
    torch.testing.assert_close(sample["returns"], lengths.double())  # a pole pays 1 a step


def test_trials_depend_on_seed_split_task_and_policy_alone() -> None:
    program = opened()
    theta = program.initial_vector()
    both, alone = (program._trials.roll_out(theta, "train", ids, 0) for ids in ([5, 9], [9]))
    for name in ("x", "y", "advantages", "log_probs", "targets"):
        torch.testing.assert_close(both["query"][name][1:], alone["query"][name], rtol=1e-5, atol=1e-6)
    assert torch.equal(opened()._trials.roll_out(theta, "train", [5, 9], 0)["query"]["x"], both["query"]["x"])
    for other in (opened("seed=1")._trials.roll_out(theta, "train", [5, 9], 0),
                  program._trials.roll_out(theta, "validation", [5, 9], 0)):  # fmt: skip
        assert not torch.equal(other["query"]["y"], both["query"]["y"])


def test_chunks_give_the_shards_sum() -> None:
    whole, parts = opened(), opened("engine.chunk=1")
    request = Request("gradient", Start.of(0, whole.initial_vector()))
    found = []
    for program in (whole, parts):
        program.follow(program.probe())
        found.append(program.answer(request, "train", range(2)))
    torch.testing.assert_close(found[0].vector, found[1].vector, rtol=1e-4, atol=1e-6)
    assert found[0].sums["return"] == pytest.approx(found[1].sums["return"], rel=1e-6)


def test_evaluation_measures_every_episode() -> None:
    program = opened()
    rows = program.evaluate(Start.of(0, program.initial_vector()), "test", range(3), details=True)
    assert rows.by_step is not None
    assert rows.by_step.shape == (3, 3)
    torch.testing.assert_close(rows.values["return"], rows.by_step.mean(1), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["outer.name=trust_region"], "takes none; use outer.name=clipped"),
        (["algorithm.estimator=first_order"], "use estimator exact"),
        (["algorithm.estimator=credited"], "takes none; use exact"),
        (["algorithm.name=promp", "outer.lr=0.1"], "takes examples as the steps of one sequence"),
        (["engine.compile=graph"], "compile = none alone"),
        (["outer.penalty=0.1"], "outer.penalty"),
        (["tasks={kind: sinusoid}"], "rl2 is for tasks with actions"),
        (["tasks={kind: sinusoid}", "algorithm.name=maml", "algorithm.adaptation=recurrent"], "has examples"),
        (["algorithm.name=maml_trpo", "tasks.baseline=network", "model={kind: mlp}"], "values do"),
    ],
)
def test_refused_settings(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(TRIALS, overrides)


def test_there_is_no_plan_to_choose() -> None:
    with pytest.raises(ConfigError, match="computed in one way"):
        measure_plans(load_config(TRIALS))


def test_a_network_without_memory_is_refused() -> None:
    with pytest.raises(ConfigError, match="mlp has none"):
        RecurrentAssembly(load_config(TRIALS, ["model={kind: mlp}"]))


def test_a_memory_of_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "remembering.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "class Remembering(nn.Module):\n"
        "    def __init__(self, input_shape, outputs):\n"
        "        super().__init__()\n"
        "        self.lstm, self.head = nn.LSTM(*input_shape, 6), nn.Linear(6, outputs)\n"
        "    def unroll(self, inputs, memory=None):\n"
        "        states, memory = self.lstm(inputs, memory)\n"
        "        return self.head(states), memory\n"
        "    def forward(self, inputs):\n"
        "        return self.unroll(inputs.unsqueeze(1))[0].squeeze(1)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    for tasks in ("tasks.horizon=4", NAVIGATION):
        program = opened(tasks, "model={kind: module:remembering.Remembering}")
        program.follow(program.probe())
        theta, sample = trials(program, 2)
        found, _ = program._clipped_sums(None, (theta, theta, torch.zeros(1)), sample)
        exact = theta.double().requires_grad_()
        (wanted,) = torch.autograd.grad(plain_loss(program, exact, sample, 0.2), exact)
        torch.testing.assert_close(found, wanted.float(), rtol=1e-3, atol=1e-5 * float(wanted.norm()))


def test_a_policy_of_the_users_own_acts_as_in_training() -> None:
    """The outputs of a policy that is told of a trial are those that were stored in it."""
    config = load_config(TRIALS)
    program = opened()
    theta, sample = trials(program, 1)
    learner = RecurrentLearner(config, program.layout.unflatten(theta))
    policy, data = learner.adapt(), {name: value[0] for name, value in sample["query"].items()}
    for step in range(11):
        observed = data["x"][step, :3]
        outputs = policy._outputs(observed.unsqueeze(0))
        torch.testing.assert_close(outputs[0], data["outputs"][step], rtol=1e-4, atol=1e-5)
        policy._waiting = data["y"][step : step + 1]
        following = data["x"][step + 1]
        policy.feedback(following[5], ended=following[6] > 0)


def test_a_policy_idles_after_an_episode_that_ends_early() -> None:
    """As it did in training, so that the next episode finds it as it would there."""
    tasks = "tasks={kind: cartpole, episodes: 2, horizon: 40}"
    program = opened(tasks)
    theta, sample = trials(program, 1)
    learner = RecurrentLearner(load_config(TRIALS, [tasks]), program.layout.unflatten(theta))
    policy, data = learner.adapt(), {name: value[0] for name, value in sample["query"].items()}
    length = int(data["weight"][:40].sum())
    assert length < 40
    for step in (*range(length), 40):
        outputs = policy._outputs(data["x"][step, :4].unsqueeze(0))
        torch.testing.assert_close(outputs[0], data["outputs"][step], rtol=1e-4, atol=1e-5)
        policy._waiting = data["y"][step : step + 1]
        policy.feedback(data["x"][step + 1][6], ended=step == length - 1)


def test_wrong_uses_of_a_policy() -> None:
    config = load_config(TRIALS)
    learner = RecurrentLearner(config, RecurrentAssembly(config).initial_meta())
    seen: list[RecurrentPolicy] = []
    policy = learner.adapt(seen.append)
    assert seen == [policy]
    with pytest.raises(ConfigError, match="call act first"):
        policy.feedback(1.0)
    with pytest.raises(ConfigError, match=r"expected the shape \(3,\)"):
        policy.act([1.0])
    assert policy.act(torch.eye(3)[0]).shape == ()
    with pytest.raises(ConfigError, match="tell the last action's reward"):
        policy.act(torch.eye(3)[0])
    with pytest.raises(ConfigError, match="expected 1 finite"):
        policy.feedback(float("nan"))
    for reward, ended, message in (("a", False, "reward: expected numbers"), (None, False, "reward: expected numbers"),
                                   (1.0, [True, False], "ended: expected one for all")):  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            policy.feedback(reward, ended)
    policy.feedback(1.0, ended=True)
    with pytest.raises(ConfigError, match="the trial is of 1 tasks"):
        policy.act(torch.eye(3)[:2])
    several = learner.adapt()
    several.act(torch.eye(3)[:2])
    with pytest.raises(ConfigError, match="adapt a policy for each task"):
        several.feedback([1.0, 1.0], [True, False])


def test_a_policy_that_has_diverged_has_no_return() -> None:
    program = opened()
    broken = torch.full_like(program.initial_vector(), torch.nan)
    assert program._trials.roll_out(broken, "test", range(2), 0)["returns"].isnan().all()


def test_a_run_learns_and_its_policy_acts(tmp_path: Path) -> None:
    overrides = [
        "tasks={kind: bandits, arms: 2, episodes: 1, horizon: 20, gae_lambda: 0.3}",
        "tasks.objective={name: likelihood_ratio, value_weight: 30, entropy: 0.02}",
        "run.steps=20", "run.meta_batch=128", "run.tasks_per_shard=128", "outer.lr=1e-2", "evaluation.tasks=1000",
    ]  # fmt: skip
    for _ in distmeta.train(load_config(TRIALS, overrides), tmp_path / "run"):
        pass
    measured = distmeta.evaluate(tmp_path / "run")
    assert [each["episode"] for each in measured["by_episode"]] == [1]
    assert "return_before" not in measured
    assert RunDirectory(tmp_path / "run").read_result()["meta_test"] == measured
    assert measured["return"]["mean"] > 10.6  # by chance 10, always the better arm 13.3
    policy = distmeta.load(tmp_path / "run").adapt()  # type: ignore[call-arg]
    arm = int(policy.act([1.0]))  # type: ignore[attr-defined]
    assert arm in (0, 1)
