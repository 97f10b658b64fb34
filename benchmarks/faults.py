"""What a fault costs: the time that a run loses by each kind, against its own undisturbed steps.

    python benchmarks/faults.py [--rounds 3] [--json FILE]

A cluster of two nodes (two workers on the first, one on the second) trains Omniglot's 5-way 1-shot network on built-in
glyph tasks. Every fault strikes in the middle of a step. ``step`` is how much longer that step took than an undisturbed
one; ``in all`` adds what the following steps took longer until as many workers are at work as before, since a run goes
on with fewer. ``noticed`` is the time until the fault was counted. ``cluster.hang_seconds`` is 10, its default, and
Ray's own settings are its defaults too.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import show, write

from distmeta.core.requests import Answer, Request, add
from distmeta.core.tree import Sum
from distmeta.loading import load_config
from distmeta.outer.learner import Learner
from distmeta.programs import blueprint
from distmeta.runs.evaluate import cut
from distmeta.tasks import prepare_family
from distmeta.workers import open_transport

SETTINGS = {
    "tasks": {"kind": "glyphs", "ways": 5, "shots": 1, "queries": 1},
    "algorithm": {"name": "maml", "inner_lr": 0.4, "inner_steps": 1},
    "run": {"meta_batch": 32, "tasks_per_shard": 4, "device": "cpu"},
    "engine": {"compile": "none"},  # so that the network's own code runs, and can raise
    "cluster": {"workers": "auto"},
}
MARK = f"DISTMETA_BENCHMARK={os.getpid()}"
"""Set by ``main``; stands in the environment of all that this process starts."""

PATIENCE = 120.0
"""Seconds after which a cluster that is not back to its strength is an error."""


class Run:
    """A run on a cluster of two nodes."""

    def __init__(self, folder: Path) -> None:
        from ray.cluster_utils import Cluster

        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
        self.second = self.cluster.add_node(num_cpus=1)
        self.cluster.wait_for_nodes()
        model = f"model={{kind: 'module:faults_model.Raising', folder: '{folder}'}}"
        self.config = load_config(SETTINGS, [model, f"cluster.address={self.cluster.address}"])
        prepare_family(self.config)
        self.learner = Learner(self.config.outer, 1, blueprint(self.config).initial_meta())
        self.transport = open_transport(self.config, None, lambda: None)
        self.order = folder / "raise"

    def step(self) -> float:
        """Seconds of a meta-step."""
        began = time.perf_counter()
        shards = cut("train", self.learner.step * 32, 32, 4)

        def ask(request: Request) -> Answer:
            total = Sum[Answer](len(shards), add)
            for node, part in self.transport.run(request, shards):
                total.add(node, part)
            return total.result()

        self.learner.apply(ask)
        return time.perf_counter() - began

    def usual(self) -> float:
        """Seconds of an undisturbed step at full strength, after the first ones."""
        self.recover(self.step)
        for _ in range(5):
            self.step()
        return statistics.median(self.step() for _ in range(15))

    def recover(self, step: Callable[[], float]) -> None:
        """Take steps until all three workers are at work."""
        end = time.monotonic() + PATIENCE
        while self.transport.workers().count < 3 or self.dead_weight():
            step()
            if time.monotonic() > end:
                raise SystemExit(f"the cluster is not back to three workers after {PATIENCE:.0f} s")

    def dead_weight(self) -> bool:
        """Whether a worker that was stopped still counts as one."""
        return any(_state(pid) == "T" for pid in workers())

    def lose(self, strike: Callable[[], None], fault: str) -> dict[str, float]:
        """Seconds lost by a fault that strikes in mid-step."""
        usual = self.usual()
        before = self.transport.faults[fault]
        timer = threading.Timer(usual / 2, strike)
        began = time.perf_counter()
        timer.start()
        first = self.step()
        lost, noticed = [first - usual], 0.0

        def step() -> float:
            nonlocal noticed
            if self.transport.faults[fault] > before and not noticed:
                noticed = time.perf_counter() - began - usual / 2
            lost.append(self.step() - usual)
            return lost[-1]

        end = time.monotonic() + PATIENCE
        while self.transport.faults[fault] == before and time.monotonic() < end:
            step()
        self.heal()
        step()
        self.recover(step)
        return {"usual": usual, "step": lost[0], "in all": sum(lost), "noticed": noticed}

    def kill(self) -> None:
        """The system, or its memory guard, kills a worker."""
        os.kill(workers()[0], signal.SIGKILL)

    def stop(self) -> None:
        """A worker is there and does nothing any more."""
        os.kill(workers()[0], signal.SIGSTOP)

    def fail(self) -> None:
        """The model's code raises once."""
        self.order.touch()

    def lose_host(self) -> None:
        """The second node's Ray is killed, and its worker with it."""
        self.cluster.remove_node(self.second, allow_graceful=False)

    def heal(self) -> None:
        """Another node joins where one was lost; Ray starts nodes in the main thread alone."""
        if not self.second.any_processes_alive():
            self.second = self.cluster.add_node(num_cpus=1)

    def close(self) -> None:
        """End the run and its cluster."""
        self.transport.close()
        self.cluster.shutdown()


def workers() -> list[int]:
    """Process ids of this cluster's workers."""
    found = []
    for path in Path("/proc").iterdir():
        ours = path.name.isdigit() and MARK.encode() in _read(path / "environ").split(b"\0")
        if ours and _read(path / "cmdline").startswith(b"ray::RayWorker"):
            found.append(int(path.name))
    return sorted(found)


def _state(pid: int) -> str:
    return _read(Path(f"/proc/{pid}/stat")).rpartition(b")")[2].split()[:1][0].decode()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it has ended
        return b") ?"


def rows_of(figures: dict[str, list[dict[str, float]]]) -> list[dict[str, Any]]:
    """Medians over the rounds, a row a kind of fault."""
    names = {
        "undisturbed step": "usual",
        "that step took longer by": "step",
        "until three workers again, in all": "in all",
        "noticed after": "noticed",
    }
    return [
        {
            "fault in mid-step": kind,
            **{title: f"{statistics.median(each[name] for each in rounds):.2f} s" for title, name in names.items()},
        }
        for kind, rounds in figures.items()
    ]


def main() -> None:
    """Strike, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    os.environ["DISTMETA_BENCHMARK"] = str(os.getpid())
    here = str(Path(__file__).parent)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    figures: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder))
        kinds: dict[str, tuple[Callable[[], None], str]] = {
            "exception in the model's code": (run.fail, "shards_failed"),
            "worker killed (SIGKILL)": (run.kill, "workers_lost"),
            "worker stopped (SIGSTOP)": (run.stop, "workers_hung"),
            "host lost": (run.lose_host, "nodes_lost"),
        }
        try:
            for _ in range(arguments.rounds):
                for kind, (strike, fault) in kinds.items():
                    figures.setdefault(kind, []).append(run.lose(strike, fault))
        finally:
            run.close()
    show("seconds lost by a fault, medians", rows_of(figures))
    write(arguments.json, "faults", {"figures": figures})


if __name__ == "__main__":
    main()
