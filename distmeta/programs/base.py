"""What a program is: the work of a worker, whatever its tasks are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from distmeta.config.schema import Config
from distmeta.core.layout import Layout, Meta
from distmeta.core.plan import Plan
from distmeta.core.records import Split, TaskMetrics
from distmeta.core.requests import Answer, Request, Start


class Program(Protocol):
    """Turns a state and task ids into meta-gradients and measurements, on one device.

    Attributes:
        layout: order of the meta-parameters in the state's flat vector.
        plan: how it computes.
    """

    layout: Layout
    plan: Plan

    def __init__(self, config: Config, device: torch.device) -> None: ...

    @classmethod
    def blueprint(cls, config: Config) -> Blueprint:
        """What the learner needs to know, without data or device."""
        ...

    def probe(self, *, training: bool = True) -> Plan:
        """Decide how to compute, for a whole run or for an evaluation alone, and try it on a few tasks."""
        ...

    def follow(self, plan: Plan) -> None:
        """Compute by this plan from now on; called before the first gradient."""
        ...

    def prefetch(self, split: Split, shards: Sequence[Sequence[int]]) -> None:
        """Begin to sample shards of these ids in the background; later calls with a shard's ids find them ready."""
        ...

    def answer(self, request: Request, split: Split, ids: Sequence[int]) -> Answer:
        """Sums over these tasks, of what the request names."""
        ...

    def evaluate(self, start: Start, split: Split, ids: Sequence[int], *, details: bool) -> TaskMetrics:
        """Each task's measurements after adaptation; ``details`` adds those after every step and inductive ones."""
        ...

    def close(self) -> None:
        """End what was started for sampling; nothing is asked afterwards."""
        ...


class Blueprint(Protocol):
    """What the learner needs to know of a program without its data or device.

    Attributes:
        metric: name of the measurement that models are selected by.
        higher_is_better: which way it improves.
    """

    metric: str
    higher_is_better: bool

    @property
    def notes(self) -> Sequence[str]:
        """What a user should hear about the model: its size, frozen parameters, tied ones."""
        ...

    def initial_meta(self) -> Meta:
        """Initial meta-parameters, a pure function of the configuration."""
        ...

    def module_state(self, meta: Meta) -> dict[str, Any]:
        """The module's full state dict with these meta-parameters, under its own names."""
        ...
