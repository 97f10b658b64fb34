"""Settings of reinforcement-learning tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, PositiveInt, model_validator

from distmeta.config.sections import NonNegativeFloat, PositiveFloat, TaskOptions

Fraction = Annotated[float, Field(ge=0, le=1)]


class EnvironmentOptions(TaskOptions):
    """Settings that all reinforcement-learning tasks have.

    ``episodes`` of at most ``horizon`` steps are rolled out before each inner step, and after the last one for the
    outer loss. ``discount`` is that of future rewards, ``gae_lambda`` the lambda of generalised advantage estimation
    (Schulman et al., ICLR 2016): 1 for discounted returns less the baseline. The ``baseline`` is ``linear`` and fitted
    to each batch of a task's episodes, or the ``network`` has an output more, which learns it.
    With ``normalise_observations`` each number that a policy sees has mean 0 and deviation 1 over episodes of random
    actions in training tasks, which are rolled out as a run begins; it is then the same for the whole run.
    Advantages are brought to mean 0 and deviation 1 in each ``task``, or left as they are (``none``).
    """

    objective: str = "likelihood_ratio"

    episodes: PositiveInt = 20
    horizon: PositiveInt = 100
    discount: Fraction = 0.99
    gae_lambda: Fraction = 1.0
    baseline: Literal["linear", "network"] = "linear"
    normalise: Literal["task", "none"] = "task"
    normalise_observations: bool = False


class NavigationOptions(EnvironmentOptions):
    """Settings under ``tasks`` for ``kind: navigation``: a point that moves in the plane to a goal it does not see.

    ``goals`` are drawn from the square [-0.5, 0.5]^2 (``square``; Finn, Abbeel, Levine, ICML 2017) or are four corners
    (``corners``; Rothfuss et al., ICLR 2019). ``reward`` is minus the distance to the goal, or ``sparse``: the progress
    towards the goal, only where the goal is the nearest corner and the start is left; by default what the paper has.
    """

    kind: str = "navigation"
    goals: Literal["square", "corners"] = "square"
    reward: Literal["distance", "sparse"] | None = None

    @model_validator(mode="after")
    def _default_reward(self) -> NavigationOptions:
        if self.reward is None:
            object.__setattr__(self, "reward", "distance" if self.goals == "square" else "sparse")
        if self.reward == "sparse" and self.goals == "square":
            raise ValueError("tasks.reward = sparse is told by the nearest of four corners; set tasks.goals=corners")
        return self


Range = tuple[PositiveFloat, PositiveFloat]
"""The least and the most of a hidden parameter, which is drawn uniformly between them."""


class HiddenOptions(EnvironmentOptions):
    """Settings of tasks with hidden physical parameters, each drawn from a range ``[least, most]``."""

    @model_validator(mode="after")
    def _check_ranges(self) -> HiddenOptions:
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, tuple) and value[0] > value[1]:
                raise ValueError(f"tasks.{name} = {list(value)}: expected [least, most]")
        return self


class PendulumOptions(HiddenOptions):
    """Settings under ``tasks`` for ``kind: pendulum``: a pendulum to be swung up by a bounded torque.

    ``mass`` in kg, ``length`` in m and ``gravity`` in m/s^2 are hidden and differ from task to task.
    """

    kind: str = "pendulum"
    mass: Range = (0.5, 1.5)
    length: Range = (0.7, 1.3)
    gravity: Range = (10.0, 10.0)


class CartPoleOptions(HiddenOptions):
    """Settings under ``tasks`` for ``kind: cartpole``: a pole on a cart that is pushed to the left or right.

    ``pole_mass`` and ``cart_mass`` in kg, half the pole's ``length`` in m and the ``force`` in N are hidden and differ
    from task to task.
    """

    kind: str = "cartpole"
    pole_mass: Range = (0.05, 0.5)
    cart_mass: Range = (0.5, 2.0)
    length: Range = (0.25, 1.0)
    force: Range = (5.0, 15.0)


class BanditOptions(EnvironmentOptions):
    """Settings under ``tasks`` for ``kind: bandits``: ``arms`` that pay 1 with a hidden probability, uniform in [0, 1].

    Each step pulls one; the policy sees nothing, which is a 1.
    """

    kind: str = "bandits"
    arms: Annotated[int, Field(ge=2)] = 10


class MdpOptions(EnvironmentOptions):
    """Settings under ``tasks`` for ``kind: mdps``: tabular decision processes of ``states`` and ``choices``.

    Where a choice leads to is drawn from a flat Dirichlet distribution, its reward from a normal distribution of
    deviation 1, whose mean is itself normal around 1. The policy sees the state, one-hot; episodes begin in state 0.
    """

    kind: str = "mdps"
    states: Annotated[int, Field(ge=2)] = 10
    choices: Annotated[int, Field(ge=2)] = 5
    horizon: PositiveInt = 10


class LocomotionOptions(EnvironmentOptions):
    """Settings of tasks that MuJoCo simulates.

    The policy acts in [-``action_scale``, ``action_scale``], which is mapped to the actuators' bounds; what is beyond
    is cut off. With the initial standard deviation of 1 this decides whether a policy of HalfCheetah learns: it is 10
    in released codes.
    """

    action_scale: PositiveFloat = 10.0


class HalfCheetahDirOptions(LocomotionOptions):
    """Settings under ``tasks`` for ``kind: half_cheetah_dir``: run forwards, or backwards.

    There are two tasks in all, and so are those of evaluation.
    """

    kind: str = "half_cheetah_dir"


class HalfCheetahVelOptions(LocomotionOptions):
    """Settings under ``tasks`` for ``kind: half_cheetah_vel``: run at a velocity from 0 to ``fastest``."""

    kind: str = "half_cheetah_vel"
    fastest: PositiveFloat = 2.0


class AntDirOptions(LocomotionOptions):
    """Settings under ``tasks`` for ``kind: ant_dir``: run in a direction, one of ``two`` or of the whole ``circle``."""

    kind: str = "ant_dir"
    directions: Literal["two", "circle"] = "two"
    action_scale: PositiveFloat = 1.0


class AntGoalOptions(LocomotionOptions):
    """Settings under ``tasks`` for ``kind: ant_goal``: run to a place at most ``radius`` metres away."""

    kind: str = "ant_goal"
    radius: PositiveFloat = 3.0
    action_scale: PositiveFloat = 1.0


class WalkerParamsOptions(LocomotionOptions):
    """Settings under ``tasks`` for ``kind: walker_params``: walk with a body that differs from task to task.

    Masses, inertias, damping and friction differ by factors, whose powers are between plus and minus ``limit``.
    """

    kind: str = "walker_params"
    limit: NonNegativeFloat = 3.0
    action_scale: PositiveFloat = 1.0


class GymnasiumOptions(EnvironmentOptions):
    """Settings under ``tasks`` for ``kind: gymnasium``: environments of one's own with gymnasium's interface.

    ``environment`` is ``module:PACKAGE.FACTORY``, which makes one environment of ``arguments``; it has
    ``sample_task(generator)``, which gives a task, and ``set_task(task)``, after which ``reset`` begins an episode of
    it. With ``success`` the info of ``step`` tells under that name whether the goal is reached, and what part of the
    episodes ever reaches it is measured too. With an ``action_scale`` s the policy acts in [-s, s], which is mapped to
    the bounds of a ``Box``; without one actions are cut off at them.
    """

    kind: str = "gymnasium"
    environment: Annotated[str, Field(pattern="^module:")]
    arguments: Mapping[str, Any] = Field(default_factory=dict)
    success: bool = False
    action_scale: PositiveFloat | None = None

    @property
    def named(self) -> str:
        """The setting that messages are about."""
        return f"tasks.environment = {self.environment}"


class MetaWorldOptions(EnvironmentOptions):
    """Settings under ``tasks`` for ``kind: metaworld``: a robot's arm (Yu et al., CoRL 2019), with hidden goals.

    ``benchmark`` is ``ml1``, goals of one ``task``; ``ml10`` or ``ml45``, so many kinds of task, and five others at
    meta-test. ``reward`` is the version of the rewards; those of different versions cannot be compared.
    """

    kind: str = "metaworld"
    benchmark: Literal["ml1", "ml10", "ml45"] = "ml1"
    task: str = "reach-v3"
    reward: Literal["v1", "v2"] = "v2"
    horizon: Annotated[int, Field(gt=0, le=500)] = 500

    # As of every environment that is stepped by itself; these are not to be chosen.
    success: ClassVar[bool] = True
    action_scale: ClassVar[float | None] = None
    named: ClassVar[str] = "tasks.kind = metaworld"

    @model_validator(mode="after")
    def _check_task(self) -> MetaWorldOptions:
        if self.benchmark != "ml1" and "task" in self.model_fields_set:
            raise ValueError(f"tasks.task = {self.task} is for benchmark ml1, and tasks.benchmark = {self.benchmark}")
        return self
