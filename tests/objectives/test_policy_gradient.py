"""Surrogate losses against enumerated decision processes, distributions against torch's own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch.autograd.functional import hessian
from torch.distributions import Categorical, Independent, Normal, kl_divergence

from distmeta.objectives import open_objective
from distmeta.objectives.distributions import divergence, draw, entropy, fisher, log_probability

DISCOUNT = 0.8
MOVES = torch.tensor([[[0.7, 0.3], [0.1, 0.9]], [[0.5, 0.5], [0.8, 0.2]]], dtype=torch.float64)  # state, action, next
REWARDS = torch.tensor([[1.0, -0.5], [0.3, 2.0]], dtype=torch.float64)  # state, action
THETA = torch.tensor([[0.2, -0.4], [0.9, 0.1]], dtype=torch.float64)  # logits by state

Trajectory = tuple[list[int], list[int]]


def trajectories(horizon: int) -> Iterator[Trajectory]:
    """All states and actions from state 0 on."""
    for actions in itertools.product(range(2), repeat=horizon):
        for states in itertools.product(range(2), repeat=horizon - 1):
            yield [0, *states], list(actions)


def probability(theta: Tensor, trajectory: Trajectory) -> Tensor:
    states, _ = trajectory
    policy, chance = theta.softmax(-1), torch.ones((), dtype=torch.float64)
    for time, (state, action) in enumerate(zip(*trajectory, strict=True)):
        chance = chance * policy[state, action]
        if time + 1 < len(states):
            chance = chance * MOVES[state, action, states[time + 1]]
    return chance


def earned(trajectory: Trajectory) -> list[float]:
    return [DISCOUNT**time * float(REWARDS[each]) for time, each in enumerate(zip(*trajectory, strict=True))]


def expected_return(theta: Tensor, horizon: int) -> Tensor:
    return torch.stack([probability(theta, each) * sum(earned(each)) for each in trajectories(horizon)]).sum()


def expected(name: str, horizon: int, derivative: Callable[..., Tensor]) -> Tensor:
    """The mean over all trajectories of a derivative of the surrogate, at the policy that drew them."""
    objective, total = open_objective(name), torch.zeros(())
    for trajectory in trajectories(horizon):
        states, actions = (torch.tensor(each) for each in trajectory)
        rewards = torch.tensor([earned(trajectory)], dtype=torch.float64)
        data = {
            "y": actions,
            "gains": rewards,
            "advantages": rewards.flip(1).cumsum(1).flip(1),
            "log_probs": log_probability(THETA[states], actions),
            "weight": torch.ones(horizon),
        }

        def loss(theta: Tensor, states: Tensor = states, data: dict[str, Tensor] = data) -> Tensor:
            return horizon * objective.loss(theta[states], data)

        total = total + probability(THETA, trajectory) * derivative(loss, THETA.clone().requires_grad_())
    return total


def slope(loss: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(loss(at), at)
    return found


@pytest.mark.parametrize("horizon", [1, 2, 3])
@pytest.mark.parametrize("name", ["likelihood_ratio", "reinforce", "dice"])
def test_the_gradient_is_that_of_the_expected_return(name: str, horizon: int) -> None:
    wanted = -slope(lambda theta: expected_return(theta, horizon), THETA.clone().requires_grad_())
    torch.testing.assert_close(expected(name, horizon, slope), wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("name", "horizon"), [("dice", 1), ("dice", 2), ("dice", 3), ("likelihood_ratio", 1)])
def test_the_second_derivative_is_that_of_the_expected_return(name: str, horizon: int) -> None:
    """Of the likelihood ratio for one step; over several it leaves out how earlier actions lead to later states."""
    wanted = -hessian(lambda theta: expected_return(theta, horizon), THETA)
    torch.testing.assert_close(expected(name, horizon, hessian), wanted, rtol=1e-10, atol=1e-12)


def test_reinforce_has_another_second_derivative() -> None:
    wanted = -hessian(lambda theta: expected_return(theta, 1), THETA)
    assert (expected("reinforce", 1, hessian) - wanted).norm() > 0.05 * wanted.norm()


def test_a_derivative_of_dice_through_nested_transforms() -> None:
    """What stops gradients stops them at every level."""
    objective = open_objective("dice")
    data = {"y": torch.tensor([0, 1]), "gains": torch.tensor([[1.0, 2.0]]), "weight": torch.ones(2)}

    def loss(theta: Tensor) -> Tensor:
        return objective.loss(theta.float()[torch.tensor([0, 1])], data)

    plain = hessian(loss, THETA.float())
    nested = torch.func.jacrev(torch.func.grad(loss))(THETA.float())
    torch.testing.assert_close(nested, plain)


def outputs_of(kind: str, seed: int) -> tuple[Tensor, Tensor]:
    """Outputs and actions of some examples."""
    generator = torch.Generator().manual_seed(seed)
    outputs = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    if kind == "categorical":
        return outputs, torch.randint(4, (5,), generator=generator)
    return outputs, torch.randn(5, 2, generator=generator, dtype=torch.float64)


def in_torch(kind: str, outputs: Tensor) -> torch.distributions.Distribution:
    if kind == "categorical":
        return Categorical(logits=outputs)
    means, log_stds = outputs.chunk(2, -1)
    return Independent(Normal(means, log_stds.exp()), 1)


KINDS = pytest.mark.parametrize("kind", ["categorical", "gaussian"])


@KINDS
def test_distributions_are_torchs(kind: str) -> None:
    (outputs, actions), (others, _) = outputs_of(kind, 0), outputs_of(kind, 1)
    before, after = in_torch(kind, outputs), in_torch(kind, others)
    torch.testing.assert_close(log_probability(outputs, actions), before.log_prob(actions))
    torch.testing.assert_close(entropy(outputs, actions), before.entropy())
    torch.testing.assert_close(divergence(outputs, others, actions), kl_divergence(before, after))


@KINDS
def test_fisher_is_the_curvature_of_the_divergence(kind: str) -> None:
    outputs, actions = outputs_of(kind, 2)
    tangent = torch.randn_like(outputs)
    whole = hessian(lambda after: divergence(outputs, after, actions).sum(), outputs).flatten(2).flatten(0, 1)
    torch.testing.assert_close(fisher(outputs, actions, tangent).flatten(), whole @ tangent.flatten())


@KINDS
def test_actions_are_drawn_from_the_distribution(kind: str) -> None:
    outputs, count = outputs_of(kind, 3)[0][:1], 200_000
    if kind == "categorical":
        actions = draw(outputs.expand(count, -1), torch.rand(count, 1, dtype=torch.float64), continuous=False)
        shares = actions.bincount(minlength=4) / count
        assert (shares - outputs[0].softmax(-1)).abs().max() < 0.01
    else:
        actions = draw(outputs.expand(count, -1), torch.randn(count, 2, dtype=torch.float64), continuous=True)
        means, log_stds = outputs[0].chunk(2)
        assert ((actions.mean(0) - means) / log_stds.exp()).abs().max() < 0.02
        assert (actions.std(0) / log_stds.exp() - 1).abs().max() < 0.02


def test_what_follows_the_end_of_an_episode_has_no_part() -> None:
    outputs, actions = outputs_of("gaussian", 4)
    data = {
        "y": actions[:4],
        "gains": torch.randn(2, 2, dtype=torch.float64),
        "advantages": torch.randn(2, 2, dtype=torch.float64),
        "log_probs": torch.zeros(4, dtype=torch.float64),
        "weight": torch.tensor([1.0, 1.0, 1.0, 0.0]),
    }
    other = {**data, "y": torch.cat([actions[:3], 7 * torch.ones(1, 2, dtype=torch.float64)])}
    for name in ("likelihood_ratio", "reinforce", "dice"):
        objective = open_objective(name)
        assert objective.loss(outputs[:4], data) == objective.loss(outputs[:4], other)


def test_entropy_is_rewarded() -> None:
    from distmeta.objectives.options import PolicyGradientOptions

    outputs, actions = outputs_of("categorical", 5)
    data = {"y": actions, "advantages": torch.zeros(1, 5), "log_probs": torch.zeros(5)}
    bonus = open_objective(PolicyGradientOptions(name="likelihood_ratio", entropy=0.5))
    assert bonus.loss(outputs, data) == -0.5 * entropy(outputs, actions).mean()
