"""What Ray costs: a meta-step in process, on one Ray worker and on two, beside processes that share nothing.

    python benchmarks/overhead.py [--steps 8] [--rounds 6] [--json FILE]

The network is that of Omniglot 5-way 1-shot (conv4-64, exact MAML, meta-batch 32) on the built-in glyph tasks, so that
no data is needed; every worker has one thread. Nothing counts before every worker has computed compiled shards. All
take turns, so that a noisy machine disturbs all alike, and each figure is the median over rounds; ratios are medians of
the rounds' ratios. "Plain processes" compute the same shards with the same code, without Ray, learner or each other:
two of them over one is what this machine has to give, and what two workers over one are to be compared with. It fails
where one of two workers does less than 40 % of the shards.
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import statistics
import time
from collections.abc import Sequence
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from common import say, show, write

from distmeta.config.schema import Config
from distmeta.core.plan import Plan
from distmeta.core.records import Shard
from distmeta.core.requests import Answer, Request, add
from distmeta.core.tree import Sum
from distmeta.loading import load_config
from distmeta.outer.learner import Learner
from distmeta.programs import blueprint
from distmeta.runs.evaluate import cut
from distmeta.tasks import prepare_family
from distmeta.workers import Transport, open_transport
from distmeta.workers.worker import Worker

SETTINGS = {
    "tasks": {"kind": "glyphs", "ways": 5, "shots": 1, "queries": 1},
    "model": {"kind": "conv4", "filters": 64},
    "algorithm": {"name": "maml", "inner_lr": 0.4, "inner_steps": 1},
    "run": {"meta_batch": 32, "tasks_per_shard": 8, "device": "cpu", "steps": 10_000},
    "cluster": {"cpus_per_worker": 0.3},  # all on one Ray, of which one or two are at work at a time
}
WORKERS = {"in process": 0, "1 Ray worker": 1, "2 Ray workers": 2}
PLAIN = {"1 plain process": 1, "2 plain processes": 2}
WARM = 12
"""Shards that every worker computes before anything counts."""
LEAST_SHARE = 0.4
"""Of the shards, for each of two workers."""


class Bench:
    """One transport with a learner of its own."""

    def __init__(self, workers: int) -> None:
        self.config: Config = load_config(SETTINGS, [f"cluster.workers={workers}"])
        self.learner = Learner(self.config.outer, 1, blueprint(self.config).initial_meta())
        self.transport: Transport = open_transport(self.config, None, lambda: None)

    def warm(self) -> None:
        """Until every worker has computed its first shards."""
        while min(self.transport.workers().shards_each) < WARM:
            self.seconds(1)

    def _ask(self, shards: Sequence[Shard], request: Request) -> Answer:
        total = Sum[Answer](len(shards), add)
        for node, part in self.transport.run(request, shards):
            total.add(node, part)
        return total.result()

    def seconds(self, steps: int) -> float:
        """Seconds a meta-step: shards out, gradients back, added, outer step."""
        batch, size = self.config.run.meta_batch, self.config.run.shard
        began = time.perf_counter()
        for _ in range(steps):
            first = self.learner.step * batch
            shards = cut("train", first, batch, size)
            self.transport.prefetch(cut("train", first + batch, batch, size))
            with self.transport.beside_workers():
                self.learner.apply(partial(self._ask, shards))
        return (time.perf_counter() - began) / steps


def compute(plan: Plan, orders: Connection) -> None:
    """A process that computes as many shards as it is told, by this plan, and says that it is done."""
    config = load_config(SETTINGS)
    worker = Worker(config)
    worker.follow(plan)
    state = Learner(config.outer, 1, blueprint(config).initial_meta()).start()
    size, first = config.run.shard, 0
    while count := orders.recv():
        for _ in range(count):
            shards = cut("train", first, 2 * size, size)
            worker.prefetch(shards[1:])
            worker.answer(Request("gradient", state), shards[:1])
            first += size
        orders.send(count)


class Processes:
    """Plain processes, all of which compute at the same time."""

    def __init__(self, plan: Plan) -> None:
        self._pipes = []
        for _ in range(max(PLAIN.values())):
            ours, theirs = multiprocessing.Pipe()
            multiprocessing.get_context("spawn").Process(target=compute, args=(plan, theirs), daemon=True).start()
            self._pipes.append(ours)
        self.seconds(len(self._pipes), WARM)

    def seconds(self, count: int, shards: int) -> float:
        """Seconds a meta-step's shards, each process computing so many."""
        began = time.perf_counter()
        for pipe in self._pipes[:count]:
            pipe.send(shards)
        for pipe in self._pipes[:count]:
            pipe.recv()
        config = load_config(SETTINGS)
        steps = count * shards * config.run.shard / config.run.meta_batch
        return (time.perf_counter() - began) / steps

    def close(self) -> None:
        """End them."""
        for pipe in self._pipes:
            pipe.send(0)


def measure(steps: int, rounds: int) -> tuple[dict[str, list[float]], list[float]]:
    """Seconds a meta-step of everything, a list of rounds each; and the shares of the shards of two workers."""
    prepare_family(load_config(SETTINGS))
    benches = {name: Bench(workers) for name, workers in WORKERS.items()}
    for bench in benches.values():
        bench.warm()
    processes = Processes(benches["in process"].transport.plan)
    pair = benches["2 Ray workers"].transport
    before = pair.workers().shards_each
    try:
        taken: dict[str, list[float]] = {name: [] for name in [*benches, *PLAIN]}
        for _ in range(rounds):
            for name, bench in benches.items():
                taken[name].append(bench.seconds(steps))
            for name, count in PLAIN.items():
                taken[name].append(processes.seconds(count, 4 * steps // count))
        done = [now - then for now, then in zip(pair.workers().shards_each, before, strict=True)]
        return taken, [shards / sum(done) for shards in done]
    finally:
        processes.close()
        for bench in reversed(benches.values()):
            bench.transport.close()


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=8, help="meta-steps a round")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    taken, shares = measure(options.steps, options.rounds)
    batch = load_config(SETTINGS).run.meta_batch
    rows: list[dict[str, str]] = []
    figures: dict[str, dict[str, Any]] = {}
    for name, seconds in taken.items():
        middle = statistics.median(seconds)
        alone = "1 plain process" if name in PLAIN else "1 Ray worker"
        ratios = {
            other: statistics.median(theirs / ours for theirs, ours in zip(taken[other], seconds, strict=True))
            for other in ("in process", alone)
        }
        spread = [min(seconds), max(seconds)]
        figures[name] = {"seconds": middle, "spread": spread, "tasks_per_second": batch / middle, "ratio": ratios}
        rows.append(
            {
                "": name,
                "ms a step": f"{1000 * middle:.1f} ({1000 * spread[0]:.0f}-{1000 * spread[1]:.0f})",
                "tasks/s": f"{batch / middle:.1f}",
                "against in process": f"{ratios['in process']:.2f} x",
                "against one alone": f"{ratios[alone]:.2f} x",
            }
        )
    show(f"a meta-step of {batch} tasks, one thread a worker ({platform.machine()})", rows)
    say("shares of the shards of two workers: " + ", ".join(f"{share:.0%}" for share in shares))
    pairs = (("2 Ray workers", "1 Ray worker"), ("2 plain processes", "1 plain process"))
    gains = [figures[two]["ratio"][one] for two, one in pairs]
    say(f"two Ray workers over one, of what two plain processes give over one: {gains[0] / gains[1]:.2f}")
    write(options.json, "overhead", {"steps": options.steps, "rounds": options.rounds, **figures, "shares": shares})
    if min(shares) < LEAST_SHARE:
        raise SystemExit(f"a worker computed {min(shares):.0%} of the shards, less than {LEAST_SHARE:.0%}")


if __name__ == "__main__":
    main()
