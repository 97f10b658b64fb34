"""What solving a task in closed form costs beside its embedding: seconds of a meta-gradient, and memory.

    python benchmarks/heads.py [--rounds 5] [--seconds 1] [--case NAME ...] [--json FILE] [key=value ...]

For each case and method the exact meta-gradient of a shard, by the plan that a run would decide on, over that of an
adaptation that does nothing but embed support and query set and use a few of the numbers (*embedding alone*). One
process, one thread, methods in turn within each round; ratios are medians over rounds. ``peak_mb`` is the most memory
of a process of its own that computes a few of them by a plan that is kept (that of *embedding alone* is tried there, in
float64, which takes more).

Cases: the strided conv4-64 on the built-in glyphs, whose images have the size of Omniglot's, and conv4-64 with pools on
images of 32 x 32 x 3 that are drawn at random (CIFAR-FS's size), each with 15 queries a class.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any, ClassVar

import torch
from common import show, write
from torch import Tensor

from distmeta.adaptations.on_embedding import OnEmbedding
from distmeta.adaptations.options import PrototypesOptions
from distmeta.config.sections import AdaptationOptions
from distmeta.core.requests import Request, Start
from distmeta.loading import load_config
from distmeta.programs.supervised import SupervisedProgram
from distmeta.tasks import prepare_family

METHODS = {
    "embedding alone": {"name": "protonet", "adaptation": "module:heads.EmbeddingAlone"},
    "protonet": {"name": "protonet"},
    "matching_net": {"name": "matching_net"},
    "r2d2": {"name": "r2d2"},
    "lr_d2": {"name": "lr_d2"},
    "metaoptnet": {"name": "metaoptnet"},
}
CASES: dict[str, dict[str, Any]] = {
    "omniglot-5w1s": {"ways": 5, "shots": 1},
    "omniglot-5w5s": {"ways": 5, "shots": 5},
    "omniglot-20w1s": {"ways": 20, "shots": 1},
    "omniglot-20w5s": {"ways": 20, "shots": 5},
    "pictures-5w1s": {"ways": 5, "shots": 1},
    "pictures-5w5s": {"ways": 5, "shots": 5},
}


class EmbeddingAlone(OnEmbedding):
    """The forward and backward pass of an episode's embedding, and next to nothing else."""

    Options: ClassVar[type[AdaptationOptions]] = PrototypesOptions

    def solve(self, meta: Any, embedded: Tensor, data: Any, ways: int | None) -> Tensor:
        """A few numbers of the support set."""
        assert ways is not None
        return embedded.mean(0)[:ways]

    def outputs(self, meta: Any, adapted: Tensor, embedded: Tensor) -> Tensor:
        """A few numbers of each query example."""
        return embedded[:, : len(adapted)] + adapted


def program(case: str, method: str, overrides: list[str]) -> SupervisedProgram:
    """A program that follows the plan which a long run would decide on, without compilation by Inductor."""
    pictures = case.startswith("pictures")
    config = load_config(
        {
            "tasks": {"kind": "module:pictures.Pictures" if pictures else "glyphs", **CASES[case], "queries": 15},
            "model": {"kind": "conv4", "downsample": "pool" if pictures else "stride"},
            "algorithm": METHODS[method],
            "run": {"meta_batch": 4, "tasks_per_shard": 2, "steps": 1000},
            "engine": {"compile": "graph"},
        },
        overrides,
    )
    prepare_family(config)
    made = SupervisedProgram(config, torch.device("cpu"))
    made.follow(made.probe())
    return made


def seconds_of(made: SupervisedProgram, start: Start, budget: float) -> float:
    """Seconds of a shard's meta-gradient, the mean over a while; tasks are sampled once."""
    ids = range(2)
    made.answer(Request("gradient", start), "train", ids)
    began, count = time.perf_counter(), 0
    taken = 0.0
    while time.perf_counter() - began < budget:
        taken += made.answer(Request("gradient", start), "train", ids).seconds["compute"]
        count += 1
    return taken / count


def peak_of(case: str, method: str, overrides: list[str]) -> float:
    """MB of a fresh process that computes a few meta-gradients."""
    command = [sys.executable, __file__, "--peak", method, "--case", case, *overrides]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def main() -> None:
    """Measure, print the table, write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each method in each round")
    parser.add_argument("--case", action="append", choices=CASES, help="all of them by default")
    parser.add_argument("--json", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--peak", choices=METHODS, help=argparse.SUPPRESS)  # what a process of its own does
    options = parser.parse_intermixed_args()
    sys.modules.setdefault("heads", sys.modules["__main__"])
    torch.set_num_threads(1)
    if options.peak:
        made = program(options.case[0], options.peak, options.overrides)
        seconds_of(made, Start.of(0, made.initial_vector()), 0.5)
        # Not getrusage's: that begins with what the process was forked from.
        status = Path("/proc/self/status").read_text()
        print(int(status.partition("VmHWM:")[2].split()[0]) / 1024)
        return
    cases: dict[str, Any] = {}
    for case in options.case or CASES:
        programs = {method: program(case, method, options.overrides) for method in METHODS}
        starts = {method: Start.of(0, each.initial_vector()) for method, each in programs.items()}
        found: dict[str, list[float]] = {method: [] for method in METHODS}
        for _ in range(options.rounds):
            for method, each in programs.items():
                found[method].append(seconds_of(each, starts[method], options.seconds))
        alone = found["embedding alone"]
        cases[case] = {
            method: {
                "milliseconds": 1e3 * median(taken) / 2,
                "over_embedding": median(a / b for a, b in zip(taken, alone, strict=True)),
                "least": min(a / b for a, b in zip(taken, alone, strict=True)),
                "most": max(a / b for a, b in zip(taken, alone, strict=True)),
                "layers": programs[method].plan.layers,
                "peak_mb": peak_of(case, method, options.overrides),
            }
            for method, taken in found.items()
        }
        rows = [{"method": method, **each} for method, each in cases[case].items()]
        write(options.json, "heads", {"overrides": options.overrides, "cases": cases})
        show(f"{case}: a task's meta-gradient, over its embedding's alone", rows)


if __name__ == "__main__":
    main()
