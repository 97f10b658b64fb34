"""Locomotion in MuJoCo: all episodes of all tasks in one batch, without a loop over environments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from distmeta.core.philox import Purpose, uniform, words
from distmeta.core.records import Data, Split, TensorSpec
from distmeta.errors import ConfigError
from distmeta.tasks.base import Episode, TaskSpec
from distmeta.tasks.environments.base import Environments, normal_of
from distmeta.tasks.options.environments import HalfCheetahDirOptions, HalfCheetahVelOptions, LocomotionOptions

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from distmeta.config.sections import TaskOptions

FRAMES = 5
"""Steps of the simulation with one action."""

CONTROL_COST = 0.05


def versions() -> dict[str, str]:
    """Of what simulates. Raises ``ConfigError`` where it is not installed."""
    try:
        import gymnasium
        import mujoco
    except ImportError as error:
        raise ConfigError(
            f"tasks in MuJoCo need packages that are not installed ({error}); pip install distmeta[rl]"
        ) from None
    return {"mujoco": mujoco.__version__, "gymnasium": gymnasium.__version__}


class HalfCheetah(Environments):
    """Gymnasium's ``HalfCheetah-v5`` with other rewards: one of the velocity, less 0.05 times the squared controls.

    Observations (17) are positions but that along the track, and velocities. Episodes begin at the initial position
    with noise uniform in [-0.1, 0.1] of positions and normal of deviation 0.1 of velocities, and never end. ``Rollout``
    of MuJoCo simulates all episodes of all tasks at once; it begins its solver anew with each step, so that episodes
    drift away from gymnasium's.
    """

    Options: type[TaskOptions] = LocomotionOptions
    reset_draws: int = 27

    def __init__(self, options: TaskOptions, episodes: Mapping[Split, Episode], device: torch.device) -> None:
        super().__init__(options, episodes, device)
        versions()
        import mujoco
        from gymnasium.envs import mujoco as environments
        from mujoco.rollout import Rollout

        assets = Path(environments.__file__).parent / "assets"
        self._model = mujoco.MjModel.from_xml_path(str(assets / "half_cheetah.xml"))
        self._data = mujoco.MjData(self._model)
        self._rollout = Rollout(nthread=0)
        self._seconds = FRAMES * self._model.opt.timestep

    @classmethod
    def prepare(cls, options: TaskOptions, episodes: Mapping[Split, Episode]) -> None:
        """Check that MuJoCo is there."""
        versions()

    @classmethod
    def fingerprint(cls, options: TaskOptions) -> Mapping[str, str]:
        """The versions of what simulates."""
        return versions()

    @classmethod
    def spec(cls, options: TaskOptions) -> TaskSpec:
        """17 numbers in, 6 out."""
        return TaskSpec(TensorSpec((17,)), outputs=6, program="reinforcement", actions="continuous")

    def reset(self, tasks: Data, draws: Tensor) -> NDArray[np.float64]:
        """(T, E, 19) time, positions, velocities."""
        model, (positions, radii, angles) = self._model, draws.double().cpu().chunk(3, -1)
        state = np.zeros((*positions.shape[:2], 1 + model.nq + model.nv))
        state[..., 1 : 1 + model.nq] = model.qpos0 + 0.2 * positions.numpy() - 0.1
        state[..., 1 + model.nq :] = 0.1 * normal_of(radii, angles).numpy()
        return state

    def observe(self, tasks: Data, state: NDArray[np.float64]) -> Tensor:
        """Positions from the second on, and velocities."""
        import torch

        return torch.from_numpy(state[..., 2:].astype(np.float32)).to(self._device)

    def step(
        self, tasks: Data, state: NDArray[np.float64], actions: Tensor, draws: Tensor
    ) -> tuple[NDArray[np.float64], Tensor, Tensor]:
        """Simulate one action of all episodes."""
        import torch

        scale = cast(LocomotionOptions, self._options).action_scale
        controls = np.clip(actions.double().cpu().numpy() / scale, -1, 1)
        flat = np.repeat(controls.reshape(-1, 1, controls.shape[-1]), FRAMES, axis=1)
        found, _ = self._rollout.rollout(self._model, self._data, state.reshape(len(flat), -1), flat)
        after: NDArray[np.float64] = np.ascontiguousarray(found[:, -1]).reshape(state.shape)
        velocity = torch.from_numpy((after[..., 1] - state[..., 1]) / self._seconds).to(self._device)
        cost = torch.from_numpy(CONTROL_COST * np.square(controls).sum(-1)).to(self._device)
        rewards = (self.reward(tasks, velocity) - cost).float()
        return after, rewards, torch.zeros_like(rewards, dtype=torch.bool)

    def reward(self, tasks: Data, velocity: Tensor) -> Tensor:
        """(T, E) of the velocities (T, E) along the track, in metres a second."""
        raise NotImplementedError


class HalfCheetahDir(HalfCheetah):
    """Run in a direction, forwards or backwards: the velocity in it. Finn, Abbeel, Levine, ICML 2017, section 5.3.2."""

    Options: type[TaskOptions] = HalfCheetahDirOptions

    def parameters(self, episode: Episode, split: Split, ids: Sequence[int]) -> Mapping[str, Any]:
        """Directions (T,), 1 or -1: drawn in training, in turn in evaluation, where both are to be there."""
        if split != "train":
            return {"direction": 1.0 - 2.0 * (np.array(ids, dtype=np.int64) % 2)}
        drawn = words(episode.seed, split, ids, Purpose.PARAMETERS, 1)[:, 0]
        return {"direction": 1.0 - 2.0 * (drawn >> 31)}

    @classmethod
    def groups(cls, options: TaskOptions, split: Split, ids: Sequence[int]) -> Sequence[str] | None:
        """The two tasks, of evaluation."""
        return None if split == "train" else [("forwards", "backwards")[task % 2] for task in ids]

    def reward(self, tasks: Data, velocity: Tensor) -> Tensor:
        """The velocity in the task's direction."""
        return tasks["direction"].double().unsqueeze(1) * velocity


class HalfCheetahVel(HalfCheetah):
    """Run at a velocity: minus the distance to it. Finn, Abbeel, Levine, ICML 2017, section 5.3.2."""

    Options: type[TaskOptions] = HalfCheetahVelOptions

    def parameters(self, episode: Episode, split: Split, ids: Sequence[int]) -> Mapping[str, Any]:
        """Velocities (T,), uniform."""
        fastest = cast(HalfCheetahVelOptions, self._options).fastest
        return {"velocity": fastest * uniform(words(episode.seed, split, ids, Purpose.PARAMETERS, 1)[:, 0])}

    def reward(self, tasks: Data, velocity: Tensor) -> Tensor:
        """Minus the distance to the task's velocity."""
        return -(velocity - tasks["velocity"].double().unsqueeze(1)).abs()
