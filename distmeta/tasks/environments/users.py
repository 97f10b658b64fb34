"""Environments of the user's own with gymnasium's interface, one object an episode."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from distmeta.config.importing import own_entry, raised
from distmeta.core.records import SPLITS, Data, Split, TaskBatch, TensorSpec
from distmeta.errors import ConfigError, DataError, DistmetaError
from distmeta.tasks.base import Episode, TaskSpec
from distmeta.tasks.environments.base import Environments
from distmeta.tasks.making import generator_of
from distmeta.tasks.options.environments import GymnasiumOptions

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from torch import Tensor

    from distmeta.config.sections import TaskOptions

KEY = "tasks.environment"
TRIED_STEPS = 10
"""Steps of the episodes by which a fresh environment and a used one are compared."""

_FRACTIONS = 2.0**-24
"""Reset draws are float32: multiples of this are distinct whole numbers."""


class _Wrong(Exception):
    """What an environment gives is not what it should; the message says what."""


class Spaces(NamedTuple):
    """What an environment's spaces are.

    Attributes:
        observation: shape.
        actions: the dimension of actions, or their number.
        low: of continuous actions (A,), -inf where there is no bound; ``None`` for discrete ones.
        high: likewise.
        type: of continuous actions, in the environment.
    """

    observation: tuple[int, ...]
    actions: int
    low: NDArray[np.float64] | None = None
    high: NDArray[np.float64] | None = None
    type: np.dtype[Any] = np.dtype(np.float32)


class UserEpisodes(NamedTuple):
    """Episodes under way.

    Attributes:
        environments: (T, E) objects.
        observed: (T, E, O) float32, what each sees; of ended ones, what it saw last.
        ended: (T, E) which have ended.
        names: task, seed of each episode, for messages.
        step: steps done.
        succeeded: (T, E) which have succeeded in the last step.
    """

    environments: NDArray[np.object_]
    observed: NDArray[np.float32]
    ended: NDArray[np.bool_]
    names: list[list[str]]
    step: int
    succeeded: NDArray[np.bool_]


class GymnasiumTasks(Environments):
    """The user's environments. Those of a shard are kept, and set to new tasks; each steps by itself.

    An episode begins by ``set_task(task)`` and ``reset(seed=...)``; when ``step`` says that it is terminated or
    truncated it is stepped no more. ``sample_task`` gets NumPy's Philox generator keyed by (seed, split, task).
    """

    Options: type[TaskOptions] = GymnasiumOptions
    reset_draws: int = 1

    def __init__(self, options: TaskOptions, episodes: Mapping[Split, Episode], device: torch.device) -> None:
        super().__init__(options, episodes, device)
        self._make = self.maker(self._own)
        self._spaces = self.spaces(self._own)
        self._pool: list[Any] = []

    @classmethod
    def prepare(cls, options: TaskOptions, episodes: Mapping[Split, Episode]) -> None:
        """Make an environment, and see that a used one does as a fresh one."""
        own = cast(GymnasiumOptions, options)
        spaces, make, seed = cls.spaces(own), cls.maker(own), episodes["train"].seed
        fresh, used = make(), make()
        _tried(own, used, cls.task_of(own, used, "train", seed, 1), spaces)
        first = _tried(own, fresh, cls.task_of(own, fresh, "train", seed, 0), spaces)
        second = _tried(own, used, cls.task_of(own, used, "train", seed, 0), spaces)
        for environment in (fresh, used):
            _closed(environment)
        for step, (one, other) in enumerate(zip_longest(first, second, fillvalue=())):
            if len(one) != len(other) or not all(map(np.array_equal, one, other)):
                raise ConfigError(
                    f"{own.named}: after another task an environment is not what a new one is: with the "
                    f"same task, seed and actions they differ after {step} steps; let set_task and reset put back "
                    "everything that an episode changes, and draw random numbers from self.np_random alone"
                )

    @classmethod
    def maker(cls, own: Any) -> Callable[[], Any]:
        """What makes one environment."""
        return factory(own)

    @classmethod
    def spaces(cls, own: Any) -> Spaces:
        """Of every environment."""
        return spaces_of(own)

    @classmethod
    def task_of(cls, own: Any, environment: Any, split: Split, seed: int, task: int) -> Any:
        """What an environment is set to."""
        with _named(own, f"{split} task {task}, sample_task"):
            return environment.sample_task(generator_of(seed, split, task))

    @classmethod
    def spec(cls, options: TaskOptions) -> TaskSpec:
        """By the environment's spaces."""
        spaces = cls.spaces(options)
        return TaskSpec(
            TensorSpec(spaces.observation),
            outputs=spaces.actions,
            program="reinforcement",
            actions="discrete" if spaces.low is None else "continuous",
            successes=cast(GymnasiumOptions, options).success,
        )

    @classmethod
    def fingerprint(cls, options: TaskOptions) -> Mapping[str, str]:
        """The versions of NumPy and gymnasium, whose streams may change between versions."""
        return {"numpy": np.__version__, "gymnasium": _gymnasium().__version__}

    def sample(self, split: Split, ids: Sequence[int]) -> TaskBatch:
        """The tasks' names: what a task is, the environment says when it is set."""
        import torch

        numbers = torch.tensor(list(ids), dtype=torch.int64)
        return TaskBatch(numbers, {"id": numbers, "split": torch.full_like(numbers, SPLITS.index(split))}, {})

    def reset(self, tasks: Data, draws: Tensor) -> UserEpisodes:
        """Set each environment to its task, and begin."""
        shape = cast("tuple[int, int]", tuple(draws.shape[:2]))
        while len(self._pool) < shape[0] * shape[1]:
            self._pool.append(self._make())
        environments = np.array([*self._pool[: shape[0] * shape[1]], None], dtype=object)[:-1].reshape(shape)
        seeds = (draws[..., 0].double().cpu().numpy() / _FRACTIONS).astype(np.int64)
        observed = np.zeros((*shape, *self._spaces.observation), dtype=np.float32)
        names: list[list[str]] = []
        for t, (task, number) in enumerate(zip(tasks["id"].tolist(), tasks["split"].tolist(), strict=True)):
            split = SPLITS[number]
            names.append([f"{split} task {task}, seed {seed}" for seed in seeds[t].tolist()])
            for e in range(shape[1]):
                given = self.task_of(self._own, environments[t, e], split, self._episodes[split].seed, task)
                with _named(self._own, f"{names[t][e]}, reset"):
                    environments[t, e].set_task(given)
                    observed[t, e] = self._observation(_begun(environments[t, e].reset(seed=int(seeds[t, e]))))
        nowhere = np.zeros(shape, dtype=bool)
        return UserEpisodes(environments, observed, nowhere, names, 0, nowhere)

    def observe(self, tasks: Data, state: UserEpisodes) -> Tensor:
        """What each sees."""
        import torch

        return torch.from_numpy(state.observed).to(self._device)

    def step(
        self, tasks: Data, state: UserEpisodes, actions: Tensor, draws: Tensor
    ) -> tuple[UserEpisodes, Tensor, Tensor]:
        """Step each that has not ended."""
        import torch

        given, shape = self._controls(actions), state.ended.shape
        observed, rewards, ended = state.observed.copy(), np.zeros(shape, dtype=np.float32), state.ended.copy()
        succeeded = np.zeros(shape, dtype=bool)
        for t, e in np.argwhere(~state.ended).tolist():
            with _named(self._own, f"{state.names[t][e]}, step {state.step}"):
                seen, reward, terminated, truncated, info = _stepped(state.environments[t, e].step(given[t, e]))
                if self._own.success:
                    succeeded[t, e] = _success(info)
                observed[t, e], rewards[t, e] = self._observation(seen), _reward(reward)
                ended[t, e] = bool(terminated) or bool(truncated)
        after = UserEpisodes(state.environments, observed, ended, state.names, state.step + 1, succeeded)
        return after, torch.from_numpy(rewards).to(self._device), torch.from_numpy(ended).to(self._device)

    def succeeded(self, tasks: Data, state: UserEpisodes) -> Tensor:
        """What the environments' info says."""
        import torch

        return torch.from_numpy(state.succeeded).to(self._device)

    def close(self) -> None:
        """Close all environments."""
        for environment in self._pool:
            _closed(environment)
        self._pool.clear()

    def _controls(self, actions: Tensor) -> Any:
        """Actions as the environments take them."""
        return controls(self._own, self._spaces, actions.cpu().numpy())

    def _observation(self, seen: Any) -> NDArray[np.float32]:
        return observation(seen, self._spaces)

    @property
    def _own(self) -> GymnasiumOptions:
        return cast(GymnasiumOptions, self._options)


def _success(info: Any) -> bool:
    """Whether an episode has succeeded, by what its step tells."""
    if not isinstance(info, Mapping) or "success" not in info:
        raise _Wrong(f"tasks.success is set, and the info of step has no success but {list(info or {})}")
    return bool(info["success"])


def controls(own: GymnasiumOptions, spaces: Spaces, actions: NDArray[Any]) -> NDArray[Any]:
    """A policy's actions (..., A) or (...,) as the environment takes them."""
    if spaces.low is None or spaces.high is None:
        return actions
    wanted = actions.astype(np.float64)
    if own.action_scale is not None:
        wanted = spaces.low + (wanted / own.action_scale + 1) / 2 * (spaces.high - spaces.low)
    given: NDArray[Any] = np.clip(wanted, spaces.low, spaces.high).astype(spaces.type)
    # The nearest number of the environment's type may lie beyond a bound.
    within: NDArray[Any] = np.clip(given, spaces.low.astype(spaces.type), spaces.high.astype(spaces.type))
    return within


def observation(seen: Any, spaces: Spaces) -> NDArray[np.float32]:
    """An observation as an array of float32."""
    found = np.asarray(seen, dtype=np.float32)
    if found.shape != spaces.observation:
        raise _Wrong(f"observations had the shape {spaces.observation}, and now there is one of {found.shape}")
    return cast("NDArray[np.float32]", _finite(found, "observation"))


def factory(own: GymnasiumOptions) -> Callable[[], Any]:
    """What makes one environment.

    Raises:
        ConfigError: there is no such factory.
    """
    _gymnasium()
    make = own_entry(own.environment, KEY, "a factory of environments", functions=True)

    def made() -> Any:
        try:
            environment = make(**own.arguments)
        except (Exception, SystemExit) as error:  # whatever the user's code raises
            raise ConfigError(f"{KEY} = {own.environment} cannot be made: {raised(error)}") from error
        missing = [
            name
            for name in ("reset", "step", "sample_task", "set_task", "observation_space", "action_space")
            if not hasattr(environment, name)
        ]
        if missing:
            raise ConfigError(
                f"{KEY} = {own.environment}: the environment has no {', '.join(missing)}; it needs gymnasium's "
                "interface, sample_task(generator) and set_task(task), and no wrapper that hides them"
            )
        return environment

    return made


def spaces_of(own: GymnasiumOptions) -> Spaces:
    """The spaces of an environment, which is made for it once a process."""
    return _spaces(own.environment, json.dumps(own.arguments, sort_keys=True, default=str), own.action_scale)


@functools.lru_cache(maxsize=64)
def _spaces(kind: str, arguments: str, scale: float | None) -> Spaces:
    own = GymnasiumOptions(environment=kind, arguments=json.loads(arguments), action_scale=scale)
    environment = factory(own)()
    try:
        return _read(environment, own)
    finally:
        _closed(environment)


def _read(environment: Any, own: GymnasiumOptions) -> Spaces:
    from gymnasium.spaces import Box, Discrete

    seen, acts, what = environment.observation_space, environment.action_space, f"{KEY} = {own.environment}"
    if not isinstance(seen, Box) or len(seen.shape) != 1:
        raise ConfigError(f"{what}: observations should be a Box of one dimension, and are {seen}; flatten them")
    if isinstance(acts, Discrete):
        if acts.start:
            raise ConfigError(f"{what}: actions should be counted from 0, and are {acts}")
        return Spaces(seen.shape, int(acts.n))
    if not isinstance(acts, Box) or len(acts.shape) != 1:
        raise ConfigError(f"{what}: actions should be Discrete, or a Box of one dimension, and are {acts}")
    if not np.issubdtype(acts.dtype, np.floating):
        raise ConfigError(
            f"{what}: actions should be floating-point numbers, and are {acts}; let the environment round what it is "
            "given, or make its actions Discrete"
        )
    if own.action_scale is not None and not acts.is_bounded():
        raise ConfigError(f"{what}: tasks.action_scale needs bounds of all actions, and there are not; leave it out")
    low, high = acts.low.astype(np.float64), acts.high.astype(np.float64)
    return Spaces(seen.shape, acts.shape[0], low, high, np.dtype(acts.dtype))


def _tried(own: GymnasiumOptions, environment: Any, task: Any, spaces: Spaces) -> list[tuple[Any, ...]]:
    """Observations, rewards and whether the episode has ended, of a few steps with the same actions each time."""
    with _named(own, "tried before the run"):
        environment.set_task(task)
        found: list[tuple[Any, ...]] = [(observation(_begun(environment.reset(seed=5)), spaces), 0.0, False)]
        drawn = np.random.default_rng(0)
        for _ in range(TRIED_STEPS):
            width = (spaces.actions,) if spaces.low is not None else ()
            action = drawn.normal(size=width) if width else drawn.integers(spaces.actions)
            given = controls(own, spaces, np.asarray(action))
            seen, reward, terminated, truncated, _ = _stepped(environment.step(given))
            found.append((observation(seen, spaces), _reward(reward), bool(terminated or truncated)))
            if terminated or truncated:
                break
    return found


def _begun(told: Any) -> Any:
    """The observation in what ``reset`` has given."""
    if not isinstance(told, tuple) or len(told) != 2 or not isinstance(told[1], Mapping):
        raise _Wrong(f"reset should return (observation, info), info being a dict, and has returned {_told(told)}")
    return told[0]


def _stepped(told: Any) -> tuple[Any, Any, Any, Any, Any]:
    """What ``step`` has given."""
    if not isinstance(told, tuple) or len(told) != 5:
        raise _Wrong(
            f"step should return (observation, reward, terminated, truncated, info), and has returned {_told(told)}"
        )
    return told


def _told(told: Any) -> str:
    return f"a tuple of {len(told)}" if isinstance(told, tuple) else f"a {type(told).__name__}"


def _reward(value: Any) -> Any:
    found = _finite(value, "reward")
    if found.shape != ():
        raise _Wrong(f"the reward should be one number, and is of shape {found.shape}")
    return found


def _finite(value: Any, what: str) -> Any:
    found = np.asarray(value, dtype=np.float32)
    if not np.isfinite(found).all():
        raise _Wrong(f"the {what} is not finite: {value}")
    return found


@contextmanager
def _named(own: GymnasiumOptions, where: str) -> Iterator[None]:
    """Whatever the user's code raises, with the place at which it did."""
    try:
        yield
    except DistmetaError:
        raise
    except _Wrong as error:
        raise DataError(f"{own.named} ({where}): {error}") from None
    except (Exception, SystemExit) as error:  # whatever the user's code raises
        raise DataError(f"{own.named} ({where}): {raised(error)}") from error


def _closed(environment: Any) -> None:
    with suppress(Exception):  # of the user's code, when all is done
        environment.close()


def _gymnasium() -> Any:
    try:
        import gymnasium
    except ImportError as error:
        raise ConfigError(f"tasks.kind = gymnasium needs gymnasium ({error}); pip install distmeta[rl]") from None
    return gymnasium
