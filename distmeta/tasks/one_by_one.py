"""Families whose tasks the user's code makes one at a time: stacked here, made in other processes where it is slow."""

from __future__ import annotations

import json
import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from distmeta.config.modules import split as split_kind
from distmeta.config.sections import TaskOptions
from distmeta.core.records import InputSpec, Split, TaskBatch, TensorSpec
from distmeta.objectives import OBJECTIVES, objective_name
from distmeta.tasks.base import FIRST_TASK, Episode, TaskFamily, TaskSpec
from distmeta.tasks.making import TaskMaker
from distmeta.tasks.processes import ProcessesGoneError, TaskProcesses
from distmeta.tasks.reading import Arrays, Targets, TaskArrays, TaskName
from distmeta.tasks.repeating import check_repeatable

if TYPE_CHECKING:
    import torch
    from torch import Tensor

log = logging.getLogger(__name__)

SLOW = 2e-4
"""Seconds a task from which another process makes it sooner than it takes to send it."""

SHARE = 0.2
"""Of a worker's time. Sampling that takes less of it is no burden, however slow a single task is."""

WINDOW = 1.0
"""Seconds over which that is measured."""


class OneByOneFamily(TaskFamily, ABC):
    """A family that makes its tasks one at a time; where that takes long, in processes of their own.

    The tasks are the same either way.
    """

    Options: type[TaskOptions]
    _found: ClassVar[dict[tuple[type, str], Mapping[str, Any]]] = {}

    def __init__(self, options: TaskOptions, episodes: Mapping[Split, Episode], device: torch.device) -> None:
        self._options, self._episodes, self._device = options, dict(episodes), device
        self._maker = self.maker(options, episodes)
        self._expected: InputSpec | None = None if options.fitted is None else self.spec(options).inputs
        self._processes: TaskProcesses | None = None
        self._most, self._closed = 0, False
        self._measuring = threading.Lock()
        self._since, self._busy, self._made = time.monotonic(), 0.0, 0

    @classmethod
    @abstractmethod
    def maker(cls, options: TaskOptions, episodes: Mapping[Split, Episode]) -> TaskMaker:
        """What makes the tasks, in this process or another one."""

    @classmethod
    def prepare(cls, options: TaskOptions, episodes: Mapping[Split, Episode]) -> None:
        """Make a few tasks, and see that they are tasks and the same ones again.

        Raises:
            DataError: they are not, or the user's code raises.
        """
        check_repeatable(options.kind, cls.maker(options, episodes))

    @classmethod
    def fingerprint(cls, options: TaskOptions) -> Mapping[str, str]:
        """A hash of a task: where it differs between processes, it depends on more than its id."""
        maker = cls.maker(options, {"train": _episode(options)})
        return {FIRST_TASK: maker.again("train", 0).digest()[:16]}

    @classmethod
    def fit(cls, options: TaskOptions, episodes: Mapping[Split, Episode]) -> Mapping[str, Any]:
        """What one example is, as the training split's task 0 shows it: a trained model needs no data then."""
        found = cls.maker(options, episodes).first("train")
        return {"inputs": found.inputs(), "outputs": found.outputs(targets_of(options, episodes["train"]))}

    @classmethod
    def spec(cls, options: TaskOptions) -> TaskSpec:
        """What :meth:`fit` has found; it is found anew where nobody has kept it."""
        fitted = options.fitted
        if fitted is None:
            key = (cls, json.dumps(options.model_dump(mode="json"), sort_keys=True))
            if key not in cls._found:
                cls._found[key] = cls.fit(options, {"train": _episode(options)})
            fitted = cls._found[key]
        specs = {name: TensorSpec(tuple(each["shape"]), each["dtype"]) for name, each in fitted["inputs"].items()}
        return TaskSpec(specs.get("x", specs), fitted["outputs"])

    def use(self, processes: int) -> None:
        """How many processes may make tasks beside this one."""
        self._most = processes

    @property
    def lot(self) -> int:
        """Tasks to ask for at once, so that every process has work; more would keep the first ones waiting."""
        return 1 if self._processes is None else self._most

    def sample(self, split: Split, ids: Sequence[int]) -> TaskBatch:
        """These tasks, on the family's device (``ids`` stay on the CPU)."""
        import torch

        self._check_fitted()
        made = self._elsewhere(split, ids)
        if made is None:
            began = time.monotonic()
            made = [self._maker.task(split, each) for each in ids]
            self._measure(len(ids), time.monotonic() - began)
        support, query = ([getattr(task, part) for task in made] for part in ("support", "query"))
        return TaskBatch(torch.from_numpy(np.array(ids, dtype=np.int64)), self._stacked(support), self._stacked(query))

    def close(self) -> None:
        """End the processes; whoever waits for tasks gets none."""
        self._closed = True
        self._end_processes()

    def _check_fitted(self) -> None:
        """Refuse tasks that are not what the run's network was built for, once."""
        expected = self._expected
        if expected is not None:  # another thread may be here too
            specs = self._maker.first("train").inputs()
            named = {name: TensorSpec(tuple(each["shape"]), each["dtype"]) for name, each in specs.items()}
            found = named.get("x", named)
            if found != expected:
                raise TaskName(self._options.kind, "train", 0).refuse(
                    f"its examples are {_shapes(found)}, but the run began with {_shapes(expected)}; leave the "
                    "settings under tasks, and the code that they name, as they were"
                )
            self._expected = None

    def _elsewhere(self, split: Split, ids: Sequence[int]) -> list[TaskArrays] | None:
        """The tasks from other processes; ``None`` where there are none that could make them."""
        processes = self._processes
        if processes is None:
            return None
        try:
            return processes.tasks(split, ids) if processes.ready() else None
        except ProcessesGoneError:
            if self._closed:
                raise
            log.warning("the processes that made tasks have died: tasks are made in this one again")
            self._end_processes()
            return None

    def _end_processes(self) -> None:
        with self._measuring:
            self._most = 0
            if self._processes is not None:
                self._processes.close()
                self._processes = None

    def _measure(self, count: int, seconds: float) -> None:
        """Start processes once the tasks of a while show that it is worth it."""
        with self._measuring:
            self._busy, self._made = self._busy + seconds, self._made + count
            elapsed = time.monotonic() - self._since
            if elapsed < WINDOW:
                return
            slow = self._busy > SLOW * self._made and self._busy > SHARE * elapsed
            if slow and self._most > 0 and self._processes is None and split_kind(self._options.kind)[0] != "__main__":
                values = self._options.model_dump(mode="json")
                values["objective"] = objective_name(self._options.objective)  # its settings are not about tasks
                digest = self._maker.first("train").digest()
                self._processes = TaskProcesses(self._options.kind, values, self._episodes, self._most, digest)
                each = 1000 * self._busy / self._made
                log.info("a task takes %.1f ms to make: %d processes make them from now on", each, self._most)
            self._since, self._busy, self._made = time.monotonic(), 0.0, 0

    def _stacked(self, parts: Sequence[Arrays]) -> dict[str, Tensor]:
        import torch

        names = parts[0]
        return {name: torch.from_numpy(np.stack([part[name] for part in parts])).to(self._device) for name in names}


def _episode(options: TaskOptions) -> Episode:
    """The training tasks' sizes, whatever the run's seed."""
    shots, queries = (getattr(options, name, None) or 0 for name in ("shots", "queries"))
    return Episode(shots, queries, seed=0, ways=getattr(options, "ways", None))


def targets_of(options: TaskOptions, episode: Episode) -> Targets:
    """What ``y`` should be in tasks of this size."""
    name = objective_name(options.objective)
    classes = OBJECTIVES[name].classes
    return Targets(name, classes, episode.ways if classes else None)


def _shapes(inputs: InputSpec) -> str:
    """What one example is, in words."""
    named = {"x": inputs} if isinstance(inputs, TensorSpec) else inputs
    return ", ".join(f"{name} {spec.dtype} {spec.shape}" for name, spec in named.items())
