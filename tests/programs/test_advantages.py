"""Returns, baselines and advantages against written-out formulas and NumPy's least squares."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from distmeta.programs.advantages import (
    RIDGE,
    Transitions,
    advantages,
    baseline,
    features,
    gains,
    normalised,
    returns_to_go,
)
from distmeta.tasks.options.environments import CartPoleOptions, NavigationOptions

TASKS, EPISODES, HORIZON = 2, 3, 7
LENGTHS = [[7, 3, 1], [7, 7, 5]]


def drawn() -> tuple[Tensor, Tensor, Tensor]:
    """Observations, rewards and what is real."""
    generator = torch.Generator().manual_seed(0)
    seen = 3 * torch.randn(TASKS, EPISODES, HORIZON, 2, generator=generator)
    rewards = torch.randn(TASKS, EPISODES, HORIZON, generator=generator, dtype=torch.float64)
    real = (torch.arange(HORIZON) < torch.tensor(LENGTHS).unsqueeze(-1)).double()
    return seen, rewards, real


def test_returns_by_hand() -> None:
    _, rewards, real = drawn()
    found = returns_to_go(rewards, real, 0.9)
    for task in range(TASKS):
        for episode, length in enumerate(LENGTHS[task]):
            for time in range(HORIZON):
                later = range(time, length)
                wanted = sum(0.9 ** (each - time) * float(rewards[task, episode, each]) for each in later)
                assert float(found[task, episode, time]) == pytest.approx(wanted, abs=1e-12)


def test_the_baseline_is_numpys_least_squares() -> None:
    seen, _, real = drawn()
    targets = returns_to_go(*drawn()[1:], 0.9)
    found = baseline(seen, real, targets)
    for task in range(TASKS):
        kept = real[task].flatten().bool().numpy()
        rows = features(seen)[task].flatten(0, 1).numpy()[kept]
        wanted = targets[task].flatten().numpy()[kept]
        augmented = np.concatenate([rows, np.sqrt(RIDGE) * np.eye(rows.shape[1])])
        weights, *_ = np.linalg.lstsq(augmented, np.concatenate([wanted, np.zeros(rows.shape[1])]), rcond=None)
        np.testing.assert_allclose(found[task].flatten().numpy()[kept], rows @ weights, rtol=1e-6, atol=1e-8)
        assert (found[task].flatten()[torch.from_numpy(~kept)] == 0).all()


def test_generalised_advantages_by_hand() -> None:
    _, rewards, real = drawn()
    values = torch.randn(TASKS, EPISODES, HORIZON, dtype=torch.float64) * real
    found = advantages(rewards, values, real, 0.9, 0.7)
    for task in range(TASKS):
        for episode, length in enumerate(LENGTHS[task]):
            r, v = rewards[task, episode].tolist(), [*values[task, episode].tolist()[:length], 0.0]
            deltas = [r[t] + 0.9 * v[t + 1] - v[t] for t in range(length)]
            for time in range(length):
                wanted = sum(0.63 ** (later - time) * deltas[later] for later in range(time, length))
                assert float(found[task, episode, time]) == pytest.approx(wanted, abs=1e-12)
            assert (found[task, episode, length:] == 0).all()


def test_normalised_and_gains() -> None:
    _, rewards, real = drawn()
    found = normalised(rewards, real)
    for task in range(TASKS):
        kept = found[task][real[task].bool()]
        assert float(kept.mean()) == pytest.approx(0, abs=1e-9)
        assert float(kept.std(correction=0)) == pytest.approx(1, abs=1e-6)
    own = gains(rewards, real, 0.9)
    for time in range(HORIZON):
        present = real[0, :, time].bool()
        discounted = 0.9**time * rewards[0, present, time]
        torch.testing.assert_close(own[0, present, time], discounted - discounted.mean())


def test_observations_without_bounds_leave_the_baseline_finite() -> None:
    seen, rewards, real = drawn()
    assert baseline(1e30 * seen, real, returns_to_go(rewards, real, 0.9)).isfinite().all()
    alike = torch.zeros_like(seen)
    assert baseline(alike, real, returns_to_go(rewards, real, 0.9)).isfinite().all()


def test_values_are_told_in_the_unit_of_the_longest_episode_that_there_may_be() -> None:
    """However short those are that are given."""
    options = CartPoleOptions(kind="cartpole", baseline="network", horizon=9, normalise="none")
    drawn = torch.Generator().manual_seed(0)

    def judged(steps: int) -> dict[str, torch.Tensor]:
        filled = (torch.arange(steps) < 4).float().expand(1, 2, steps)
        outputs, seen, rewards = (
            torch.cat([part, torch.zeros(1, 2, 5, *part.shape[3:])], 2)[:, :, :steps] for part in parts
        )
        actions = torch.zeros(1, 2, steps, dtype=torch.int64)
        return Transitions(seen, actions, rewards * 0, outputs, rewards, filled).judged(options, 9)

    parts = [torch.randn(1, 2, 4, *shape, generator=drawn) for shape in ((3,), (4,), ())]
    short, whole = judged(4), judged(9)
    for name in ("targets", "advantages"):
        assert torch.equal(short[name].view(2, 4), whole[name].view(2, 9)[:, :4])


def test_what_follows_the_end_has_no_part() -> None:
    seen, rewards, real = drawn()
    options = NavigationOptions()
    actions, logs = torch.zeros(*seen.shape), torch.zeros(seen.shape[:-1])
    first = Transitions(seen, actions, logs, actions, rewards, real.float()).judged(options)
    beyond = torch.where(real.bool(), 0.0, 5.0)
    changed = Transitions(seen + beyond.unsqueeze(-1).float(), actions, logs, actions, rewards + beyond, real.float())
    second = changed.judged(options)
    for name in ("advantages", "gains", "return", "weight"):
        torch.testing.assert_close(first[name], second[name])
