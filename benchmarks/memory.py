"""Peak memory of the exact meta-gradient against the number of inner steps.

    python benchmarks/memory.py [--steps 1,2,5,10,20,50,100] [--json FILE] [key=value ...]

Omniglot 5-way 1-shot (conv4-64) on the built-in glyph tasks, one shard of 8 tasks. Every figure is of a fresh process
that computes three meta-gradients: on the CPU the most memory that the whole process has had resident (``VmHWM`` of
Linux, else ``ru_maxrss``; Python, torch and the compiler's leavings are in it), on CUDA
``torch.cuda.max_memory_allocated``. Beside it the ratio to the same contender at the smallest number of steps.

- distmeta: ``differentiation: mixed``, step by step backwards from kept parameters, with the given settings;
- reverse: distmeta with ``differentiation: reverse``, every step's activations kept, up to 20 steps;
- TorchOpt: ``MetaSGD``, one task at a time, where it is installed (``pip install -e .[bench]``), up to 20 steps.

The last line is the ratio that matters: distmeta at 50 steps over 1.
"""

from __future__ import annotations

import argparse
import resource
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from common import say, show, write
from peers_child import CASES, Ours, Peer, TorchOpt, installed
from processes import Group, running

from distmeta.errors import ConfigError, DistmetaError
from distmeta.loading import load_config
from distmeta.tasks import prepare_family
from distmeta.workers.worker import pick_device

REPEATS = 3
FEW = 20
"""Up to this many steps the contenders that keep all activations are measured."""


class Measured:
    """A contender and what its process has had at most."""

    def __init__(self, contender: type[Ours] | type[Peer], case: Mapping[str, Any], overrides: Sequence[str]) -> None:
        self._before = _resident()
        self._work = contender(case, overrides, 1)

    def unit(self) -> int:
        """A shard's meta-gradient."""
        return self._work.unit()

    def peak(self) -> dict[str, float]:
        """MB at most over some meta-gradients, and before the contender was built."""
        on_cuda = self._work.device.type == "cuda"
        if on_cuda:
            torch.cuda.reset_peak_memory_stats()
        for _ in range(REPEATS):
            self.unit()
        if on_cuda:
            return {"mb": torch.cuda.max_memory_allocated() / 1e6, "before_mb": 0.0}
        return {"mb": _resident(), "before_mb": self._before}


def _resident() -> float:
    status = Path("/proc/self/status")
    if status.exists():
        # Linux hands ru_maxrss on from parent to child; this is the same of the process alone.
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if "VmHWM" in line) * 1024 / 1e6
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 1e6 if sys.platform == "darwin" else most * 1024 / 1e6


def differentiation(case: Mapping[str, Any], value: str) -> str:
    """The override that chooses how to differentiate, whichever section has the setting."""
    for section in ("engine", "algorithm"):
        override = f"{section}.differentiation={value}"
        try:
            load_config(case, [override])
        except ConfigError:
            continue
        return override
    raise ConfigError(f"no setting differentiation={value} in engine or algorithm")


def settings(steps: int) -> dict[str, Any]:
    """The case with this many inner steps, in one shard."""
    case = CASES["omniglot-5w1s"]
    return {
        **case,
        "algorithm": {**case["algorithm"], "inner_steps": steps},
        "run": {**case["run"], "meta_batch": 8, "tasks_per_shard": 8},
    }


def measure(steps: Sequence[int], overrides: Sequence[str]) -> dict[str, dict[int, dict[str, float]]]:
    """MB of every contender and number of steps."""
    contenders: dict[str, tuple[Any, list[str], bool]] = {
        "distmeta": (Ours, [differentiation(settings(1), "mixed"), *overrides], False),
        "reverse": (Ours, [*overrides, differentiation(settings(1), "reverse")], True),
    }
    if installed(TorchOpt.package):
        contenders["TorchOpt"] = (TorchOpt, [*overrides], True)
    else:
        print("TorchOpt is not installed, so left out; pip install -e .[bench]", flush=True)
    prepare_family(load_config(settings(1)))
    found: dict[str, dict[int, dict[str, float]]] = {name: {} for name in contenders}
    for count in steps:
        for name, (contender, chosen, greedy) in contenders.items():
            if greedy and count > FEW:
                continue
            group = Group(1, 1, Measured, (contender, settings(count), tuple(chosen)), warm=0)
            with running({name: group}) as started:
                found[name][count] = started[name][0].call("peak")
    return found


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", default="1,2,5,10,20,50,100", help="numbers of inner steps, with commas")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings of distmeta's configuration")
    options = parser.parse_intermixed_args()
    try:
        steps = sorted({int(part) for part in options.steps.split(",")})
        found = measure(steps, options.overrides)
    except (ValueError, DistmetaError) as error:
        sys.exit(str(error))
    rows = []
    for count in steps:
        row: dict[str, Any] = {"inner steps": count}
        for name, values in found.items():
            there = count in values
            row[f"{name} MB"] = f"{values[count]['mb']:.0f}" if there else "-"
            row[f"{name} ratio"] = f"{values[count]['mb'] / values[steps[0]]['mb']:.2f} x" if there else "-"
        rows.append(row)
    on_cuda = pick_device(load_config(settings(1), options.overrides).run.device).type == "cuda"
    where = "CUDA memory allocated" if on_cuda else "resident memory of the process"
    show(f"exact meta-gradient of 8 tasks, conv4-64, 5-way 1-shot: most {where}", rows)
    ours = found["distmeta"]
    ratio = ours[50]["mb"] / ours[1]["mb"] if {1, 50} <= set(ours) else None
    if ratio is not None:
        first = ours[1]["mb"]
        say(f"distmeta: {first:.0f} MB at 1 step, {ours[50]['mb']:.0f} MB at 50 steps: {ratio:.2f} times")
    figures = {name: {str(count): value for count, value in values.items()} for name, values in found.items()}
    write(options.json, "memory", {"overrides": options.overrides, "ratio_50_over_1": ratio, "peak": figures})


if __name__ == "__main__":
    main()
