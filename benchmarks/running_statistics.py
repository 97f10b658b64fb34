"""A run of prototypical networks, with running statistics instead of those of each task, as papers mostly test.

    python benchmarks/running_statistics.py RUN --json FILE

distmeta keeps no running statistics in training. Here they are the mean over batches of training images of what batch
norm sees in them with the run's parameters; the network is then in evaluation mode.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from common import show, write
from torch import Tensor, nn

from distmeta.core.records import Split
from distmeta.errors import ConfigError
from distmeta.programs import blueprint
from distmeta.runs.evaluate import load_snapshot
from distmeta.runs.metrics import mean_ci
from distmeta.tasks import open_family, prepare_family

BATCHES = 100
"""Training tasks whose images give the statistics."""

CHUNK = 20
"""Test tasks that are measured at a time."""


def evaluated(module: nn.Module, family: Any) -> nn.Module:
    """The module in evaluation mode, with statistics of training images."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_running_stats()
            layer.momentum = None  # the mean over all batches
    module.train()
    with torch.no_grad():
        for task in range(BATCHES):
            module(family.sample("train", [task]).query["x"][0])
    return module.eval()


def accuracies(module: nn.Module, family: Any, split: Split, ids: range, ways: int) -> Tensor:
    """(T,) of nearest class means."""
    batch = family.sample(split, ids)
    found = []
    with torch.no_grad():
        for task in range(len(ids)):
            support, query = (module(part["x"][task]) for part in (batch.support, batch.query))
            labels = batch.support["y"][task]
            means = torch.stack([support[labels == label].mean(0) for label in range(ways)])
            nearest = torch.cdist(query, means).argmin(1)
            found.append((nearest == batch.query["y"][task]).double().mean())
    return torch.stack(found)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    snapshot, config = load_snapshot(options.run, options.overrides, with_data=True)
    if config.algorithm.adaptation != "prototypes":
        raise ConfigError(f"algorithm.adaptation = {config.algorithm.adaptation}: this is for prototypes")
    prepare_family(config)
    family, parts = open_family(config, torch.device("cpu")), blueprint(config)
    module = parts.build()  # type: ignore[attr-defined]
    module.load_state_dict(parts.module_state(snapshot.meta))
    module = evaluated(module, family)
    tasks, ways = config.evaluation.tasks, int(config.evaluation.ways or 0)
    parts_ = [
        accuracies(module, family, "test", range(first, min(first + CHUNK, tasks)), ways)
        for first in range(0, tasks, CHUNK)
    ]
    figure = mean_ci(torch.cat(parts_))
    shown = f"{100 * figure['mean']:.2f} ± {100 * figure['ci95']:.2f} %"
    show(f"meta-test, {tasks:,} tasks", [{"statistics": "running", "accuracy": shown}])
    write(options.json, "running_statistics", {"tasks": tasks, "accuracy": {"running statistics": figure}})


if __name__ == "__main__":
    main()
