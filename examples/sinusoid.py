"""Meta-train MAML on sinusoids through the Python API, step by step, then meta-test it.

python examples/sinusoid.py [RUN_DIR] [KEY=VALUE]...     for example: runs/sinusoid run.steps=10000
"""

from __future__ import annotations

import sys

import distmeta

CONFIG = {
    "name": "sinusoid",
    "tasks": {"kind": "sinusoid", "shots": 10, "queries": 10},
    "model": {"kind": "mlp", "hidden": [40, 40]},
    "algorithm": {"name": "maml", "inner_lr": 0.01, "inner_steps": 1},
    "outer": {"optimizer": "adam", "lr": 1e-3},
    "run": {"steps": 2000, "meta_batch": 25, "tasks_per_shard": 25, "validate_every": 500},
    "evaluation": {"tasks": 600, "shots": 5, "queries": 100, "inner_steps": 10},
    "cluster": {"workers": 0},  # in this process, without Ray
}


def main(run_dir: str = "runs/sinusoid", *overrides: str) -> None:
    """Train, printing every validation, then show the error after each inner step."""
    config = distmeta.load_config(CONFIG, overrides)
    steps = distmeta.train(config, run_dir)
    while True:
        try:
            record = next(steps)
        except StopIteration as end:
            result = end.value  # the content of result.json
            break
        if record.validation is not None:
            train, validation = record.metrics["mse"], record.validation["mse"]
            print(f"step {record.step}: training error {train:.3f}, validation error {validation:.3f}")

    print(f"{result['tasks']} tasks, {result['tasks_per_second']:.0f} a second; tested {result['checkpoint']}")
    for entry in result["meta_test"]["by_step"]:
        print(f"after {entry['step']} inner steps: {entry['mean']:.3f} ± {entry['ci95']:.3f}")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except distmeta.DistmetaError as error:  # says what is wrong, and what to do
        sys.exit(f"error: {error}")
