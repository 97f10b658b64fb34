"""The program of reinforcement-learning tasks."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

import distmeta
from distmeta.adaptations.base import Batch, Iterative
from distmeta.config.schema import Config
from distmeta.core.requests import Request, Start
from distmeta.errors import ConfigError, DataError, NonFiniteError
from distmeta.loading import load_config
from distmeta.objectives.distributions import log_probability
from distmeta.programs import open_program
from distmeta.programs.policy_assembly import PolicyAssembly
from distmeta.programs.reinforcement import ReinforcementProgram
from distmeta.runs.policies import AdaptedPolicy, PolicyLearner
from distmeta.tasks import fit_family, open_family

NAVIGATION: dict[str, Any] = {
    "tasks": {"kind": "navigation", "episodes": 4, "horizon": 9},
    "model": {"kind": "mlp", "hidden": [8], "activation": "tanh", "weights": "xavier"},
    "algorithm": {"name": "maml_trpo", "inner_lr": 0.3, "inner_steps": 2},
    "run": {"meta_batch": 4, "tasks_per_shard": 2, "steps": 2, "device": "cpu"},
    "evaluation": {"tasks": 4, "validation_tasks": 2},
}
CPU = torch.device("cpu")


def opened(*overrides: str) -> ReinforcementProgram:
    return ReinforcementProgram(load_config(NAVIGATION, overrides), CPU)


def start_of(program: ReinforcementProgram) -> Start:
    return Start.of(0, program.initial_vector())


LOSSES, ESTIMATORS = ("likelihood_ratio", "reinforce", "dice"), ("exact", "first_order", "credited")
QUICK = set(zip(LOSSES, ESTIMATORS, strict=True))


@pytest.mark.parametrize(
    ("loss", "estimator"),
    [
        pytest.param(*pair, marks=() if pair in QUICK else pytest.mark.slow)
        for pair in itertools.product(LOSSES, ESTIMATORS)
    ],
)
def test_the_plan_holds_against_plain_autograd(loss: str, estimator: str) -> None:
    program = opened(f"algorithm.inner_objective={loss}", f"algorithm.estimator={estimator}")
    plan = program.probe()
    assert plan.running == "mapped"
    exact = program.reference_gradient(2)
    program.follow(plan)
    assert (program.sample_gradient(2) - exact).norm() <= 1e-4 * exact.norm()


def test_the_meta_gradient_is_the_slope_of_the_loss_on_the_same_episodes() -> None:
    """By central differences in float64, through both inner steps."""
    program = opened()
    tasks, _ = program._tasks("train", range(2), 2, dropout=True)
    reference = program._reference(torch.float64)
    theta = program.initial_vector().double()
    gradient = reference.gradient(program.layout.unflatten(theta), tasks, 2, None, 2)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        direction = torch.randn(len(theta), generator=generator, dtype=torch.float64)
        direction /= direction.norm()
        ends = [
            reference.losses(program.layout.unflatten(theta + sign * 1e-5 * direction), tasks, 2, None, 2).sum()
            for sign in (1, -1)
        ]
        assert float((ends[0] - ends[1]) / 2e-5) == pytest.approx(float(gradient @ direction), rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("differentiation", ["reverse", "mixed"])
def test_credit_is_the_slope_of_the_first_episodes_likelihood(differentiation: str) -> None:
    """The meta-gradient of E-MAML less the exact one, against central differences in float64."""
    settings = ["algorithm.inner_steps=2", f"engine.differentiation={differentiation}"]
    plain, program = opened(*settings), opened("algorithm.estimator=credited", *settings)
    tasks, _ = program._tasks("train", range(3), 2, dropout=True)
    found = tasks["query"]["return"].double()
    for task in range(3):
        others = (found.sum() - found[task]) / 2
        assert float(tasks["query"]["credit"][task]) == pytest.approx(
            float((found[task] - others) / found.std()), rel=1e-4
        )
    theta = program.initial_vector().double()
    both = [
        each._reference(torch.float64).gradient(each.layout.unflatten(theta), tasks, 3, None, 2)
        for each in (program, plain)
    ]
    first = {name: value[:, 0] for name, value in tasks["episodes"].items()}

    def credited(at: Tensor) -> Tensor:
        parts, total = program._parts, torch.zeros((), dtype=torch.float64)
        parts.network.to(dtype=torch.float64)
        meta = program.layout.unflatten(at)
        for task in range(3):
            outputs = parts.network({name[6:]: value for name, value in meta.items()}, first["x"][task].double())
            logs = log_probability(outputs, first["y"][task].double())
            weight = first["weight"][task].double()
            total -= float(tasks["query"]["credit"][task]) * (logs * weight).sum() / weight.sum()
        return total

    direction = torch.randn(len(theta), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    slope = (credited(theta + 1e-5 * direction) - credited(theta - 1e-5 * direction)) / 2e-5
    assert float((both[0] - both[1]) @ direction) == pytest.approx(float(slope), rel=1e-5)


def test_networks_that_learn_values() -> None:
    """Their meta-gradient holds as well, and their values are what advantages are taken from."""
    program = opened("algorithm.name=promp", "outer.lr=0.01", "tasks.baseline=network", "outer.penalty=0.1")
    plan = program.probe()
    exact = program.reference_gradient(2)
    program.follow(plan)
    assert (program.sample_gradient(2) - exact).norm() <= 1e-4 * exact.norm()
    sample = program._rollouts.roll_out(program.initial_vector(), "train", range(2), 1)["query"]
    assert sample["outputs"].shape[-1] == 5
    scale = sum(0.99**step for step in range(9))
    values, real = sample["outputs"][..., -1].double() * scale, sample["weight"].double()
    estimates = (sample["targets"].double() * scale - values) * real
    for task in range(2):
        count = real[task].sum()
        off = (estimates[task] - estimates[task].sum() / count) * real[task]
        wanted = off / (off.square().sum() / count).sqrt()
        torch.testing.assert_close(sample["advantages"][task].flatten(), wanted.float(), rtol=1e-3, atol=1e-3)


def test_episodes_depend_on_seed_split_task_and_policy_alone() -> None:
    program = opened()
    theta = program.initial_vector()
    both = program._rollouts.roll_out(theta, "train", [5, 9], 2)
    alone = program._rollouts.roll_out(theta, "train", [9], 2)
    for name in ("x", "y", "advantages", "log_probs"):
        torch.testing.assert_close(both["query"][name][1:], alone["query"][name], rtol=1e-5, atol=1e-6)
    again = opened()._rollouts.roll_out(theta, "train", [5, 9], 2)
    assert torch.equal(again["query"]["x"], both["query"]["x"])
    assert torch.equal(again["episodes"]["y"], both["episodes"]["y"])
    for other in (opened("seed=1")._rollouts.roll_out(theta, "train", [5, 9], 2),
                  program._rollouts.roll_out(theta, "validation", [5, 9], 2)):  # fmt: skip
        assert not torch.equal(other["episodes"]["y"], both["episodes"]["y"])
    steps = both["episodes"]["y"]
    assert not torch.equal(steps[:, 0], steps[:, 1])


def test_episodes_are_those_of_the_policy_before_each_step() -> None:
    """Stored probabilities are those of the parameters that plain gradient descent has by then."""
    program = opened()
    meta = program.layout.unflatten(program.initial_vector())
    tasks, _ = program._tasks("train", range(1), 2, dropout=True)
    adaptation = program._parts.adaptation
    from distmeta.adaptations.base import trajectory
    from distmeta.programs.engine.reference import one_task

    task = one_task({name: _first(value) for name, value in tasks.items()}, None, 2)
    batches = [task.support.step(0), task.support.step(1), task.query]
    with torch.no_grad():
        for params, batch in zip(trajectory(adaptation, meta, task.support, 2), batches, strict=True):
            logs = log_probability(adaptation.predict(meta, params, batch), batch.data["y"])
            real = batch.data["weight"].bool()
            torch.testing.assert_close(logs[real], batch.data["log_probs"][real], rtol=1e-4, atol=1e-4)


def _first(value: Any) -> Any:
    return {name: each[0] for name, each in value.items()} if isinstance(value, dict) else value[0]


def test_recorded_rollouts_have_the_same_bits() -> None:
    from distmeta.core.plan import Plan

    program = opened()
    theta, found = program.initial_vector(), []
    for how in ("none", "graph"):
        program.follow(Plan(compile=how))  # type: ignore[arg-type]
        found.append(program._rollouts.roll_out(theta, "train", range(3), 2))
    assert torch.equal(found[0]["query"]["x"], found[1]["query"]["x"])
    assert torch.equal(found[0]["returns"], found[1]["returns"])


def test_evaluation_measures_returns_after_every_step() -> None:
    program = opened()
    rows = program.evaluate(start_of(program), "test", range(3), details=True)
    assert rows.by_step is not None
    assert rows.by_step.shape == (3, 3)
    assert torch.equal(rows.values["return"], rows.by_step[:, -1])
    assert torch.equal(rows.values["return_before"], rows.by_step[:, 0])
    answer = program.answer(Request("gradient", start_of(program)), "train", range(2))
    assert set(answer.sums) == {"loss", "return", "return_before"}


def test_returns_of_the_most_likely_actions() -> None:
    """Adaptation is by drawn actions as before; what is told are further episodes."""
    drawn, program = opened(), opened("evaluation.mean_actions=true")
    theta = program.initial_vector()
    usual, mean = (program._rollouts.roll_out(theta, "test", range(2), 2, mean=each) for each in (False, True))
    for name in ("x", "y"):
        assert torch.equal(usual["query"][name], mean["query"][name])
    assert not torch.equal(usual["returns"], mean["returns"])
    rows = program.evaluate(start_of(program), "test", range(2), details=True)
    assert rows.by_step is not None
    assert torch.equal(rows.by_step, mean["returns"].double())
    untold = drawn.evaluate(start_of(drawn), "test", range(2), details=True)
    assert untold.by_step is not None
    assert torch.equal(untold.by_step, usual["returns"].double())
    # Without noise the first episodes of a task, which all begin alike, are the same.
    meta = program.layout.unflatten(theta)
    position, adaptation = torch.zeros(1, 2), cast(Iterative, program._parts.adaptation)
    tasks, total = program._rollouts.environments.sample("test", [0]).support, 0.0
    for _ in range(9):
        outputs = adaptation.predict(meta, adaptation.init(meta)[0], Batch({"x": position}))
        position, reward, _ = (
            each[0] for each in program._rollouts.environments.step(
                tasks, position.unsqueeze(0), outputs[:, :2].unsqueeze(0), torch.zeros(1, 1, 0)
            )
        )  # fmt: skip
        total += float(reward)
    assert float(mean["returns"][0, 0]) == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize("algorithm", ["maml_trpo", "rl2"])
def test_successes_of_the_users_environments(algorithm: str) -> None:
    line = "{kind: gymnasium, environment: 'module:users_environments.Line', success: true, episodes: 3, horizon: 30}"
    own = [f"tasks={line}", f"algorithm={{name: {algorithm}}}"]
    own += ["model={kind: gru, width: 4}", "tasks.metrics=[return, success]"] if algorithm == "rl2" else []
    config = load_config(NAVIGATION, own)
    program = open_program(config, CPU)
    rows = program.evaluate(Start.of(0, program.initial_vector()), "test", range(6), details=False)  # type: ignore[attr-defined]
    if algorithm == "rl2":  # has the return alone where nothing is chosen
        assert set(rows.values) == {"return", "success"}
        assert 0 < float(rows.values["success"].mean()) < 1
        return
    assert set(rows.values) == {"return", "return_before", "success", "success_before"}
    assert 0 < float(rows.values["success_before"].mean()) < 1
    untold = load_config(NAVIGATION, [own[0].replace("success:", "arguments: {fault: silent}, success:"), own[1]])
    with pytest.raises(DataError, match=r"tasks.success is set, and the info of step has no success"):
        open_program(untold, CPU).evaluate(Start.of(0, program.initial_vector()), "test", range(1), details=False)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("tasks.objective=cross_entropy", "loss of examples"),
        ("algorithm.inner_objective=squared_error", "loss of examples"),
        ("algorithm.name=protonet", "takes no inner steps"),
        ("algorithm.multi_step=5", "after the last inner step alone"),
        ("algorithm.estimator=implicit", "algorithm.proximal = 0"),
        ("algorithm.estimator=joint", "not one of outputs after adaptation"),
        ("algorithm.estimator=displacement", "not one of outputs after adaptation"),
        ("algorithm.inner_batch=3", "all of its episodes"),
        ("algorithm.estimator=credited run.tasks_per_shard=1", "compares the tasks of a shard"),
        ("algorithm.estimator=credited outer.name=clipped", "has a loss of its own"),
        ("tasks={kind: sinusoid} algorithm.name=maml algorithm.estimator=credited", "is about actions"),
        ("tasks={kind: sinusoid}", "maml_trpo is for tasks with actions"),
        ("tasks={kind: sinusoid, objective: dice}", "loss of actions"),
        ("tasks.objective=dice", "compares the losses of policies"),
        ("algorithm.inner_objective=dice tasks.episodes=1", "dice compares 2 or more episodes"),
        ("algorithm.name=rl2 tasks.objective=dice", "one episode to it"),
        ("tasks.reward=sparse", "four corners"),
        ("tasks.horizon=0", "tasks.horizon"),
        ("evaluation.shots=3", "no meaning"),
    ],
)
def test_refused_settings(override: str, message: str) -> None:
    plain = {**NAVIGATION, "algorithm": {"name": "maml_trpo"}}
    with pytest.raises(ConfigError, match=message):
        load_config(plain, re.split(r" (?=[a-z]+\.)", override))


def test_refused_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "normed.py").write_text(
        "from torch import nn\n"
        "def make(input_shape, outputs):\n"
        "    return nn.Sequential(nn.Linear(*input_shape, 4), nn.BatchNorm1d(4), nn.Linear(4, outputs))\n"
        "def dropping(input_shape, outputs):\n"
        "    return nn.Sequential(nn.Linear(*input_shape, 4), nn.Dropout(0.5), nn.Linear(4, outputs))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    for factory, message in (("make", "one observation at a time"), ("dropping", "has dropout")):
        config = load_config(NAVIGATION, [f"model={{kind: module:normed.{factory}}}"])
        with pytest.raises(ConfigError, match=message):
            PolicyAssembly(config)


def test_successes_that_nobody_tells() -> None:
    with pytest.raises(ConfigError, match="does not tell which episodes succeed"):
        PolicyAssembly(load_config(NAVIGATION, ["tasks.metrics=[return, success]"]))


def test_the_outer_step_of_the_method_is_its_default() -> None:
    assert load_config(NAVIGATION).outer.name == "trust_region"
    assert load_config(NAVIGATION, ["outer.radius=0.02"]).outer.radius == 0.02  # type: ignore[attr-defined]
    assert load_config(NAVIGATION, ["outer.name=gradient"]).outer.name == "gradient"
    assert load_config(NAVIGATION, ["algorithm.name=maml_vpg"]).outer.name == "gradient"


def learner() -> PolicyLearner:
    config: Config = load_config(NAVIGATION)
    return PolicyLearner(config, PolicyAssembly(config).initial_meta())


def episode(policy: AdaptedPolicy, length: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Towards (0.3, 0.2)."""
    goal, position = torch.tensor([0.3, 0.2]), torch.zeros(2)
    seen, actions, rewards = [], [], []
    for _ in range(length):
        action = policy.act(position, generator=generator)
        seen.append(position)
        actions.append(action)
        position = position + action.clamp(-0.1, 0.1)
        rewards.append(-(position - goal).norm())
    return {"observations": torch.stack(seen), "actions": torch.stack(actions), "rewards": torch.stack(rewards)}


def test_a_learner_adapts_to_episodes_of_the_users_own() -> None:
    generator, policies = torch.Generator().manual_seed(0), []

    def collect(policy: AdaptedPolicy) -> list[dict[str, Tensor]]:
        policies.append(policy)
        return [episode(policy, length, generator) for length in (9, 5, 9)]

    adapted = learner().adapt(collect)
    assert len(policies) == 2
    where = torch.zeros(3, 2)
    outputs = [policy.outputs(where) for policy in (*policies, adapted)]
    assert not torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[1], outputs[2])
    assert adapted.act(where).shape == (3, 2)
    assert adapted.act([0.0, 0.1]).shape == (2,)
    assert torch.equal(adapted.act(where, mean=True), outputs[2][:, :2])


def test_the_users_own_episodes_are_used_as_rollouts_are() -> None:
    """The inner step from the program's own episodes is the learner's from the same."""
    program, own = opened("algorithm.inner_steps=1"), learner()
    sample = program._rollouts.roll_out(program.initial_vector(), "train", [3], 1)["episodes"]
    count, horizon = 4, 9
    real = sample["weight"][0, 0].view(count, horizon).bool()
    assert real.all()
    episodes = [
        {
            "observations": sample["x"][0, 0].view(count, horizon, 2)[each],
            "actions": sample["y"][0, 0].view(count, horizon, 2)[each],
            "rewards": torch.zeros(horizon),
        }
        for each in range(count)
    ]
    data = own._data(AdaptedPolicy(own, own.parts.adaptation.init(own.meta)[0]), episodes)
    for name in ("x", "y", "weight", "log_probs"):
        torch.testing.assert_close(data[name], sample[name][0, 0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("episodes", "message"),
    [
        ([], "no episodes"),
        ([{"observations": torch.zeros(3, 2), "actions": torch.zeros(2, 2), "rewards": torch.zeros(3)}], "episode 0"),
        ([{"observations": torch.zeros(3, 5), "actions": torch.zeros(3, 2), "rewards": torch.zeros(3)}], "shape"),
        ([{"observations": torch.full((3, 2), float("nan")), "actions": torch.zeros(3, 2), "rewards": torch.zeros(3)}],
         "finite"),
        ([{"observations": torch.zeros(3, 2), "actions": torch.zeros(3, 2), "rewards": [0.0, float("inf"), 0.0]}],
         "rewards of episode 0: expected finite"),
        ([{"observations": torch.zeros(3, 2), "actions": torch.full((3, 2), torch.nan), "rewards": torch.zeros(3)}],
         "actions of episode 0: expected finite"),
        ([{"observations": torch.zeros(3, 2), "actions": torch.zeros(3, 2), "rewards": ["a", "b", "c"]}],
         "rewards of episode 0: expected numbers"),
        ([{"observations": [[0.0, 0.0], [0.0]], "actions": torch.zeros(2, 2), "rewards": [0.0, 0.0]}],
         "observations of episode 0: expected numbers, in rows of one length"),
        ([{"observations": torch.zeros(3, 2), "actions": torch.zeros(3, 2)}], "episode 0 has no rewards"),
        ([(torch.zeros(3, 2), torch.zeros(3, 2), torch.zeros(3))], "episode 0 is a tuple"),
        ({"observations": torch.zeros(3, 2)}, "collect should return a list of episodes"),
        (5, "it returned a int"),
    ],
)  # fmt: skip
def test_episodes_that_do_not_fit(episodes: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        learner().adapt(lambda policy: episodes)


@pytest.mark.parametrize("action", [5, -1, 0.5])
def test_actions_that_there_are_not(action: float) -> None:
    config = load_config(NAVIGATION, ["tasks={kind: cartpole, episodes: 4, horizon: 9}"])
    own = PolicyLearner(config, PolicyAssembly(config).initial_meta())
    given = {"observations": torch.zeros(2, 4), "actions": [0, action], "rewards": [1.0, 1.0]}
    with pytest.raises(ConfigError, match="whole numbers from 0 to 1"):
        own.adapt(lambda policy: [given])


def test_the_inner_loss_wants_its_number_of_episodes() -> None:
    config = load_config(NAVIGATION, ["algorithm.inner_objective=dice"])
    own, generator = PolicyLearner(config, PolicyAssembly(config).initial_meta()), torch.Generator().manual_seed(0)
    with pytest.raises(ConfigError, match="collect gave 1 episode; the inner loss learns from 2 or more"):
        own.adapt(lambda policy: [episode(policy, 9, generator)])


@pytest.mark.parametrize("kind", ["navigation", "cartpole"])
def test_a_policy_that_has_diverged_has_no_return(kind: str) -> None:
    """Whether its actions are numbers, of which the environment gets none, or indices, which are always some."""
    program = opened(f"tasks={{kind: {kind}, episodes: 2, horizon: 5}}")
    broken = torch.full_like(program.initial_vector(), torch.nan)
    found = program._rollouts.roll_out(broken, "test", range(2), 1)
    assert found["returns"].isnan().all()
    assert found["query"]["x"].isfinite().all()


def test_steps_at_which_policies_diverge_may_be_skipped(tmp_path: Path) -> None:
    wild = ["algorithm.inner_lr=1e12", "run.validate_every=0", "cluster.workers=0", "engine.compile=none"]
    for record in distmeta.train(load_config(NAVIGATION, [*wild, "outer.on_nonfinite=skip"]), tmp_path / "skips"):
        assert record.skipped
    with pytest.raises(NonFiniteError, match=r"Try a lower algorithm.inner_lr"):
        list(distmeta.train(load_config(NAVIGATION, wild), tmp_path / "stops"))


def test_a_run_from_its_configuration_to_a_policy(tmp_path: Path) -> None:
    config = load_config(NAVIGATION, ["cluster.workers=0"])
    for _ in distmeta.train(config, tmp_path / "run"):
        pass
    measured = distmeta.evaluate(tmp_path / "run", ["evaluation.inner_steps=3"])
    assert [each["step"] for each in measured["by_step"]] == [0, 1, 2, 3]
    assert measured["return"]["higher_is_better"]
    policy = distmeta.load(tmp_path / "run")
    assert isinstance(policy, PolicyLearner)
    state = torch.load(tmp_path / "run" / "checkpoints" / "step-00000002" / "state.pt", weights_only=True)
    assert state is not None


@pytest.mark.parametrize("base", ["mlp", "gru"])
def test_normalised_observations(base: str, tmp_path: Path) -> None:
    """Over random actions they have mean 0 and deviation 1, and a learner's policy sees the same."""
    own = ["tasks.normalise_observations=true", "tasks.kind=pendulum", "run.steps=1", "cluster.workers=0"]
    own += ["engine.compile=none"]
    if base == "gru":
        own += ["model={kind: gru, width: 4}", "algorithm={name: rl2}"]
    config = fit_family(load_config(NAVIGATION, own))
    assert config.tasks.fitted is not None
    found = config.tasks.fitted["observations"]
    family = open_family(config, CPU)
    seen = family._seen_by_chance(family.spec(config.tasks), 0)  # type: ignore[attr-defined]
    as_seen = (seen - torch.tensor(found["means"])) / torch.tensor(found["deviations"])
    torch.testing.assert_close(as_seen.mean(0), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(as_seen.std(0, correction=0), torch.ones(3), atol=1e-3, rtol=0)
    program: Any = open_program(config, CPU)
    rolled = program._samples.roll_out(program.initial_vector(), "train", range(1), 1)["query"]["x"]
    plain: Any = open_program(load_config(NAVIGATION, own[1:]), CPU)
    untouched = plain._samples.roll_out(program.initial_vector(), "train", range(1), 1)["query"]["x"]
    first = (untouched[0, 0, :3] - torch.tensor(found["means"])) / torch.tensor(found["deviations"])
    torch.testing.assert_close(rolled[0, 0, :3], first, rtol=1e-5, atol=1e-5)
    for _ in distmeta.train(load_config(NAVIGATION, own), tmp_path / "run"):
        pass
    learner: Any = distmeta.load(tmp_path / "run")
    given = learner.own_observations(untouched[0, 0, :3]) if base == "gru" else learner.observations(
        untouched[0, 0, :3], "x"
    )  # fmt: skip
    torch.testing.assert_close(given, first, rtol=1e-5, atol=1e-5)
