"""Search the inner and the outer learning rate of MAML on sinusoids; Ray runs several trials at a time.

python examples/sweep.py [RUN_DIR] [KEY=VALUE]...      for example: runs/rates trials=4
"""

from __future__ import annotations

import sys

import distmeta

BASE = {
    "tasks": {"kind": "sinusoid", "shots": 10, "queries": 10},
    "model": {"kind": "mlp", "hidden": [40, 40]},
    "algorithm": {"name": "maml", "inner_lr": 0.01, "inner_steps": 1},
    "outer": {"lr": 1e-3},
    "run": {"steps": 1000, "meta_batch": 25, "tasks_per_shard": 25, "validate_every": 100},
    "evaluation": {"tasks": 600, "validation_tasks": 200, "shots": 5, "queries": 100},
}

SWEEP = {
    "name": "rates",
    "base": BASE,
    "space": {
        "algorithm.inner_lr": {"loguniform": [0.003, 0.1]},
        "outer.lr": {"loguniform": [3e-4, 3e-2]},
    },
    "first": [{"algorithm.inner_lr": 0.01, "outer.lr": 1e-3}],  # the published rates, to compare with
    "trials": 12,
    "scheduler": {"kind": "asha", "grace": 100, "reduction": 3},
    "resources": {"workers": 0, "cpus": 1},
}


def main(run_dir: str = "runs/rates", *overrides: str) -> None:
    """Run the sweep, then show its trials, the best first, and the meta-test of the best one."""
    results = distmeta.tune(SWEEP, overrides, run_dir)
    for trial in results["trials"]:
        rates = ", ".join(f"{key} {value}" for key, value in trial["values"].items())
        print(f"validation error {trial['score']:.3f} at {rates}")
    best = results["best"]["meta_test"]["mse"]
    print(f"best trial {results['best']['trial']}: meta-test error {best['mean']:.3f} ± {best['ci95']:.3f}")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except distmeta.DistmetaError as error:  # says what is wrong, and what to do
        sys.exit(f"error: {error}")
