"""Episodes of tasks, rolled out with the policy that each task has adapted to so far."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from distmeta.adaptations.base import Batch, Iterative, inner_gradient
from distmeta.adaptations.gradients import transforms
from distmeta.config.schema import Config
from distmeta.core.layout import Layout, Meta
from distmeta.core.philox import Purpose, fractions, normal, words
from distmeta.core.plan import Plan
from distmeta.core.records import Data, Split
from distmeta.core.requests import Start
from distmeta.errors import DataError
from distmeta.estimators.credited import CREDIT, Credited
from distmeta.objectives.distributions import draw, likeliest, log_probability
from distmeta.programs.advantages import FIGURES, Transitions, credits_of
from distmeta.programs.engine.assembly import Assembly
from distmeta.programs.engine.compiling import specialise
from distmeta.programs.policy_assembly import PolicyAssembly
from distmeta.programs.samples import Memory, Use
from distmeta.tasks.base import Episode
from distmeta.tasks.environments.base import Environments
from distmeta.tasks.options.environments import EnvironmentOptions


class Scene(NamedTuple):
    """What somebody who looks on sees after a step of T tasks' E episodes.

    Attributes:
        tasks: the hidden parameters.
        state: of the environments, after the step.
        rewards: (T, E) of the step.
        alive: (T, E) which episodes had not ended before it.
    """

    tasks: Data
    state: Any
    rewards: Tensor
    alive: Tensor


See = Callable[[int, Scene], None]
"""Looks on at episodes: called with the number of the batch, or of the episode of a trial, after every step."""


class Rollouts:
    """Episodes before each inner step, and after the last one: the sample of a meta-step.

    It is a function of the seed, the split, the tasks' ids and the meta-parameters alone. All episodes of a shard are
    simulated at once, in batches of fixed shape: what comes after an episode's end has no weight.

    Args:
        config: of the run.
        parts: the configuration's parts; its network computes by the plan that it follows.
        environments: of the tasks.
        episodes: of every split.
        layout: of the meta-parameters.
        initial: (P,) meta-parameters, for tasks that are asked for without any.
    """

    def __init__(
        self,
        config: Config,
        parts: Assembly,
        environments: Environments,
        episodes: Mapping[Split, Episode],
        layout: Layout,
        initial: Tensor,
    ) -> None:
        self.plan = Plan()
        self._options = cast(EnvironmentOptions, config.tasks)
        self._kind = config.tasks.kind
        self._parts = parts
        self.environments = environments
        self._episodes = episodes
        self._layout = layout
        self._initial = initial
        self._continuous = parts.spec.actions == "continuous"
        self._memory = Memory()
        self._functions: dict[Hashable, Callable[..., Any]] = {}

    def follow(self, plan: Plan) -> None:
        """Compute by this plan from now on."""
        self.plan = plan
        self._functions.clear()

    def prefetch(self, split: Split, shards: Sequence[Sequence[int]]) -> None:
        """Episodes depend on the policy: there is nothing to begin with."""

    def ways(self, split: Split, ids: Sequence[int]) -> int | None:
        """There are no classes."""
        return None

    def alike(self, ids: range) -> list[range]:
        """All tasks are of one size."""
        return [ids]

    def sizes(self) -> tuple[int, float]:
        """All tasks are of one size."""
        return 1, 1.0

    def close(self) -> None:
        """End what the environments have started."""
        self.environments.close()

    def keep(self, start: Start, split: Split, ids: Sequence[int], use: Use) -> tuple[dict[str, Any], bool]:
        """The tasks of a meta-step, and whether they were in memory."""
        steps, theta = use.steps or 0, start.theta.to(self._initial.device)
        return self._memory.keep(start, split, ids, lambda: self.roll_out(theta, split, ids, steps))

    def tasks(self, split: Split, ids: Sequence[int], use: Use) -> dict[str, Any]:
        """The tasks with episodes of the initial policy."""
        return self.roll_out(self._initial, split, ids, use.steps or 0)

    @torch.no_grad()
    def roll_out(
        self,
        theta: Tensor,
        split: Split,
        ids: Sequence[int],
        steps: int,
        *,
        mean: bool = False,
        see: See | None = None,
    ) -> dict[str, Any]:
        """Episodes, and what they say, as a tree of tensors.

        Args:
            theta: (P,) meta-parameters, or (T, P) for each task its own.
            split: of the tasks.
            ids: T of them.
            steps: inner steps K.
            mean: whether returns are those of further episodes with the most likely actions.
            see: looks on at the episodes that adaptation learns from.

        Returns:
            ``episodes``: (T, K, ...) before each inner step; ``query``: (T, ...) after the last one, with the mean
            ``return`` of its episodes and ``return_before`` of the first ones; ``returns``: (T, K + 1) all of them.
        """
        count = len(ids)
        tasks = self.environments.sample(split, ids).support
        # A policy of each task's own from the beginning, so that all batches are computed by the same operations.
        meta = self._layout.unflatten(theta.expand(count, -1))
        own = {name: value.contiguous() for name, value in meta.items()}
        params, state = self._adaptation.init(own)
        batches = []
        for step in range(steps + 1):
            batches.append(self._batch(own, params, tasks, split, ids, step, see))
            if mean:
                batches[-1] |= self._simulate(own, params, tasks, split, ids, step, mean=True).figures()
            if step < steps:
                params, state = self._mapped(("update", step), self._updating(step), own, params, state, batches[-1])
        told = {name: torch.stack([batch.pop(name) for batch in batches], 1) for name in FIGURES if name in batches[0]}
        query = batches.pop()
        inner = {name: torch.stack([batch[name] for batch in batches], 1) for name in query} if batches else {}
        for name, values in told.items():
            query |= {name: values[:, -1], f"{name}_before": values[:, 0]}
        returns = told["return"]
        if isinstance(self._parts.estimator, Credited):
            query[CREDIT] = credits_of(returns[:, -1])
        return {"episodes": inner, "query": query, "returns": returns}

    def _batch(
        self,
        meta: Meta,
        params: Any,
        tasks: Data,
        split: Split,
        ids: Sequence[int],
        step: int,
        see: See | None,
    ) -> dict[str, Tensor]:
        """A batch of episodes with these policies, as data of transitions."""
        data = self._simulate(meta, params, tasks, split, ids, step, see=see).judged(self._options)
        self._check(data, ids, step)
        return data

    def _simulate(
        self,
        meta: Meta,
        params: Any,
        tasks: Data,
        split: Split,
        ids: Sequence[int],
        step: int,
        *,
        mean: bool = False,
        see: See | None = None,
    ) -> Transitions:
        """A batch of episodes, with the most likely actions or drawn ones."""
        noise, resets, steps = self._draws(split, ids, step)
        state = self.environments.reset(tasks, resets)
        alive = torch.ones(resets.shape[:2], dtype=torch.bool, device=resets.device)
        reached = torch.zeros_like(alive) if self._parts.spec.successes else None
        history: list[tuple[Tensor, ...]] = []
        for time in range(self._options.horizon):
            observed = cast(PolicyAssembly, self._parts).normalised(self.environments.observe(tasks, state))
            actions, logs, outputs = self._mapped(
                "act", self._act, meta, params, observed, noise[:, :, time].contiguous()
            )
            if mean:
                actions = likeliest(self._of_actions(outputs), self._continuous)
            state, rewards, ended = self._advance(tasks, state, actions, outputs, alive, steps[:, :, time])
            history.append((observed, actions, logs, outputs, rewards * alive, alive.float()))
            if see:
                see(step, Scene(tasks, state, rewards, alive))
            if reached is not None:
                reached |= alive & self.environments.succeeded(tasks, state)
            alive = alive & ~ended
        found = Transitions(*(torch.stack(each, 2) for each in zip(*history, strict=True)))
        return found._replace(reached=reached)

    def _advance(
        self, tasks: Data, state: Any, actions: Tensor, outputs: Tensor, alive: Tensor, moves: Tensor
    ) -> tuple[Any, Tensor, Tensor]:
        """A step of the environments: their state, rewards (T, E), and which episodes end by it.

        A policy that has diverged acts by what is no number. Environments get 0 in its place, and so that nobody takes
        what follows for its return, its reward is NaN.
        """
        sound = outputs.isfinite().all(-1)
        if self._continuous:
            sound &= actions.isfinite().all(-1)
            actions = torch.where(sound.unsqueeze(-1), actions, 0.0)
        state, rewards, ended = self.environments.step(tasks, state, actions, moves)
        return state, torch.where(sound | ~alive, rewards, torch.nan), ended

    def _act(self, meta: Meta, params: Any, observed: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Actions (E, ...) of one task's policy, the logarithms of their probabilities, and the outputs."""
        outputs = self._adaptation.predict(meta, params, Batch({"x": observed}))
        return *self._drawn(outputs, noise), outputs

    def _drawn(self, outputs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Actions of these outputs, and the logarithms of their probabilities."""
        policy = self._of_actions(outputs)
        actions = draw(policy, noise, self._continuous)
        return actions, log_probability(policy, actions)

    def _of_actions(self, outputs: Tensor) -> Tensor:
        """The outputs that are a distribution of actions."""
        return outputs[..., :-1] if self._options.baseline == "network" else outputs

    def _updating(self, step: int) -> Callable[..., Any]:
        """One task's inner step."""

        def update(meta: Meta, params: Any, state: Any, data: Data) -> Any:
            given = {name: value for name, value in data.items() if name not in FIGURES}
            found = inner_gradient(self._adaptation, params, meta, Batch(given, None, step))
            return self._adaptation.update(params, state, found, meta, step)

        return update

    def _mapped(self, name: Hashable, function: Callable[..., Any], *arguments: Any) -> Any:
        """The function of one task for all of them, recorded where the plan records."""
        if self.plan.running != "mapped":
            return self._looped(function, *arguments)

        def mapped(*given: Any) -> Any:
            with transforms(True):
                return torch.func.vmap(function)(*given)

        if self.plan.compile == "none":
            return mapped(*arguments)
        key = (name, *(leaf.shape for leaf in tree_leaves(arguments)))
        if key not in self._functions:
            self._functions[key] = specialise(mapped, arguments, "graph")
        return self._functions[key](*arguments)

    def _looped(self, function: Callable[..., Any], *arguments: Any) -> Any:
        count = len(tree_leaves(arguments)[0])
        with transforms(self.plan.running != "plain"):
            results = [
                tree_map(torch.detach, function(*tree_map(lambda value, t=t: value[t], arguments)))
                for t in range(count)
            ]
        return tree_map(lambda *values: torch.stack(values), *results)

    def _draws(self, split: Split, ids: Sequence[int], step: int) -> tuple[Tensor, Tensor, Tensor]:
        """All random numbers of a batch of episodes: of actions (T, E, H, A), of beginnings and of steps."""
        own, seed, count = self._options, self._episodes[split].seed, len(ids)
        width = self._parts.spec.outputs if self._continuous else 1
        shape = (own.episodes, own.horizon, width)
        numbers = 2 * -(-int(np.prod(shape)) // 2)
        drawn = words(seed, split, ids, Purpose.ACTIONS, numbers, step)
        noise = (normal(drawn) if self._continuous else fractions(drawn))[:, : int(np.prod(shape))]
        first, each = self.environments.reset_draws, self.environments.step_draws
        resets = fractions(words(seed, split, ids, Purpose.RESETS, own.episodes * first, step))
        moves = fractions(words(seed, split, ids, Purpose.TRANSITIONS, own.episodes * own.horizon * each, step))
        given = (
            noise.reshape(count, *shape),
            resets.reshape(count, own.episodes, first),
            moves.reshape(count, own.episodes, own.horizon, each),
        )
        of_actions, of_resets, of_steps = (torch.from_numpy(part).float().to(self._initial.device) for part in given)
        return of_actions, of_resets, of_steps

    def _check(self, data: Data, ids: Sequence[int], step: int) -> None:
        """Refuse environments that give what is no number; policies that have diverged the outer step judges."""
        finite = {name: data[name].flatten(1).isfinite().all(1) for name in ("x", "y", "outputs")}
        returned = data["return"].isfinite() | ~(finite["y"] & finite["outputs"])
        for sound, what in ((finite["x"], "observations"), (returned, "rewards")):
            if not sound.all():
                task = ids[int((~sound).nonzero()[0])]
                raise DataError(
                    f"tasks.kind = {self._kind}: {what} of task {task} before inner step {step} are not finite; "
                    "correct the environment, or bound the actions"
                )

    @property
    def _adaptation(self) -> Iterative:
        return cast(Iterative, self._parts.adaptation)
