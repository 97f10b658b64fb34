"""What ``benchmarks/gpu.sh`` runs: the tests of the GPU, the benchmarks that concern one, and one table of all of it.

    bash benchmarks/gpu.sh [--device cpu] [--quick] [--out FOLDER] [key=value ...]

Parts, each with a time limit of its own, on a GPU together under 8 minutes; a part that fails or runs out of time is a
row of the table, and the others go on:

- ``tests/gpu``, meta-gradients, runs and evaluation on the device against the CPU;
- ``peers.py``, tasks a second of the Omniglot network beside the peers that are installed;
- ``memory.py``, the most memory at 1, 10 and 50 inner steps;
- ``busy.py``, the share of a training's time in which the device is at work.

It needs torch and what distmeta imports in process (checked first, said in one message), not Ray, and installs nothing.
``--device cpu`` runs the same code on the CPU, ``--quick`` little of it. ``key=value`` settings go to the benchmarks.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BENCHMARKS = Path(__file__).parent
NEEDED = {
    "torch": "torch",
    "numpy": "numpy",
    "pydantic": "pydantic",
    "yaml": "pyyaml",
    "pyarrow": "pyarrow",
    "safetensors": "safetensors",
    "filelock": "filelock",
    "tensorboardX": "tensorboardX",
    "rich": "rich",
    "PIL": "pillow",
    "pytest": "pytest",
    "pytest_timeout": "pytest-timeout",
}
"""Modules that the parts import, and the packages that bring them."""

_WORDS = "PASSED|FAILED|ERROR|SKIPPED"
_OUTCOME = re.compile(rf"^(?:\[gw\d+\] \[ *\d+%\] ({_WORDS}) )?(tests/\S+::\S+) ?({_WORDS})?", re.M)
"""A test and its outcome: before its name where pytest works in several processes, else behind it."""

GRACE = 15.0
"""Seconds that a part has to tell of what it has seen once its time is over."""

Figures = dict[str, str]


@dataclass(frozen=True)
class Part:
    """A part of the whole.

    Attributes:
        command: after the interpreter.
        limit: seconds.
        read: figures of its output and of the JSON that it has written, if any.
    """

    command: Sequence[str]
    limit: float
    read: Callable[[str, Mapping[str, Any]], Figures]


def tests(output: str, _: Mapping[str, Any]) -> Figures:
    """Outcomes that pytest has told of, also where it was stopped; names of what failed."""
    outcomes = {}
    for before, name, after in _OUTCOME.findall(output):
        if before or after:
            outcomes[name] = before or after
    told = Counter(outcomes.values())
    failed = sorted(name for name, outcome in outcomes.items() if outcome in ("FAILED", "ERROR"))
    counted = ", ".join(f"{count} {name.lower()}" for name, count in sorted(told.items())) or "none ran"
    return {"outcomes": counted, **{f"failed: {name.rpartition('::')[2]}": "see the log" for name in failed[:8]}}


def peers(_: str, figures: Mapping[str, Any]) -> Figures:
    """Tasks a second of every contender."""
    found = {}
    for case, contenders in figures.get("cases", {}).items():
        for name, each in contenders.items():
            ratio = "" if name == "distmeta" else f" (distmeta {each['ours_over_this']:.2f} x)"
            found[f"{case}, {name}"] = f"{each['tasks_per_second']:.1f} tasks/s{ratio}"
    return found


def memory(_: str, figures: Mapping[str, Any]) -> Figures:
    """The most memory of every contender and number of steps."""
    return {
        f"{name}, {steps} inner steps": f"{value['mb']:.0f} MB"
        for name, own in figures.get("peak", {}).items()
        for steps, value in own.items()
    }


def busy(_: str, figures: Mapping[str, Any]) -> Figures:
    """The share, and tasks a second of the training."""
    if not figures:
        return {}
    return {
        f"share of {figures['of']}": f"{figures['busy']:.1%}",
        "training": f"{figures['tasks_per_second']:.1f} tasks/s",
    }


def parts(device: str, quick: bool, overrides: Sequence[str]) -> dict[str, Part]:
    """What is run; ``quick`` is for trying the script, not for figures."""
    own = [f"run.device={device}", *overrides]
    select = ["-k", "tasks_are or mlp and not products"] if quick else []
    spread = ["-n", "8"] if device == "cuda" and importlib.util.find_spec("xdist") else []
    limit = ["--timeout", "120" if device == "cuda" else "600"]
    pytest = ["-m", "pytest", "tests/gpu", "-vv", "-rfE", "-p", "no:cacheprovider", *limit, *spread, *select]
    timing = ["--rounds", "1", "--seconds", "0.5"] if quick else ["--rounds", "3", "--seconds", "2"]
    case = ["--case", "omniglot-5w1s", *timing]
    steps = ["--steps", "1,3" if quick else "1,10"]
    few = ["--steps", "3"] if quick else []
    plain = ["engine.compile=graph"] if quick else []
    patience = 1 if device == "cuda" else 5  # a CPU is only for trying the script
    return {
        "tests/gpu": Part(pytest, 190 * patience, tests),
        "peers.py": Part(["benchmarks/peers.py", *case, *plain, *own], 120 * patience, peers),
        "memory.py": Part(["benchmarks/memory.py", *steps, "engine.compile=none", *own], 90 * patience, memory),
        "busy.py": Part(["benchmarks/busy.py", *few, *plain, *own], 80 * patience, busy),
    }


def run(name: str, part: Part, out: Path, device: str) -> list[dict[str, str]]:
    """Run a part; its rows. What it prints goes to a log."""
    stem = out / name.replace("/", "-").removesuffix(".py")
    log, figures = stem.with_suffix(".log"), stem.with_suffix(".json")
    command = [sys.executable, *part.command]
    if part.command[0].startswith("benchmarks/"):
        command[2:2] = ["--json", str(figures)]
    environment = {**os.environ, "DISTMETA_TEST_DEVICE": device}
    print(f"{name}: at most {part.limit:.0f} s, log {log}", flush=True)
    began = time.monotonic()
    with log.open("w") as file:
        child = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
        try:
            child.wait(part.limit)
            state = "done" if child.returncode == 0 else f"failed, exit code {child.returncode}"
        except subprocess.TimeoutExpired:
            state = f"stopped after {part.limit:.0f} s"
        finally:
            end_group(child)
    said = log.read_text(errors="replace")
    written = json.loads(figures.read_text()) if figures.exists() else {}
    last = next((line for line in reversed(said.splitlines()) if line.strip()), "it printed nothing")
    rows = [{"part": name, "figure": "state", "value": f"{state}, {time.monotonic() - began:.0f} s"}]
    if state != "done" and part.read is not tests:
        rows.append({"part": name, "figure": "last words", "value": last.strip()[:120]})
    return rows + [{"part": name, "figure": key, "value": value} for key, value in part.read(said, written).items()]


def end_group(child: subprocess.Popen[bytes]) -> None:
    """End a part's process and those that it has started, none of which outlives it.

    An interrupt comes first: pytest then tells of the failures that it has seen.
    """
    if child.poll() is None:
        os.kill(child.pid, signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            child.wait(GRACE)
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    finally:
        child.wait()


def missing(device: str) -> str | None:
    """What this machine lacks, in one message."""
    lacking = sorted(package for module, package in NEEDED.items() if importlib.util.find_spec(module) is None)
    if lacking:
        return (
            f"{sys.executable} lacks {', '.join(lacking)}: install them, or put them on PYTHONPATH "
            f"(pip install --target FOLDER --no-deps {' '.join(lacking)}, with what they need); Ray is not needed"
        )
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        return f"torch {torch.__version__} sees no CUDA device here; --device cpu tries the same on the CPU"
    return None


def main() -> None:
    """Run all parts, print the table, write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="little of everything, to try the script")
    parser.add_argument("--out", type=Path, help="folder for logs and figures (default: a new one)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings of distmeta's configuration")
    options = parser.parse_intermixed_args()
    problem = missing(options.device)
    if problem:
        sys.exit(problem)
    from common import machine, show

    out = options.out or Path(tempfile.mkdtemp(prefix="distmeta-gpu-"))
    out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    rows: list[dict[str, str]] = []
    for name, part in parts(options.device, options.quick, options.overrides).items():
        rows += run(name, part, out, options.device)
    here = machine()
    where = here["gpu"] if options.device == "cuda" else here["cpu"]
    show(f"{where}, torch {here['torch']}, {time.monotonic() - began:.0f} s", rows)
    (out / "table.json").write_text(json.dumps({"machine": here, "rows": rows}, indent=2) + "\n")
    sys.exit(any("done" not in row["value"] for row in rows if row["figure"] == "state"))


if __name__ == "__main__":
    main()
