"""distmeta's engine beside TorchOpt and higher: the same exact meta-gradients of the same tasks, tasks a second.

    pip install -e .[bench]
    python benchmarks/peers.py [--case omniglot-5w1s] [--peer "TorchOpt MetaSGD"] [--rounds 3] [--seconds 4]
        [--json FILE] [key=value ...]

Cases, all exact MAML, all on built-in tasks, so that no data is needed (glyphs have Omniglot's sizes):

- ``omniglot-5w1s``: conv4-64, 5 ways, 1 shot, 1 query a class, 1 inner step, meta-batch 32;
- ``omniglot-20w1s``: conv4-64, 20 ways, 1 shot, 1 query a class, 5 inner steps, meta-batch 16;
- ``pictures-5w1s``: conv4-32 with max-pools on 3 x 32 x 32 pixels, 5 ways, 1 shot, 15 queries a class, 5 inner steps,
  meta-batch 4;
- ``sinusoid-1``, ``sinusoid-5``: 40-40 network, 10 support and 10 query points, 1 and 5 inner steps, meta-batch 25.

Before anything is timed, every peer's meta-gradients of nine tasks must equal distmeta's within 1e-4 of their norm in
the median, or the command fails. Single tasks may be off by up to 0.1: where an activation lies at ReLU's corner, or
two values of a max-pool are as good as equal, rounding decides the side, and float32 differs from float64 by more than
rounding, whoever computes it; elsewhere it is 1e-6.
Networks, initial parameters and tasks are the same, tasks are sampled before the
timing, and every contender works through shards of ``run.tasks_per_shard`` tasks.

All have the whole machine, in two ways: one process with a thread a core, and a process a core with one thread each,
all at work at once. A contender's figure is the better of the two, each the median over rounds; in every round all take
turns, so that a noisy machine disturbs all alike. ``distmeta / peer`` is the median of the rounds' ratios, each by its
better way. "By hand" is plain ``torch.func`` without a library. TorchOpt runs twice, as its examples have it (task by
task) and as a reader of ``torch.func`` would have it (mapped over tasks). With CUDA there is one process. ``key=value``
settings go to the configuration.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from common import machine, show, write
from peers_child import CASES, PEERS, Ours, configure, installed
from processes import Child, Group, cores, rate, running

from distmeta.errors import DistmetaError
from distmeta.tasks import prepare_family
from distmeta.workers.worker import pick_device

TOLERANCE = 1e-4
FLIPPED = 0.1
CHECKED = 9
ALONE = "1 process x 1 thread"


def ways_to_run(device: torch.device) -> dict[str, tuple[int, int]]:
    """Processes and threads of each way to use the whole machine."""
    count = cores()
    if device.type == "cuda":
        return {"1 process, CUDA": (1, count)}
    ways = {f"1 process x {count} threads": (1, count), f"{count} processes x 1 thread": (count, 1)}
    return ways if count > 1 else {ALONE: (1, 1)}


def measure(
    case: str, overrides: Sequence[str], rounds: int, seconds: float, chosen: Sequence[str] | None
) -> dict[str, Any]:
    """Agreement and figures of one case."""
    settings = CASES[case]
    config = configure(settings, overrides)
    prepare_family(config)
    there = [peer for peer in PEERS if installed(peer.package) and (not chosen or peer.title in chosen)]
    contenders: list[Any] = [Ours, *there]
    device = pick_device(config.run.device)
    ways = ways_to_run(device)
    specified = {
        f"{contender.title}, {way}": Group(
            count, threads, contender, (settings, tuple(overrides), threads), 3 if contender is Ours else 1
        )
        for contender in contenders
        for way, (count, threads) in ways.items()
    }
    with running(specified) as started:
        groups = {c.title: {way: started[f"{c.title}, {way}"] for way in ways} for c in contenders}
        agreement = check(case, groups)
        taken = take_turns(groups, rounds, seconds, alone=case.startswith("sinusoid") and device.type == "cpu")
    return summary(case, config.run.meta_batch, agreement, taken, ways)


def check(case: str, groups: Mapping[str, Mapping[str, Sequence[Child]]]) -> dict[str, list[float]]:
    """Distances of meta-gradients from distmeta's, over its norm, a list of tasks each.

    The command fails where they are large.
    """
    found: dict[str, list[float]] = {name: [] for name in groups}
    for task in range(CHECKED):
        reference = next(iter(groups[Ours.title].values()))[0].call("of_task", task).astype(np.float64)
        norm = float(np.linalg.norm(reference))
        if not norm > 0:
            sys.exit(f"{case}: distmeta's meta-gradient has the norm {norm}")
        for name, ways in groups.items():
            asked = list(ways.values()) if name == Ours.title else list(ways.values())[-1:]
            values = [children[0].call("of_task", task) for children in asked]
            found[name].append(max(float(np.linalg.norm(value - reference)) / norm for value in values))
    told = ", ".join(f"{name} {' '.join(f'{d:.1e}' for d in distances)}" for name, distances in found.items())
    print(f"{case}: |meta-gradient - distmeta's| / |distmeta's| of {CHECKED} tasks: {told}", flush=True)
    wrong = [name for name, own in found.items() if not (median(own) <= TOLERANCE and max(own) <= FLIPPED)]
    if wrong:
        sys.exit(f"{case}: meta-gradients do not agree within {TOLERANCE:g}: {', '.join(wrong)}")
    return found


def take_turns(
    groups: Mapping[str, Mapping[str, Sequence[Child]]], rounds: int, seconds: float, *, alone: bool
) -> dict[str, dict[str, list[float]]]:
    """Tasks a second of every contender, way and round; ``alone`` adds one process with one thread."""
    taken: dict[str, dict[str, list[float]]] = {name: {} for name in groups}
    for _ in range(rounds):
        for way in next(iter(groups.values())):
            for name, group in groups.items():
                taken[name].setdefault(way, []).append(rate(group[way], seconds))
        if alone:
            for name, group in groups.items():
                single = list(group.values())[-1][:1]
                taken[name].setdefault(ALONE, []).append(rate(single, seconds))
    return taken


def summary(
    case: str,
    meta_batch: int,
    agreement: Mapping[str, list[float]],
    taken: Mapping[str, Mapping[str, list[float]]],
    ways: Mapping[str, Any],
) -> dict[str, Any]:
    """Print the case's table; its figures."""
    best = {}
    for name, own in taken.items():
        middles = {way: median(own[way]) for way in ways}
        best[name] = max(middles, key=middles.__getitem__)
    ours = taken[Ours.title][best[Ours.title]]
    rows, figures = [], {}
    for name, own in taken.items():
        theirs = own[best[name]]
        ratio = median(mine / other for mine, other in zip(ours, theirs, strict=True))
        row: dict[str, Any] = {case: name}
        row |= {f"tasks/s, {way}": f"{median(own[way]):.1f}" for way in ways}
        row |= {"best tasks/s": f"{median(theirs):.1f}", "distmeta / peer": f"{ratio:.2f} x"}
        figures[name] = {
            "tasks_per_second": median(theirs),
            "best": best[name],
            "ours_over_this": ratio,
            "distances": agreement[name],
            "rounds": own,
        }
        if case.startswith("sinusoid") and ALONE in own:
            milliseconds = 1000 * meta_batch / median(own[ALONE])
            row[f"ms a meta-step, {ALONE}"] = f"{milliseconds:.2f}"
            figures[name]["ms_per_meta_step_alone"] = milliseconds
        rows.append(row)
    show(f"{case}: exact meta-gradients on {machine()['gpu'] or machine()['cpu']}, float32 check passed", rows)
    return figures


def main() -> None:
    """Check, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", choices=CASES, help="may be given again; all by default")
    titles = [peer.title for peer in PEERS]
    parser.add_argument("--peer", action="append", choices=titles, help="may be given again; all by default")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each contender, way and round")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings of distmeta's configuration")
    options = parser.parse_intermixed_args()
    missing = sorted({peer.package for peer in PEERS if not installed(peer.package)})
    if missing:
        print(f"not installed, so left out: {', '.join(missing)}; pip install -e .[bench]", flush=True)
    try:
        figures = {
            case: measure(case, options.overrides, options.rounds, options.seconds, options.peer)
            for case in options.case or CASES
        }
    except DistmetaError as error:
        sys.exit(str(error))
    write(options.json, "peers", {"overrides": options.overrides, "cases": figures})


if __name__ == "__main__":
    main()
