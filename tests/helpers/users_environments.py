"""Environments of a user's own: a good one, and what may go wrong with others."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete


class Line(gymnasium.Env[Any, Any]):
    """A point on a line that goes to a hidden place."""

    observation_space = Box(-10, 10, (1,), np.float32)
    action_space = Box(-1, 1, (1,), np.float32)

    def __init__(self, fault: str = "", discrete: bool = False) -> None:
        self.fault = fault
        self.end = 0.0
        self.episodes = 0
        self.steps = 0
        self.total = 0
        if fault == "double":
            self.action_space = Box(-0.1, 0.1, (1,), np.float64)
        if fault == "whole":
            self.action_space = Box(-2, 2, (1,), np.int64)
        if discrete:
            self.action_space = Discrete(3)  # type: ignore[assignment]
        if fault == "image":
            self.observation_space = Box(0, 1, (3, 3), np.float32)

    def sample_task(self, generator: np.random.Generator) -> float:
        return float(generator.uniform(-1, 1))

    def set_task(self, task: float) -> None:
        self.end = task

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        self.episodes += 1
        self.place = self.np_random.uniform(-0.1, 0.1)
        if self.fault == "remembers":
            self.place += 0.01 * self.episodes
        seen = np.array([self.place], dtype=np.float32)
        return seen if self.fault == "old reset" else (seen, {})  # type: ignore[return-value]

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        self.total += 1
        if self.fault == "raises" and self.steps == 3:
            raise RuntimeError("the motor is broken")
        if self.fault == "exits":
            raise SystemExit(0)
        if self.fault == "double":
            assert self.action_space.contains(action)
        moved = float(action[0]) if isinstance(self.action_space, Box) else 0.1 * (int(action) - 1)
        assert abs(moved) <= 1
        self.place += 0.1 * moved
        reward = float("nan") if self.fault == "nan" and self.steps == 2 else -abs(self.place - self.end)
        shape = 2 if self.fault == "grows" and self.steps == 2 else 1
        seen = np.full(shape, self.place, dtype=np.float32)
        there = abs(self.place - self.end) < 0.02 or (self.fault == "leaks" and self.total >= 8)
        if self.fault == "vector":
            reward = np.array([reward])  # type: ignore[assignment]
        if self.fault == "old step":
            return seen, reward, there, {}  # type: ignore[return-value]
        return seen, reward, there, False, {} if self.fault == "silent" else {"success": there}


class Bare(gymnasium.Env[Any, Any]):
    """No tasks."""

    observation_space = Box(-1, 1, (1,))
    action_space = Box(-1, 1, (1,))
