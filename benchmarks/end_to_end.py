"""What training costs beside its meta-gradients: ``distmeta train`` in process against the bare engine.

    python benchmarks/end_to_end.py [--rounds 6] [--steps 40] [--json FILE] [key=value ...]

Omniglot 5-way 1-shot (conv4-64, one exact step, meta-batch 32; the built-in glyph tasks), one thread. The training
loop samples its tasks, aggregates, checks, steps the outer optimizer and logs; the bare engine computes meta-gradients
of tasks that were sampled before. Both take turns in one process, each figure is the median over rounds, the ratio is
the median of the rounds' ratios. Beside it: the share of a step's time in the meta-gradient, and the share in which it
waits for tasks.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from common import say, show, write

import distmeta
from distmeta.config.schema import Config
from distmeta.core.layout import Layout
from distmeta.core.records import TaskBatch
from distmeta.core.requests import Request, Start
from distmeta.loading import load_config
from distmeta.programs import blueprint
from distmeta.programs.samples import Samples
from distmeta.programs.supervised import SupervisedProgram
from distmeta.tasks.base import TaskFamily
from distmeta.workers.worker import Worker

SETTINGS: dict[str, Any] = {
    "tasks": {"kind": "glyphs", "ways": 5, "shots": 1, "queries": 1},
    "model": {"kind": "conv4", "filters": 64},
    "algorithm": {"name": "maml", "inner_lr": 0.4, "inner_steps": 1},
    "run": {"steps": 60_000, "meta_batch": 32, "tasks_per_shard": 8, "device": "cpu"},
    "evaluation": {"tasks": 1},
}


class Ready:
    """A task family whose tasks were sampled before, once."""

    def __init__(self, family: Any, shards: Sequence[range]) -> None:
        self._ready: dict[range, TaskBatch] = {ids: family.sample("train", ids) for ids in shards}

    def sample(self, split: str, ids: range) -> TaskBatch:
        """What lies ready."""
        return self._ready[ids]


class Bare:
    """The engine alone."""

    def __init__(self, config: Config) -> None:
        worker = Worker(config)
        worker.follow(worker.probe())
        self._program = cast(SupervisedProgram, worker.program)
        size = config.run.shard
        self._shards = [range(first, first + size) for first in range(0, config.run.meta_batch, size)]
        samples = cast(Samples, self._program._samples)
        samples._family = cast(TaskFamily, Ready(samples._family, self._shards))
        meta = blueprint(config).initial_meta()
        self._state = Start.of(0, Layout.of(meta).flatten(meta))

    def seconds(self, steps: int) -> float:
        """Seconds a meta-batch of gradients takes."""
        began = time.perf_counter()
        for _ in range(steps):
            for ids in self._shards:
                self._program.answer(Request("gradient", self._state), "train", ids)
        return (time.perf_counter() - began) / steps


def measure(config: Config, rounds: int, steps: int) -> dict[str, Any]:
    """Seconds a step of both, a list of rounds each, and the shares of training."""
    bare = Bare(config)
    bare.seconds(2)
    taken: dict[str, list[float]] = {"train": [], "bare engine": []}
    shares: dict[str, list[float]] = {"compute": [], "waiting for tasks": []}
    with tempfile.TemporaryDirectory() as folder:
        training = distmeta.train(config, Path(folder) / "run")
        for _ in range(5):
            next(training)
        for _ in range(rounds):
            began = time.perf_counter()
            for _ in range(steps):
                record = next(training)
                shares["compute"].append(record.shares["compute"])
                shares["waiting for tasks"].append(record.shares["data"])
            taken["train"].append((time.perf_counter() - began) / steps)
            taken["bare engine"].append(bare.seconds(steps))
        training.close()
    return {"taken": taken, "shares": {name: statistics.mean(each) for name, each in shares.items()}}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=40, help="meta-steps a round")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings of the configuration")
    options = parser.parse_intermixed_args()
    config = load_config(SETTINGS, options.overrides)
    found = measure(config, options.rounds, options.steps)
    taken = found["taken"]
    ratio = statistics.median(b / a for a, b in zip(taken["train"], taken["bare engine"], strict=True))
    usual = {name: statistics.median(each) for name, each in taken.items()}
    batch = config.run.meta_batch
    rows = [{"": name, "ms a step": 1000 * each, "tasks/s": batch / each} for name, each in usual.items()]
    show("a meta-step of 32 tasks in process, one thread", rows)
    say(f"train / bare engine: {ratio:.3f}")
    say("share of a step: " + ", ".join(f"{name} {share:.1%}" for name, share in found["shares"].items()))
    write(options.json, "end_to_end", {"ratio": ratio, "overrides": options.overrides, **found})


if __name__ == "__main__":
    main()
