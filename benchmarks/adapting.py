"""Thousands of given tasks: the rate of ``distmeta.adapt`` on Ray workers, over the engine's own on as many processes.

    python benchmarks/adapting.py [--tasks 10000] [--workers 2] [key=value ...]

Untrained MAML, 5 ways, 1 shot, 5 inner steps, 15 queries a class, on images of Omniglot's size. The bare engine adapts
to tasks in memory and predicts, in one process with one thread for each worker, side by side. Ends with an error where
a task's bits differ from those that it gets alone.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from pathlib import Path
from typing import Any

import torch
from common import write

import distmeta
from distmeta.loading import load_config
from distmeta.programs.engine.assembly import Assembly
from distmeta.runs.adapting import TASKS_A_CALL
from distmeta.runs.inference import MetaLearner

SETTINGS: dict[str, Any] = {
    "tasks": {"kind": "glyphs", "ways": 5, "shots": 1, "queries": 15},
    "model": {"kind": "conv4", "filters": 64},
    "algorithm": {"name": "maml", "inner_lr": 0.4, "inner_steps": 5},
    "cluster": {"workers": 0},
}
DISTINCT = 256
"""Tasks that are drawn; they come again and again."""


def learner_of(overrides: list[str]) -> MetaLearner:
    """The learner, untrained."""
    config = load_config(SETTINGS, overrides)
    return MetaLearner(config, Assembly(config).initial_meta())


def tasks() -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Tasks of noise, which costs as much as anything."""
    draw = torch.Generator().manual_seed(0)
    images = torch.rand(DISTINCT, 80, 1, 28, 28, generator=draw)
    return [(each[:5], torch.arange(5), each[5:]) for each in images]


def bare(overrides: list[str], seconds: float, start: Any, rates: Any) -> None:
    """The engine alone in one process: tasks a second."""
    learner, given = learner_of(overrides), tasks()[:TASKS_A_CALL]

    def once() -> None:
        models = learner.adapt_batch([(x, y) for x, y, _ in given])
        learner.predict_batch(models, [query for *_, query in given])

    for _ in range(3):
        once()
    start.wait()
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        once()
        count += len(given)
    rates.put(count / (time.perf_counter() - began))


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    start, rates = context.Barrier(options.workers), context.Queue()
    given = (options.overrides, options.seconds, start, rates)
    processes = [context.Process(target=bare, args=given) for _ in range(options.workers)]
    for process in processes:
        process.start()
    engine = sum(rates.get() for _ in processes)
    for process in processes:
        process.join()
    learner, known = learner_of(options.overrides), tasks()
    alone = [next(distmeta.adapt(learner, [task])) for task in known[:4]]
    stream = (known[number % DISTINCT] for number in range(options.tasks))
    times, wrong = [], 0
    for number, found in enumerate(distmeta.adapt(learner, stream, workers=options.workers)):
        times.append(time.perf_counter())
        if number % DISTINCT < len(alone):
            wrong += int(not torch.equal(found, alone[number % DISTINCT]))
    first = len(times) // 5  # workers are starting, and recording
    rate = (len(times) - first) / (times[-1] - times[first])
    result = {"engine_tasks_per_second": engine, "adapt_tasks_per_second": rate, "ratio": rate / engine}
    result["other_bits"] = wrong
    print(json.dumps(result, indent=1))
    write(options.json, "adapting", result)
    if wrong:
        sys.exit(f"{wrong} tasks have other bits than alone")


if __name__ == "__main__":
    main()
