"""A trained policy on bandits beside rules that people know, on the same meta-test tasks with the same luck.

    python benchmarks/bandits.py RUN --json FILE

Whether a pull pays is decided by a uniform number of the task and the step, which is the same for every rule. Ties are
decided at random, posteriors begin at Beta(1, 1). The indices' constants are the best of those tried on
meta-validation tasks.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from common import show, write
from numpy.typing import NDArray

from distmeta.core.layout import Layout
from distmeta.core.philox import Purpose, fractions, words
from distmeta.core.records import Split
from distmeta.core.requests import Start
from distmeta.programs import open_program
from distmeta.runs.evaluate import load_snapshot
from distmeta.runs.metrics import mean_ci
from distmeta.tasks import open_family
from distmeta.tasks.base import episodes
from distmeta.tasks.options.environments import BanditOptions

Array = NDArray[np.float64]
Rule = Callable[[Array, Array, int, np.random.Generator], Array]
"""From successes and failures (T, arms), the pulls so far and random numbers to the arms' scores (T, arms)."""

SHARD = 200


def greedy(wins: Array, losses: Array, time: int, random: np.random.Generator) -> Array:
    """The mean of the posterior."""
    return (wins + 1) / (wins + losses + 2)


def thompson(wins: Array, losses: Array, time: int, random: np.random.Generator) -> Array:
    """A draw from the posterior. Thompson 1933."""
    return random.beta(wins + 1, losses + 1)


def ucb(bonus: float) -> Rule:
    """The mean and ``bonus * sqrt(ln t / n)``, every arm once at first; sqrt(2) is UCB1 of Auer et al. 2002."""

    def scores(wins: Array, losses: Array, time: int, random: np.random.Generator) -> Array:
        pulls = wins + losses
        with np.errstate(divide="ignore", invalid="ignore"):
            found = wins / pulls + bonus * np.sqrt(math.log(max(time, 1)) / pulls)
        return np.where(pulls == 0, np.inf, found)

    return scores


def optimistic(prior: float) -> Rule:
    """The mean of a posterior whose prior is ``prior`` successes and no failure."""
    return lambda wins, losses, time, random: (wins + prior) / (wins + losses + prior)


class Luck:
    """The hidden probabilities of a split's first tasks, and what decides whether pulls pay."""

    def __init__(self, config: Any, split: Split, tasks: int) -> None:
        own, seed = cast(BanditOptions, config.tasks), episodes(config)[split].seed
        family = open_family(config, torch.device("cpu"))
        self.chances: Array = family.sample(split, range(tasks)).support["probabilities"].double().numpy()
        pulls = own.episodes * own.horizon
        self.draws = fractions(words(seed, split, range(tasks), Purpose.TRANSITIONS, pulls))

    def best(self, wins: Array, losses: Array, time: int, random: np.random.Generator) -> Array:
        """The hidden probabilities, which no rule knows."""
        return self.chances

    def rewards(self, rule: Rule) -> Array:
        """(T,) total rewards of a rule."""
        count, arms = self.chances.shape
        wins, losses, total = np.zeros((count, arms)), np.zeros((count, arms)), np.zeros(count)
        random, rows = np.random.default_rng(0), np.arange(count)
        for time in range(self.draws.shape[1]):
            scores = rule(wins, losses, time, random)
            best = scores == scores.max(1, keepdims=True)
            arm = (best * random.random(best.shape)).argmax(1)
            paid = self.draws[:, time] < self.chances[rows, arm].astype(np.float32)
            wins[rows, arm] += paid
            losses[rows, arm] += ~paid
            total += paid
        return total


def of_policy(run: str, tasks: int, overrides: list[str]) -> tuple[Any, Array]:
    """The run's configuration, and its total rewards (T,)."""
    snapshot, config = load_snapshot(run, overrides)
    program = open_program(config, torch.device("cpu"))
    program.follow(program.probe(training=False))
    start = Start.of(snapshot.step, Layout.of(snapshot.meta).flatten(snapshot.meta))
    parts = [
        program.evaluate(start, "test", range(first, min(first + SHARD, tasks)), details=False)
        for first in range(0, tasks, SHARD)
    ]
    per_episode = np.concatenate([part.values["return"].numpy() for part in parts])
    return config, per_episode * cast(BanditOptions, config.tasks).episodes


def spread(figure: Mapping[str, Any]) -> str:
    """A mean and its interval."""
    return f"{figure['mean']:.2f} ± {figure['ci95']:.2f}"


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    config, policy = of_policy(options.run, options.tasks, options.overrides)
    trying, luck = Luck(config, "validation", 2000), Luck(config, "test", options.tasks)
    bonus = max(np.arange(0.05, 1.0, 0.05), key=lambda each: trying.rewards(ucb(each)).mean())
    prior = max(np.arange(0.5, 5.0, 0.25), key=lambda each: trying.rewards(optimistic(each)).mean())
    rules: dict[str, Rule] = {
        "greedy on the posterior mean": greedy,
        "Thompson sampling": thompson,
        "UCB1": ucb(math.sqrt(2)),
        f"UCB with bonus {bonus:.2f}": ucb(bonus),
        f"optimistic posterior mean, prior {prior:.2f}": optimistic(prior),
    }
    measured = {"the policy": policy, **{name: luck.rewards(rule) for name, rule in rules.items()}}
    measured["the best arm, always"] = luck.rewards(luck.best)
    figures = {
        name: {"reward": mean_ci(torch.from_numpy(found)), "policy_beyond": mean_ci(torch.from_numpy(policy - found))}
        for name, found in measured.items()
    }
    show(
        f"total reward, {options.tasks:,} meta-test tasks",
        [
            {"rule": name, "reward": spread(each["reward"]), "the policy beyond it": spread(each["policy_beyond"])}
            for name, each in figures.items()
        ],
    )
    write(options.json, "bandits", {"tasks": options.tasks, "reward": figures})


if __name__ == "__main__":
    main()
