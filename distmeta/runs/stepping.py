"""Meta-steps: what the outer step asks is answered by all workers, summed in the fixed tree."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from distmeta.config.schema import Config
from distmeta.core.records import Shard
from distmeta.core.requests import Answer, Request, add
from distmeta.core.tree import Sum
from distmeta.errors import NonFiniteError
from distmeta.outer.base import Outcome
from distmeta.outer.learner import Learner
from distmeta.runs.evaluate import cut
from distmeta.workers import Transport

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stepped:
    """A meta-step that was done.

    Attributes:
        outcome: what the outer step did.
        skipped: whether it was skipped, its loss or meta-gradient not being finite.
        adding: seconds that the driver spent on adding answers up and on the outer step.
        seconds: what the workers' time went to, over all that was asked.
    """

    outcome: Outcome
    skipped: bool
    adding: float
    seconds: Mapping[str, float]


class Stepper:
    """Does meta-steps with a learner and workers.

    Attributes:
        skips: steps that were skipped in a row, up to now.
        whole: false while the outer step changes the learner, which is no state to keep.
    """

    def __init__(self, config: Config, learner: Learner, transport: Transport) -> None:
        self._config = config
        self._learner = learner
        self._transport = transport
        self._waiting = 0.0  # seconds of the step in which the driver did not add
        self._asked = 0
        self._seconds: dict[str, float] = {}
        self.skips = 0
        self.whole = True

    def step(self) -> Stepped:
        """One meta-step.

        Raises:
            NonFiniteError: its loss or meta-gradient is not finite, and it may not be skipped.
        """
        began, self._waiting, self._asked, self._seconds = time.perf_counter(), 0.0, 0, {}
        with self._transport.beside_workers():
            outcome = self._learner.apply(self._ask)
        self.whole = True
        adding = time.perf_counter() - began - self._waiting
        if not outcome.failed:
            self.skips = 0
            return Stepped(outcome, False, adding, self._seconds)
        bound = self._config.outer.max_skips if self._config.outer.on_nonfinite == "skip" else 0
        if self.skips >= bound:
            raise self._nonfinite(outcome.nonfinite, outcome.answer.tasks)
        self._learner.skip()
        self.skips += 1
        log.warning("meta-step %d skipped: its loss or meta-gradient is not finite", self._learner.step)
        return Stepped(outcome, True, adding, self._seconds)

    def _ask(self, request: Request) -> Answer:
        """The whole meta-batch's answer."""
        step = self._learner.step
        shards = self._shards(step)
        if not self._asked and step + 1 < self._config.run.steps:
            self._transport.prefetch(self._shards(step + 1))
        self._asked += 1
        self.whole = True
        total = Sum[Answer](len(shards), add)
        waiting = time.perf_counter()
        for node, part in self._transport.run(request, shards):
            self._waiting += time.perf_counter() - waiting
            total.add(node, part)  # while the workers compute the next ones
            waiting = time.perf_counter()
        self._waiting += time.perf_counter() - waiting
        self.whole = False  # what is asked last is followed by a change
        answer = total.result()
        for name, spent in answer.seconds.items():
            self._seconds[name] = self._seconds.get(name, 0.0) + spent
        return answer

    def _shards(self, step: int) -> list[Shard]:
        run = self._config.run
        return cut("train", step * run.meta_batch, run.meta_batch, run.shard)

    def _nonfinite(self, bad: Sequence[int], tasks: int) -> NonFiniteError:
        """What ends a run at a meta-step; ``bad`` are the tasks that were not finite, where they are known."""
        step, skips, outer = self._learner.step, self.skips, self._config.outer
        ids = bad or range(step * self._config.run.meta_batch, step * self._config.run.meta_batch + tasks)
        named = ", ".join(map(str, ids[:8])) + (f" and {len(ids) - 8} more" if len(ids) > 8 else "")
        what = f"the loss or meta-gradient of meta-step {step + 1} is not finite (training tasks {named})"
        advice = "Try a lower algorithm.inner_lr or outer.lr, or outer.clip_norm=10"
        if outer.on_nonfinite == "stop":
            return NonFiniteError(
                f"{what}. Nothing was changed by it. {advice}, or outer.on_nonfinite=skip to leave such steps out"
            )
        return NonFiniteError(
            f"{what}, and the {skips} before it were skipped for the same reason, as many in a row as "
            f"outer.max_skips = {outer.max_skips} allows. Nothing was changed by them. {advice}, in a new run; with a "
            "larger outer.max_skips this one goes on (--resume)"
        )
