"""What `examples/table.py` trains, compared on the same meta-test tasks after the same adaptation.

    python benchmarks/tables.py runs/table --json FILE

The folder is that of the example. The network that was trained on all tasks together is fine-tuned at several rates.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from common import show, write

import distmeta

RATES = (0.003, 0.01, 0.03, 0.1, 0.3)


def compared(folder: Path) -> dict[str, dict[str, Any]]:
    """Mean squared error by method: mean, 95 % interval and tasks."""
    maml = distmeta.evaluate(folder / "maml")
    found = {"MAML": maml["mse"], "MAML, before adaptation": maml["before_adaptation"]}
    for rate in RATES:
        tuned = distmeta.evaluate(folder / "joint", [f"algorithm.inner_lr={rate}"])
        found.setdefault("all tasks together, before adaptation", tuned["before_adaptation"])
        found[f"all tasks together, then fine-tuned at a rate of {rate}"] = tuned["mse"]
    return found


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = compared(options.folder)
    tasks = found["MAML"]["tasks"]
    rows = [{"method": name, "mse": f"{each['mean']:.3f} ± {each['ci95']:.3f}"} for name, each in found.items()]
    show(f"meta-test, {tasks:,} tasks", rows)
    write(options.json, "tables", {"tasks": tasks, "mse": found})


if __name__ == "__main__":
    main()
