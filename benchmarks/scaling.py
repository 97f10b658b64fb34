"""Where the central learner saturates: real vectors of N simulated workers, added by subtrees and one by one.

    python benchmarks/scaling.py [--sizes 0.5 50 500] [--workers 1 2 4 8] [--steps 3] [--shards 32]
        [--alone 256 1024] [--seconds 0.05] [--json FILE]

The workers compute nothing: each returns a vector of ones as soon as it is asked, through the transport, the object
store, the tree and the learner of a real run. So a step is what a meta-step would take if computing took no time, and
the learner's share is the part of it in which the learner did not wait for a vector. "of subtrees" cuts the meta-batch
as a run does (about one subtree a worker), "of shards" sends one vector a shard. Everything shares this machine's
memory and cores; the network of a cluster comes on top.

Then the driver alone, against hundreds of workers that are simulated in its own process (``--alone``; with no number
this is skipped, as the real ones are with ``--workers`` and no number): its dispatcher, its sums and its learner are a
run's, Ray's functions are stood in for, and a worker's answer is there after ``--seconds`` a shard.
Counted is the processor's time of the driver, so other work on the machine matters little; what Ray takes for a message
comes on top (about 0.2 ms, see ``benchmarks/README.md``).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import common
import numpy as np
import ray
import torch
from simulated_ray import CutTransport, simulated_ray, simulated_transport

from distmeta.config.schema import Config
from distmeta.core.plan import Plan
from distmeta.core.records import Shard
from distmeta.core.requests import Answer, Request, add
from distmeta.core.tree import Sum, share
from distmeta.loading import load_config
from distmeta.outer.learner import Learner
from distmeta.outer.options import GradientOptions
from distmeta.runs.evaluate import cut
from distmeta.workers.dispatch import DEPTH
from distmeta.workers.ray.actors import RayTransport
from distmeta.workers.ray.cluster import connect
from distmeta.workers.ray.pool import WorkerPool
from distmeta.workers.ray.worker import Head, Opened
from distmeta.workers.shared import SharedAddress, SharedRow, SharedRows

SETTINGS = {
    "tasks": {"kind": "sinusoid"},
    "model": {"kind": "mlp"},
    "algorithm": {"name": "maml"},
    "cluster": {"cpus_per_worker": 0.1},
}
TASKS_PER_SHARD = 4
WARM_UP = (
    2  # steps that are not measured: they touch memory for the first time, which takes a virtual machine seconds a GB
)
MEGABYTE = 10**6
ALONE_MEGABYTES, ALONE_TASKS, ALONE_SHARDS = 0.5, 8, 4
"""Of the driver alone: parameters, tasks a shard, shards a worker and step."""

ALONE_WARM_UP, ALONE_STEPS = 6, 9
"""Steps until the workers' rates are known, and measured ones."""

SUMS = {False: "of shards", True: "of subtrees"}


@ray.remote
class SimulatedWorker:
    """Answers as a worker does, at once and with ones."""

    def __init__(self) -> None:
        self._ones = np.ones(0, np.float32)
        self._shared: SharedRows | None = None

    def arrive(self) -> str:
        """The node that it is on."""
        return str(ray.get_runtime_context().get_node_id())

    def prepare(self, *_: Any) -> None:
        """Nothing to prepare."""

    def open(self, plan: None, shared: SharedAddress | None) -> Opened:
        """Finds the driver's vectors as a worker does."""
        self._shared = SharedRows.at(shared)
        return Opened({"device": "none"}, Plan(), self._shared is not None)

    def answer(
        self,
        head: Head,
        shards: Sequence[Shard],
        ahead: Sequence[Shard],
        back: SharedRow | None,
        *vectors: np.ndarray | SharedRow,
    ) -> dict[str, Any]:
        """A vector of the meta-parameters' size."""
        if len(self._ones) != vectors[0].size:
            self._ones = np.ones(vectors[0].size, np.float32)
        tasks = sum(shard.count for shard in shards)
        total = {"sums": {"loss": 0.0}, "tasks": tasks, "seconds": {"compute": 0.0, "data": 0.0}}
        if back is None or self._shared is None:
            return {**total, "vectors": {"gradient": self._ones}}
        self._shared.write(back, self._ones)
        return {**total, "vectors": {"gradient": None}}


class SimulatedPool(WorkerPool):
    """Simulated workers; counts the seconds that the learner waits for them."""

    waited = 0.0

    def start(self) -> Any:
        """One simulated worker."""
        return cast(Any, SimulatedWorker).options(num_cpus=self.need["CPU"]).remote()

    def wait(self, work: Collection[Any], seconds: float) -> list[Any]:
        """Wait as a run does, and count it."""
        began = time.perf_counter()
        ready = super().wait(work, seconds)
        self.waited += time.perf_counter() - began
        return ready


class SimulatedTransport(CutTransport):
    """A run's transport over simulated workers."""

    pool_of = SimulatedPool

    def __init__(self, config: Config) -> None:
        super().__init__(config, lambda: None)
        self.open(None)

    @property
    def waited(self) -> float:
        """Seconds that the learner has waited for vectors."""
        return cast(SimulatedPool, self.pool).waited


@dataclass(frozen=True)
class Cost:
    """What a meta-step cost.

    Attributes:
        megabytes: size of the model.
        workers: number of them.
        tree: whether workers sum subtrees.
        vectors: gradient vectors a step.
        moved: megabytes written to the object store a step: the parameters and the gradients.
        seconds: of a step, the median.
        share: part of the step in which the learner was at work.
        limit: tasks a second that the learner supports, if it never waited.
    """

    megabytes: float
    workers: int
    tree: bool
    vectors: int
    moved: float
    seconds: float
    share: float
    limit: float


def measure(transport: SimulatedTransport, megabytes: float, workers: int, shards: int, steps: int) -> Cost:
    """Median of the steps, and of a second's worth at least."""
    learner = Learner(GradientOptions(), steps, {"model/w": torch.zeros(int(megabytes * MEGABYTE / 4))})
    batch = shards * TASKS_PER_SHARD
    taken: list[tuple[float, float, int]] = []
    until = 0.0
    while len(taken) < WARM_UP + steps or time.perf_counter() < until:
        if len(taken) == WARM_UP:
            until = time.perf_counter() + 1
        waited = transport.waited
        began = time.perf_counter()
        vectors = meta_step(transport, learner, cut("train", 0, batch, TASKS_PER_SHARD))
        taken.append((time.perf_counter() - began, transport.waited - waited, vectors))
    seconds, waited, vectors = sorted(taken[WARM_UP:])[(len(taken) - WARM_UP) // 2]
    busy = seconds - waited
    moved = megabytes * (1 + vectors)
    return Cost(megabytes, workers, transport.tree, vectors, moved, seconds, busy / seconds, batch / busy)


def meta_step(transport: RayTransport, learner: Learner, shards: Sequence[Shard]) -> int:
    """A step as a run does it; the number of vectors that came."""
    vectors = 0

    def ask(request: Request) -> Answer:
        nonlocal vectors
        total = Sum[Answer](len(shards), add)
        for node, part in transport.run(request, shards):
            total.add(node, part)
            vectors += 1
            del part
        return total.result()

    learner.apply(ask)
    return vectors


@dataclass(frozen=True)
class Alone:
    """What a meta-step cost the driver by itself.

    Attributes:
        workers: simulated ones.
        shards: of a meta-batch, for each worker.
        tree: whether workers sum subtrees.
        vectors: gradient vectors a step.
        busy: seconds of the processor a step, the median.
        limit: tasks a second that the driver could handle.
    """

    workers: int
    shards: int
    tree: bool
    vectors: int
    busy: float
    limit: float


def measure_alone(workers: int, shards: int, seconds: float, tree: bool, steps: int) -> Alone:
    """The driver against simulated workers with the smallest of the models."""
    with simulated_ray():
        transport = simulated_transport(load_config(SETTINGS, [f"cluster.workers={workers}"]), seconds, tree)
        learner = Learner(GradientOptions(), steps, {"model/w": torch.zeros(int(ALONE_MEGABYTES * MEGABYTE / 4))})
        batch = shards * workers * ALONE_TASKS
        taken: list[tuple[float, int]] = []
        try:
            for _ in range(ALONE_WARM_UP + steps):
                began = time.process_time()
                items = cut("train", 0, batch, ALONE_TASKS)
                transport.prefetch(items)
                vectors = meta_step(transport, learner, items)
                taken.append((time.process_time() - began, vectors))
        finally:
            transport.close()
    busy, vectors = sorted(taken[ALONE_WARM_UP:])[steps // 2]
    return Alone(workers, shards, tree, vectors, busy, batch / busy)


def too_much(megabytes: float, workers: int, vectors: int, free: float) -> str | None:
    """Why a machine with so many megabytes free cannot hold it, if it cannot."""
    held = min(vectors, workers * DEPTH)
    store = megabytes * (1 + held + 3)  # the parameters, what workers have sent, what waits to be added
    heap = megabytes * (workers + 8)  # a vector a worker; parameters, moments, mean and sums of the learner
    room = ray.cluster_resources()["object_store_memory"] / MEGABYTE
    if store > 0.95 * room:
        return f"up to {store:.0f} MB in an object store of {room:.0f} MB"
    if store + heap > 0.9 * free:
        return f"{store + heap:.0f} MB of {free:.0f} MB of free memory"
    return None


def available() -> float:
    """Free memory in megabytes, where the system tells."""
    info = Path("/proc/meminfo")
    if not info.exists():
        return float("inf")
    (line,) = [line for line in info.read_text().splitlines() if line.startswith("MemAvailable")]
    return int(line.split()[1]) * 1024 / MEGABYTE


def table(rows: Sequence[Cost]) -> list[dict[str, Any]]:
    """For people."""
    return [
        {
            "MB": row.megabytes,
            "workers": row.workers,
            "vectors": f"{row.vectors} {SUMS[row.tree]}",
            "MB a step": f"{row.moved:.0f}",
            "ms a step": f"{1000 * row.seconds:.0f}",
            "steps/s": row.seconds**-1,
            "learner": f"{row.share:.0%}",
        }
        for row in rows
    ]


def limits(rows: Sequence[Cost]) -> list[dict[str, Any]]:
    """The highest rate that the learner supports, estimated from the step in which it had the least to do."""
    estimates = []
    for size in dict.fromkeys(row.megabytes for row in rows):
        best = {tree: [row.limit for row in rows if (row.megabytes, row.tree) == (size, tree)] for tree in SUMS}
        estimates.append({"MB": size} | {SUMS[tree]: f"{max(found):.0f}" for tree, found in best.items() if found})
    return estimates


def table_alone(rows: Sequence[Alone]) -> list[dict[str, Any]]:
    """For people."""
    return [
        {
            "workers": row.workers,
            "shards each": row.shards,
            "vectors": f"{row.vectors} {SUMS[row.tree]}",
            "ms of the driver a step": f"{1000 * row.busy:.0f}",
            "us a vector": f"{1e6 * row.busy / row.vectors:.0f}",
            "tasks/s at most": f"{row.limit:.0f}",
        }
        for row in rows
    ]


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--sizes", type=float, nargs="+", default=[0.5, 50, 500], help="megabytes of float32 parameters"
    )
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2, 4, 8], help="real ones; none skips them")
    parser.add_argument("--steps", type=int, default=3, help="measured steps of each kind, at least")
    parser.add_argument("--shards", type=int, default=32, help="shards a meta-step")
    parser.add_argument("--alone", type=int, nargs="*", default=[256, 1024], help="workers simulated in the driver")
    parser.add_argument("--seconds", type=float, default=0.05, help="that such a worker takes for a shard of 8 tasks")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    alone = [
        measure_alone(workers, ALONE_SHARDS, options.seconds, tree, ALONE_STEPS)
        for workers in options.alone
        for tree in (True, False)
    ]
    rows, skipped = measure_all(options) if options.workers else ([], [])
    tasks = options.shards * TASKS_PER_SHARD
    if rows:
        common.show(f"a meta-step of {options.shards} shards ({tasks} tasks) without any computing", table(rows))
        common.show("tasks/s that the learner supports at most", limits(rows))
    if alone:
        common.show(f"the driver alone: {ALONE_MEGABYTES} MB, shards of {ALONE_TASKS} tasks", table_alone(alone))
    figures = {"rows": [asdict(row) for row in rows], "alone": [asdict(row) for row in alone], "skipped": skipped}
    common.write(options.json, "scaling", {"shards": options.shards, **figures})


def measure_all(options: argparse.Namespace) -> tuple[list[Cost], list[str]]:
    """Real workers on a Ray of this machine, by the size of the model; and what it cannot hold."""
    rows: list[Cost] = []
    skipped: list[str] = []
    free = available()
    connect(load_config(SETTINGS, [f"cluster.workers={max(options.workers)}"]))
    for workers in options.workers:
        transport = SimulatedTransport(load_config(SETTINGS, [f"cluster.workers={workers}"]))
        try:
            for size in options.sizes:
                for transport.tree in (False, True):
                    vectors = len(share(options.shards, workers)) if transport.tree else options.shards
                    reason = too_much(size, workers, vectors, free)
                    if reason is None:
                        rows.append(measure(transport, size, workers, options.shards, options.steps))
                    else:
                        name = f"{size:g} MB, {workers} workers, vectors {SUMS[transport.tree]}"
                        skipped.append(f"{name}: skipped, {reason}")
                        print(skipped[-1], file=sys.stderr)
        finally:
            transport.close()
    ray.shutdown()
    return sorted(rows, key=lambda row: row.megabytes), skipped


if __name__ == "__main__":
    main()
