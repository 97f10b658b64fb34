"""How long workers wait for their tasks: the share of their time, for every family of tasks beside two Ray workers.

    python benchmarks/waiting.py [--data FOLDER] [--steps 60] [--workers 2] [--case CASE] [--json FILE] [KEY=VALUE ...]

The configurations are those of ``configs/`` where there is one. ``function`` is a user's function that makes a task in
some 0.2 ms, ``slow function`` one that takes ten times as long, which processes beside the workers then call. The first
fifteen meta-steps, in which what is to be recorded or compiled is, do not count. Without ``--data``, the folder of
``omniglot``, ``cifar_fs`` and ``clinc150``, the families that need these are left out.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from common import show, write

import distmeta

ROOT = Path(__file__).parents[1]
SKIPPED = 15
IMAGES = {"model": {"kind": "conv4", "filters": 64}, "algorithm": {"name": "maml", "inner_lr": 0.4, "inner_steps": 1}}
DRAWN = {"run": {"meta_batch": 32, "tasks_per_shard": 8}, **IMAGES}
CASES: dict[str, str | dict[str, Any]] = {
    "sinusoid": "sinusoid_maml",
    "glyphs": {"tasks": {"kind": "glyphs", "ways": 5, "shots": 1, "queries": 1}, **DRAWN},
    "table": "table_oscillators_maml",
    "function": {"tasks": {"kind": "module:waiting.pictures", "passes": 1}, **DRAWN},
    "slow function": {"tasks": {"kind": "module:waiting.pictures", "passes": 40}, **DRAWN},
    "omniglot": "omniglot_5w1s_maml",
    "unlabelled": "omniglot_5w1s_umtra",
    "cifar_fs": "cifar_fs_5w1s_protonet",
    "text": "clinc150_5w1s_protonet",
}
FOLDERS = {"omniglot": "omniglot", "unlabelled": "omniglot", "cifar_fs": "cifar_fs", "text": "clinc150"}
Part = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]


def pictures(
    split: str, generator: np.random.Generator, ways: int = 5, shots: int = 1, queries: int = 1, passes: int = 1
) -> tuple[Part, Part]:
    """Smooth random images, one a class, under noise; the time that a task takes grows with the passes."""
    means = generator.random((ways, 1, 28, 28))
    for _ in range(passes):
        means = (means + np.roll(means, 1, -1) + np.roll(means, 1, -2)) / 3

    def part(count: int) -> Part:
        y = np.arange(ways).repeat(count)
        return (means[y] + 0.1 * generator.normal(size=(len(y), 1, 28, 28))).astype(np.float32), y

    return part(shots), part(queries)


def configured(case: str, data: Path | None, folder: str, options: argparse.Namespace) -> Any:
    """A case's configuration, as short as it is measured."""
    settings = CASES[case]
    if isinstance(settings, str):
        settings = yaml.safe_load((ROOT / "configs" / f"{settings}.yaml").read_text())
    changes = [f"run.steps={options.steps}", "run.validate_every=0", f"cluster.workers={options.workers}"]
    changes += ["run.log_every=1000", "evaluation.tasks=2", "run.device=cpu", *options.settings]
    if case == "table":
        sys.path.insert(0, str(ROOT / "examples"))
        from table import make  # the table of the example, a million rows

        make(Path(folder, "oscillators.parquet"))
        changes.append(f"tasks.path={folder}/oscillators.parquet")
    if data is not None and case in FOLDERS:
        root = "tasks.source.root" if case == "unlabelled" else "tasks.root"
        changes.append(f"{root}={data / FOLDERS[case]}")
    return distmeta.load_config(settings, changes)


def measure(case: str, options: argparse.Namespace) -> dict[str, Any]:
    """Rate and shares of a case's meta-steps."""
    with tempfile.TemporaryDirectory() as folder:
        config = configured(case, options.data, folder, options)
        records = [record for record in distmeta.train(config, f"{folder}/run") if record.step > SKIPPED]
    return {
        "family": case,
        "tasks/s": statistics.median(record.tasks_per_second for record in records),
        "waiting for tasks": statistics.fmean(record.shares["data"] for record in records),
        "computing": statistics.fmean(record.shares["compute"] for record in records),
    }


def main() -> None:
    """Train, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--case", action="append", choices=CASES, help="one of the families; several times for more")
    parser.add_argument("--json", type=Path)
    parser.add_argument("settings", metavar="KEY=VALUE", nargs="*", help="changes to the configurations")
    options = parser.parse_args()
    if options.steps <= SKIPPED:
        parser.error(f"--steps has to be more than {SKIPPED}, which do not count")
    chosen = [case for case in options.case or CASES if options.data is not None or case not in FOLDERS]
    found = [measure(case, options) for case in chosen]
    rows = [
        {**row, **{share: f"{100 * row[share]:.2f} %" for share in ("waiting for tasks", "computing")}} for row in found
    ]
    show(f"share of the time of {options.workers} workers", rows)
    write(options.json, "waiting", {"cases": found})


if __name__ == "__main__":
    main()
