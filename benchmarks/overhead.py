"""What Ray costs: a meta-step in process, on one Ray worker and on two, measured in turns in one run.

    python benchmarks/overhead.py [--steps 8] [--rounds 6] [--json FILE]

The network is that of Omniglot 5-way 1-shot (conv4-64, exact MAML, meta-batch 32) on the built-in glyph tasks, so that
no data is needed; every worker has one thread. The three take turns, so that a noisy machine disturbs all alike, and
each figure is the median over rounds; ratios are medians of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path
from typing import cast

from rich.console import Console
from rich.table import Table

from distmeta.config import Config, load_config
from distmeta.evaluate import cut
from distmeta.learner import Learner
from distmeta.programs import blueprint
from distmeta.records import MetaGradient
from distmeta.tasks import prepare_family
from distmeta.transports import Transport, open_transport
from distmeta.tree import Sum, add

SETTINGS = {
    "tasks": {"kind": "glyphs", "ways": 5, "shots": 1, "queries": 1},
    "model": {"kind": "conv4", "filters": 64},
    "algorithm": {"name": "maml", "inner_lr": 0.4, "inner_steps": 1},
    "run": {"meta_batch": 32, "tasks_per_shard": 8, "device": "cpu"},
    "cluster": {"cpus_per_worker": 0.5},  # all three at once on two cores, of which one is at work at a time
}
WORKERS = {"in process": 0, "1 Ray worker": 1, "2 Ray workers": 2}


class Bench:
    """One transport with a learner of its own."""

    def __init__(self, workers: int) -> None:
        self.config: Config = load_config(SETTINGS, [f"cluster.workers={workers}"])
        self.learner = Learner(self.config.outer, 1, blueprint(self.config).initial_meta())
        self.transport: Transport = open_transport(self.config, None, lambda: None)

    def seconds(self, steps: int) -> float:
        """Seconds a meta-step: shards out, gradients back, added, outer step."""
        batch, size = self.config.run.meta_batch, self.config.run.shard
        began = time.perf_counter()
        for _ in range(steps):
            first = self.learner.step * batch
            shards = cut("train", first, batch, size)
            self.transport.prefetch(cut("train", first + batch, batch, size))
            total = Sum[MetaGradient](len(shards), add)
            for node, part in self.transport.run("gradient", self.learner.state(), shards):
                total.add(node, cast(MetaGradient, part))
            self.learner.apply(total.result())
        return (time.perf_counter() - began) / steps


def measure(steps: int, rounds: int) -> dict[str, list[float]]:
    """Seconds a meta-step of every transport, a list of rounds each."""
    prepare_family(load_config(SETTINGS))
    benches = {name: Bench(workers) for name, workers in WORKERS.items()}
    for bench in benches.values():
        bench.seconds(2)
    try:
        taken: dict[str, list[float]] = {name: [] for name in benches}
        for _ in range(rounds):
            for name, bench in benches.items():
                taken[name].append(bench.seconds(steps))
        return taken
    finally:
        for bench in reversed(benches.values()):
            bench.transport.close()


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=8, help="meta-steps a round")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    taken = measure(options.steps, options.rounds)
    batch = load_config(SETTINGS).run.meta_batch
    table = Table(title=f"a meta-step of {batch} tasks, one thread a worker ({platform.machine()})")
    for column in ("", "ms a step", "tasks/s", "against in process", "against 1 Ray worker"):
        table.add_column(column, justify="left" if not column else "right")
    figures = {}
    for name, seconds in taken.items():
        middle = statistics.median(seconds)
        ratios = {
            other: statistics.median(theirs / ours for theirs, ours in zip(taken[other], seconds, strict=True))
            for other in ("in process", "1 Ray worker")
        }
        figures[name] = {"seconds": middle, "tasks_per_second": batch / middle, "ratio": ratios}
        shown = [f"{ratio:.2f} x" for ratio in ratios.values()]
        table.add_row(name, f"{1000 * middle:.1f}", f"{batch / middle:.1f}", *shown)
    Console().print(table)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
