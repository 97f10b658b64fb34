"""Meta-train on tasks of your own, made by a function: here, to tell short signals apart from one example of each.

python examples/own_tasks.py [RUN_DIR] [KEY=VALUE]...     for example: runs/own_tasks tasks.noise=0.5
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

import distmeta

TIMES = np.linspace(0, 1, 48)
Part = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]


def signals(
    split: str, generator: np.random.Generator, ways: int = 5, shots: int = 1, queries: int = 5, noise: float = 0.2
) -> tuple[Part, Part]:
    """One task, drawn from its generator: a class is a sum of three sines, its examples are shifted and noisy."""
    frequencies = generator.uniform(1, 8, size=(ways, 3, 1))
    heights = generator.normal(size=(ways, 3, 1))

    def part(count: int) -> Part:
        y = np.arange(ways).repeat(count)
        starts = generator.uniform(0, 0.1, size=(len(y), 1, 1))
        clean = (heights[y] * np.sin(2 * np.pi * frequencies[y] * (TIMES + starts))).sum(1)
        return clean + noise * generator.normal(size=clean.shape), y

    return part(shots), part(queries)


CONFIG = {
    "name": "own_tasks",
    "tasks": {"kind": "module:own_tasks.signals", "noise": 0.3},
    "model": {"kind": "mlp", "hidden": [64, 64]},
    "algorithm": {"name": "protonet"},
    "run": {"steps": 400, "meta_batch": 16, "validate_every": 100},
    "evaluation": {"tasks": 600, "queries": 15},
}


def main(run_dir: str = "runs/own_tasks", *overrides: str) -> None:
    """Train, then show the accuracy on new tasks."""
    for record in distmeta.train(distmeta.load_config(CONFIG, overrides), run_dir):
        if record.validation is not None:
            print(f"step {record.step}: validation accuracy {record.validation['accuracy']:.1%}")
    measured = distmeta.evaluate(run_dir, ["tasks.kind=module:own_tasks.signals"])["accuracy"]
    print(f"meta-test accuracy {measured['mean']:.1%} ± {measured['ci95']:.1%}")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except distmeta.DistmetaError as error:  # says what is wrong, and what to do
        sys.exit(f"error: {error}")
