"""The share of a training's time in which the device is at work.

    python benchmarks/busy.py [--steps 20] [--json FILE] [key=value ...]

The run is that of Omniglot 5-way 1-shot (conv4-64, 1 query a class, one exact inner step, meta-batch 32) on the
built-in glyph tasks, by ``distmeta train`` in this process, without validation, logs or checkpoints within the steps
counted.

On CUDA: the time that ``torch.profiler`` sees kernels, copies or fills on the device (overlapping ones once) over the
wall time of the same steps. The profiler slows the host, so tasks a second are those of as many steps without it. On
the CPU there is no such device: the share is the process's CPU time over the wall time and the threads.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Generator, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from common import show, write
from peers_child import CASES
from torch.profiler import ProfilerActivity, profile

import distmeta
from distmeta.config.schema import Config
from distmeta.errors import DistmetaError
from distmeta.loading import load_config
from distmeta.workers.worker import pick_device

WARM = 8
"""Meta-steps ahead of any timing: recording, compiling and CUDA graphs take the first few."""

AT_WORK = {"kernel", "gpu_memcpy", "gpu_memset"}
"""Categories of a trace's events that are work of the device."""


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """The length of a union of intervals (begin, end).

    >>> covered([(0, 2), (1, 3), (5, 6)])
    4.0
    """
    total, reached = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total


def at_work(trace: Mapping[str, Any]) -> float:
    """Seconds in which the device works, of a trace in Chrome's format (microseconds)."""
    events = [event for event in trace["traceEvents"] if event.get("cat") in AT_WORK]
    return covered((float(event["ts"]), float(event["ts"]) + float(event["dur"])) for event in events) / 1e6


def timed(training: Generator[Any, None, Any], steps: int, device: torch.device) -> tuple[float, float]:
    """Wall and CPU seconds of so many meta-steps."""
    _drain(device)
    wall, own = time.perf_counter(), time.process_time()
    for _ in range(steps):
        next(training)
    _drain(device)
    return time.perf_counter() - wall, time.process_time() - own


def _drain(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def measure(config: Config, steps: int) -> dict[str, Any]:
    """Tasks a second and the share, over this many steps each."""
    device = pick_device(config.run.device)
    with tempfile.TemporaryDirectory() as folder:
        training = distmeta.train(config, Path(folder) / "run")
        for _ in range(WARM):
            next(training)
        wall, own = timed(training, steps, device)
        found = {"tasks_per_second": steps * config.run.meta_batch / wall, "device": device.type}
        if device.type == "cpu":
            found |= {"busy": own / wall / config.run.threads, "of": "CPU time of the threads"}
        else:
            with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
                wall, _ = timed(training, steps, device)
            trace = Path(folder) / "trace.json"
            profiler.export_chrome_trace(str(trace))
            busy = at_work(json.loads(trace.read_text()))
            if not busy:
                sys.exit("torch.profiler has seen no kernel: CUPTI does not work on this machine")
            found |= {"busy": busy / wall, "of": "device time", "profiled_seconds": wall}
        training.close()
    return found


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20, help="meta-steps that are counted")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings of the configuration")
    options = parser.parse_intermixed_args()
    try:
        settings = {**CASES["omniglot-5w1s"], "evaluation": {"tasks": 1}, "cluster": {"workers": 0}}
        quiet = ("run.log_every=60000", "run.validate_every=60000", "run.checkpoint_every=60000")
        found = measure(load_config(settings, [*quiet, *options.overrides]), options.steps)
    except DistmetaError as error:
        sys.exit(str(error))
    row = {"": found["device"], "tasks/s": f"{found['tasks_per_second']:.1f}", "busy": f"{found['busy']:.1%}"}
    show(f"share of {found['of']}, Omniglot 5-way 1-shot", [row])
    write(options.json, "busy", {"overrides": options.overrides, **found})


if __name__ == "__main__":
    main()
