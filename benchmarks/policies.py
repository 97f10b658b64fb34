"""Speed of reinforcement-learning runs: the share of physics, a second worker, and a loop over environments.

    python benchmarks/policies.py physics workers peer --json FILE

``physics``: what part of a worker's time MuJoCo's own simulation is, for HalfCheetahDir with 40 tasks of 20 episodes.
``workers``: environment steps a second of 2 workers over those of 1, in turns, when all of them are at work.
``peer``: MAML-TRPO in this process over MAML-TRPO as PyTorch users write it: one task after the other, environments of
gymnasium in vectors (one process, or a process each, whichever is faster here), curvature products by differentiating
twice (``policies_peer.py``).
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, cast

import torch
from common import show, write
from policies_peer import Peer

import distmeta
from distmeta import load_config
from distmeta.config.schema import Config
from distmeta.core.requests import Request, add
from distmeta.outer.learner import Learner
from distmeta.programs import blueprint, open_program
from distmeta.programs.reinforcement import ReinforcementProgram
from distmeta.tasks.environments.locomotion import Locomotion
from distmeta.workers.worker import keep_freed_memory

ROOT = Path(__file__).parents[1]
METHODS = {"promp": "half_cheetah_dir_promp", "maml_trpo": "half_cheetah_dir_maml_trpo"}


def configured(method: str, *overrides: str) -> Config:
    """HalfCheetahDir with the numbers of tasks and episodes that papers have, compiled as runs of full length are."""
    sizes = ["run.meta_batch=40", "run.tasks_per_shard=10", "tasks.episodes=20", "run.validate_every=0"]
    sizes.append("engine.compile=inductor")
    return load_config(ROOT / "configs" / f"{METHODS[method]}.yaml", [*sizes, *overrides])


class Alone:
    """Meta-steps in this process, of which is known how long physics takes."""

    def __init__(self, config: Config) -> None:
        keep_freed_memory()  # as every worker does
        self.config = config
        self.program = cast(ReinforcementProgram, open_program(config, torch.device("cpu")))
        self.program.follow(self.program.probe())
        self.learner = Learner(config.outer, 1000, blueprint(config).initial_meta())
        self.physics = 0.0
        environments = cast(Any, self.program._rollouts.environments)
        assert isinstance(environments, Locomotion)
        self._simulate = environments._rollout.rollout
        environments._rollout = self

    def rollout(self, *arguments: Any) -> Any:
        """MuJoCo's simulation, timed."""
        began = time.perf_counter()
        try:
            return self._simulate(*arguments)
        finally:
            self.physics += time.perf_counter() - began

    def ask(self, request: Request) -> Any:
        """The answer of a meta-batch."""
        run, total = self.config.run, None
        first = self.learner.step * run.meta_batch
        for start in range(first, first + run.meta_batch, run.shard):
            found = self.program.answer(request, "train", range(start, start + run.shard))
            total = found if total is None else add(total, found)
        return total

    def step(self) -> tuple[float, float]:
        """Seconds of a meta-step, and those of physics in it."""
        before, began = self.physics, time.perf_counter()
        self.learner.apply(self.ask)
        return time.perf_counter() - began, self.physics - before


def steps_of(config: Config) -> int:
    """Environment steps of a meta-step."""
    own = cast(Any, config.tasks)
    inner = cast(Any, config.algorithm).inner_steps
    return int(config.run.meta_batch * own.episodes * own.horizon * (inner + 1))


def share_of_physics(method: str, rounds: int) -> dict[str, Any]:
    """Of a method's meta-steps, and how many environment steps a second they are, with a worker's number of threads."""
    config = configured(method)
    torch.set_num_threads(config.run.threads)
    alone = Alone(config)
    alone.step()
    found = [alone.step() for _ in range(rounds)]
    alone.program.close()
    shares = [own / whole for whole, own in found]
    rate = steps_of(alone.config) / statistics.median(whole for whole, _ in found)
    return {"share": statistics.median(shares), "least": min(shares), "most": max(shares), "rate": rate}


def physics(rounds: int) -> dict[str, Any]:
    """Shares of MuJoCo's simulation, each in a process of its own, as a worker is one."""
    measured = {}
    for method in METHODS:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            measured[method] = process.submit(share_of_physics, method, rounds).result()
    rows = [
        {
            "method": name,
            "physics": " to ".join(f"{100 * each[part]:.0f} %" for part in ("least", "most")),
            "environment steps/s": f"{each['rate']:,.0f}",
        }
        for name, each in measured.items()
    ]
    show("one process and thread, 40 tasks of 20 episodes", rows)
    return measured


def seconds_of_steps(config: Config, folder: str, warm: int) -> Iterator[float]:
    """Seconds of a run's meta-steps, without the first ones."""
    for record in distmeta.train(config, folder):
        if record.step > warm:
            yield record.seconds


def workers(rounds: int) -> dict[str, Any]:
    """Rates of 1 and 2 workers."""
    measured: dict[str, Any] = {}
    for method in METHODS:
        rates: dict[int, float] = {}
        for count in (1, 2):
            config = configured(method, f"cluster.workers={count}", f"run.steps={rounds + 3}", "evaluation.tasks=2")
            with tempfile.TemporaryDirectory() as folder:
                found = list(seconds_of_steps(config, f"{folder}/run", 3))
            rates[count] = steps_of(config) / statistics.median(found)
        measured[method] = {"rates": rates, "ratio": rates[2] / rates[1]}
    rows = [
        {
            "method": name,
            **{f"{count} workers, steps/s": f"{rate:,.0f}" for count, rate in each["rates"].items()},
            "ratio": f"{each['ratio']:.2f}",
        }
        for name, each in measured.items()
    ]
    show("workers", rows)
    return measured


def peer(rounds: int) -> dict[str, Any]:
    """MAML-TRPO here, in one process and on two workers, and as others write it."""
    config = configured("maml_trpo", "run.meta_batch=20", "run.tasks_per_shard=5", "tasks.episodes=20")
    alone = Alone(config)
    others = {name: Peer(config, vectors=name) for name in ("sync", "async")}
    seconds: dict[str, list[float]] = {name: [] for name in ("distmeta, 1 process", *others)}
    alone.step()
    for _ in range(rounds):
        seconds["distmeta, 1 process"].append(alone.step()[0])
        for name, other in others.items():
            began = time.perf_counter()
            other.step()
            seconds[name].append(time.perf_counter() - began)
    for other in others.values():
        other.close()
    with tempfile.TemporaryDirectory() as folder:
        spread = configured(
            "maml_trpo",
            "run.meta_batch=20",
            "run.tasks_per_shard=5",
            "cluster.workers=2",
            f"run.steps={rounds + 3}",
            "evaluation.tasks=2",
        )
        seconds["distmeta, 2 workers"] = list(seconds_of_steps(spread, f"{folder}/run", 3))
    rates = {name: steps_of(config) / statistics.median(found) for name, found in seconds.items()}
    best = max(rates[name] for name in others)
    rows = [
        {"MAML-TRPO": name, "environment steps/s": f"{rate:,.0f}", "beside the faster loop": f"{rate / best:.2f}"}
        for name, rate in rates.items()
    ]
    show("20 tasks of 20 episodes", rows)
    return {"rates": rates, "ratios": {name: rate / best for name, rate in rates.items()}}


PARTS = {"physics": physics, "workers": workers, "peer": peer}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=PARTS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    write(options.json, "policies", {part: PARTS[part](options.rounds) for part in options.parts})


if __name__ == "__main__":
    main()
