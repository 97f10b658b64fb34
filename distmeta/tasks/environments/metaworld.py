"""Meta-World: manipulation tasks of a robot's arm, with the protocols of its benchmarks."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from distmeta.config.problems import choose
from distmeta.core.philox import Purpose, integers, words
from distmeta.core.records import Split
from distmeta.errors import ConfigError
from distmeta.tasks.environments.users import GymnasiumTasks, Spaces
from distmeta.tasks.options.environments import MetaWorldOptions

if TYPE_CHECKING:
    from distmeta.config.sections import TaskOptions


def _package() -> Any:
    try:
        import metaworld
    except ImportError as error:
        raise ConfigError(
            f"tasks.kind = metaworld needs Meta-World ({error}); pip install distmeta[metaworld]"
        ) from None
    return metaworld


@functools.lru_cache(maxsize=16)
def _benchmark(name: str, task: str, seed: int) -> Any:
    """Classes and goals of a benchmark, 50 goals a class; the package's own random numbers stay as they were."""
    package = _package()
    if name != "ml1":
        return {"ml10": package.ML10, "ml45": package.ML45}[name](seed=seed)
    known = package.ML1.ENV_NAMES
    try:
        choose(dict.fromkeys(known), task, "tasks.task")
    except ValueError as error:
        raise ConfigError(str(error)) from None
    return package.ML1(task, seed=seed)


class Arm:
    """An environment of every class of a benchmark, of which that of the task is stepped."""

    def __init__(self, classes: Mapping[str, Any], reward: str) -> None:
        self._classes = classes
        self._reward = reward
        self._made: dict[str, Any] = {}
        self._current: Any = None

    def set_task(self, task: Any) -> None:
        """Choose the class and set its goal."""
        if task.env_name not in self._made:
            self._made[task.env_name] = self._classes[task.env_name](reward_function_version=self._reward)
        self._current = self._made[task.env_name]
        self._current.set_task(task)

    def reset(self, *, seed: int) -> Any:
        """Begin an episode, which the goal decides alone."""
        return self._current.reset()

    def step(self, action: Any) -> Any:
        """One step."""
        return self._current.step(action)

    def close(self) -> None:
        """Close what was made."""
        for environment in self._made.values():
            environment.close()


class MetaWorld(GymnasiumTasks):
    """ML1, ML10 and ML45 of Meta-World 3 (Yu, Quillen, He, Julian, Hausman, Finn, Levine, CoRL 2019).

    Goals are not seen. Training and validation tasks are drawn from the benchmark's training goals, which has no
    validation tasks of its own; meta-test has all of its test classes in turn, and of each its goals in turn. An
    episode succeeds when success is told in any of its steps.
    """

    Options: type[TaskOptions] = MetaWorldOptions

    @classmethod
    def maker(cls, own: Any) -> Callable[[], Any]:
        """Arms with the classes of training and test."""
        found = _benchmark(own.benchmark, own.task, 0)
        classes = {**found.train_classes, **found.test_classes}
        return lambda: Arm(classes, own.reward)

    @classmethod
    def spaces(cls, own: Any) -> Spaces:
        """39 numbers are seen, and 4 between -1 and 1 chosen."""
        return Spaces((39,), 4, -np.ones(4), np.ones(4))

    @classmethod
    def task_of(cls, own: Any, environment: Any, split: Split, seed: int, task: int) -> Any:
        """A class with a goal."""
        found = _benchmark(own.benchmark, own.task, seed % 2**32)
        if split == "test":
            kinds = list(found.test_classes)
            goals = [each for each in found.test_tasks if each.env_name == kinds[task % len(kinds)]]
            return goals[task // len(kinds) % len(goals)]
        drawn = words(seed, split, [task], Purpose.PARAMETERS, 1)[0]
        return found.train_tasks[int(integers(drawn, len(found.train_tasks))[0])]

    @classmethod
    def groups(cls, options: TaskOptions, split: Split, ids: Sequence[int]) -> Sequence[str] | None:
        """The classes of meta-test, where there are several."""
        own = cast(MetaWorldOptions, options)
        kinds = list(_benchmark(own.benchmark, own.task, 0).test_classes)
        return [kinds[task % len(kinds)] for task in ids] if split == "test" and len(kinds) > 1 else None

    @classmethod
    def fingerprint(cls, options: TaskOptions) -> Mapping[str, str]:
        """The versions of what simulates."""
        from importlib.metadata import version

        _package()
        return {name: version(name) for name in ("metaworld", "mujoco", "numpy")}
