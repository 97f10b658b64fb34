"""Locomotion in MuJoCo: all episodes of all tasks in one batch, without a loop over environments."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, cast

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

log = logging.getLogger(__name__)

NOISE = 0.1
"""Of positions, uniform to both sides, and of velocities, the deviation, as an episode begins."""


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


class Bodies(NamedTuple):
    """Bodies of T tasks in E episodes each.

    Attributes:
        values: (T, E, S) time, positions, velocities.
        models: what they are made of: one for all, or T E of them.
    """

    values: NDArray[np.float64]
    models: Sequence[Any]


class Locomotion(Environments):
    """A body of gymnasium's, of version 5, with rewards of its own.

    Observations are positions but the first ``hidden`` ones, which say where it is, and velocities. Episodes begin at
    the initial position with noise. ``Rollout`` of MuJoCo simulates all episodes of all tasks at once; it begins its
    solver anew with each step, so that episodes drift away from gymnasium's. Observations of contact forces, which some
    publications have, are left out.

    Attributes:
        body: name of gymnasium's file.
        hidden: how many positions are not seen.
        sizes: numbers of positions, velocities and controls.
        noise: see :data:`NOISE`.
        frames: steps of the simulation with one action.
        cost: of the squared controls.
    """

    Options: type[TaskOptions] = LocomotionOptions
    body: ClassVar[str]
    hidden: ClassVar[int] = 1
    sizes: ClassVar[tuple[int, int, int]] = (9, 9, 6)
    noise: ClassVar[float] = NOISE
    frames: ClassVar[int] = 5
    cost: ClassVar[float]

    def __init__(self, options: TaskOptions, episodes: Mapping[Split, Episode], device: torch.device) -> None:
        super().__init__(options, episodes, device)
        versions()
        import mujoco
        from gymnasium.envs import mujoco as environments
        from mujoco.rollout import Rollout

        assets = Path(environments.__file__).parent / "assets"
        with _warnings_logged():
            self._model = mujoco.MjModel.from_xml_path(str(assets / f"{self.body}.xml"))
        self._data = mujoco.MjData(self._model)
        self._rollout = Rollout(nthread=0)
        self._drawing: tuple[Any, Any, Any] | None = None
        self._seconds = self.frames * self._model.opt.timestep

    @property
    def reset_draws(self) -> int:  # type: ignore[override]
        """A number for each position, and two for each velocity."""
        return self.sizes[0] + 2 * self.sizes[1]

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
        """Positions and velocities in, controls out."""
        positions, velocities, controls = cls.sizes
        seen = TensorSpec((positions - cls.hidden + velocities,))
        return TaskSpec(seen, outputs=controls, program="reinforcement", actions="continuous")

    def reset(self, tasks: Data, draws: Tensor) -> Bodies:
        """Time, positions, velocities."""
        count, size = self.sizes[0], self.sizes[1]
        numbers = draws.double().cpu()
        positions, radii, angles = numbers[..., :count], numbers[..., count:-size], numbers[..., -size:]
        values = np.zeros((*positions.shape[:2], 1 + count + size))
        values[..., 1 : 1 + count] = self._model.qpos0 + 2 * self.noise * positions.numpy() - self.noise
        values[..., 1 + count :] = self.noise * normal_of(radii, angles).numpy()
        return Bodies(values, self.models(tasks, values.shape[1]))

    def models(self, tasks: Data, episodes: int) -> Sequence[Any]:
        """What the bodies of these tasks are made of: one model for all, or one for each episode."""
        return [self._model]

    def observe(self, tasks: Data, state: Bodies) -> Tensor:
        """Positions but the first ones, and velocities."""
        import torch

        return torch.from_numpy(state.values[..., 1 + self.hidden :].astype(np.float32)).to(self._device)

    def step(self, tasks: Data, state: Bodies, actions: Tensor, draws: Tensor) -> tuple[Bodies, Tensor, Tensor]:
        """Simulate one action of all episodes."""
        import torch

        scale, values = cast(LocomotionOptions, self._options).action_scale, state.values
        controls = np.clip(actions.double().cpu().numpy() / scale, -1, 1)
        flat = np.repeat(controls.reshape(-1, 1, controls.shape[-1]), self.frames, axis=1)
        found, _ = self._rollout.rollout(state.models, self._data, values.reshape(len(flat), -1), flat)
        after: NDArray[np.float64] = np.ascontiguousarray(found[:, -1]).reshape(values.shape)
        before, now = (torch.from_numpy(each[..., 1:]).to(self._device) for each in (values, after))
        cost = torch.from_numpy(self.cost * np.square(controls).sum(-1)).to(self._device)
        rewards = (self.reward(tasks, before, now) - cost).float()
        return Bodies(after, state.models), rewards, self.ended(now)

    def draw(self, state: Bodies, task: int, episode: int, height: int, width: int) -> NDArray[np.uint8] | None:
        """By MuJoCo, off screen, with a camera that follows the body."""
        import mujoco

        at = task * state.values.shape[1] + episode
        model = state.models[at if len(state.models) > 1 else 0]
        if self._drawing is None or self._drawing[0] is not model:
            self.close()
            self._drawing = (model, mujoco.MjData(model), renderer(model, height, width))
        _, data, drawing = self._drawing
        positions = self.sizes[0]
        data.qpos[:], data.qvel[:] = np.split(state.values[task, episode, 1:], [positions])
        mujoco.mj_forward(model, data)
        drawing.update_scene(data, camera="track")
        drawn: NDArray[np.uint8] = drawing.render().copy()
        return drawn

    def close(self) -> None:
        """End what draws."""
        if self._drawing is not None:
            self._drawing[2].close()
            self._drawing = None

    def reward(self, tasks: Data, before: Tensor, after: Tensor) -> Tensor:
        """(T, E) before the controls' cost, of positions and velocities (T, E, ...) before a step and after it."""
        raise NotImplementedError

    def ended(self, after: Tensor) -> Tensor:
        """(T, E) which episodes have ended."""
        return after.new_zeros(after.shape[:2]).bool()

    def velocity(self, before: Tensor, after: Tensor, places: int = 1) -> Tensor:
        """(T, E, places) of the first positions, in metres a second."""
        moved = after[..., :places] - before[..., :places]
        return moved / float(self._seconds)


class HalfCheetah(Locomotion):
    """Gymnasium's ``HalfCheetah-v5``, whose controls cost 0.05 times their squares. Episodes never end."""

    body = "half_cheetah"
    cost = 0.05


class HalfCheetahDir(HalfCheetah):
    """Run in a direction, forwards or backwards: the velocity in it. Finn, Abbeel, Levine, ICML 2017, section 5.3.2."""

    Options: type[TaskOptions] = HalfCheetahDirOptions

    def parameters(self, episode: Episode, split: Split, ids: Sequence[int]) -> Mapping[str, Any]:
        """Directions (T,), see :func:`two_ways`."""
        return {"direction": two_ways(episode, split, ids)}

    @classmethod
    def groups(cls, options: TaskOptions, split: Split, ids: Sequence[int]) -> Sequence[str] | None:
        """The two tasks, of evaluation."""
        return groups_of_ways(split, ids)

    def reward(self, tasks: Data, before: Tensor, after: Tensor) -> Tensor:
        """The velocity in the task's direction."""
        return tasks["direction"].double().unsqueeze(1) * self.velocity(before, after).squeeze(-1)


class HalfCheetahVel(HalfCheetah):
    """Run at a velocity: minus the distance to it. Finn, Abbeel, Levine, ICML 2017, section 5.3.2."""

    Options: type[TaskOptions] = HalfCheetahVelOptions

    def parameters(self, episode: Episode, split: Split, ids: Sequence[int]) -> Mapping[str, Any]:
        """Velocities (T,), uniform."""
        fastest = cast(HalfCheetahVelOptions, self._options).fastest
        return {"velocity": fastest * uniform(words(episode.seed, split, ids, Purpose.PARAMETERS, 1)[:, 0])}

    def reward(self, tasks: Data, before: Tensor, after: Tensor) -> Tensor:
        """Minus the distance to the task's velocity."""
        return -(self.velocity(before, after).squeeze(-1) - tasks["velocity"].double().unsqueeze(1)).abs()


@contextmanager
def _warnings_logged() -> Iterator[None]:
    """MuJoCo's warnings, as of settings of gymnasium's files that are out of date, go to the log.

    By itself it prints them and writes a file to the working directory.
    """
    import mujoco

    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(lambda message: log.debug("MuJoCo: %s", message))
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(before)


def renderer(model: Any, height: int, width: int) -> Any:
    """What draws a model off screen.

    Raises:
        ConfigError: this machine has nothing that can.
    """
    import mujoco

    try:
        return mujoco.Renderer(model, height, width)
    except Exception as error:  # whatever the libraries of OpenGL raise
        raise ConfigError(
            f"MuJoCo cannot draw on this machine ({type(error).__name__}: {error}); install an OpenGL library "
            "(libegl1, or libosmesa6 with MUJOCO_GL=osmesa)"
        ) from None


def two_ways(episode: Episode, split: Split, ids: Sequence[int]) -> NDArray[np.float64]:
    """(T,) 1 or -1, one of each in every two tasks: in training in an order that is drawn, in evaluation in turn.

    Were they independent, a meta-batch with more of one of them would draw the policy there before it adapts.
    """
    behind = np.array(ids, dtype=np.int64) % 2
    if split == "train":
        pairs = [task // 2 for task in ids]
        behind ^= (words(episode.seed, split, pairs, Purpose.PARAMETERS, 1)[:, 0] >> 31).astype(np.int64)
    return np.where(behind, -1.0, 1.0)


def groups_of_ways(split: Split, ids: Sequence[int]) -> list[str] | None:
    """Their names, of evaluation."""
    return None if split == "train" else [("forwards", "backwards")[task % 2] for task in ids]
