"""Evaluate a trained run on new tasks, then adapt it to one task of your own and predict.

python examples/adapt.py RUN_DIR [KEY=VALUE]...     RUN_DIR: a run on sinusoids, such as that of examples/sinusoid.py
"""

from __future__ import annotations

import math
import sys

import torch

import distmeta


def main(run_dir: str, *overrides: str) -> None:
    """Meta-test the run's best checkpoint; then fit one sine from five points of it."""
    measured = distmeta.evaluate(run_dir, overrides)
    before, after = measured["before_adaptation"], measured["mse"]
    print(f"meta-test on {after['tasks']} tasks: error {before['mean']:.3f}, {after['mean']:.3f} after adaptation")

    def task(x: torch.Tensor) -> torch.Tensor:  # what only the task knows
        return 2.0 * torch.sin(x - math.pi / 4)

    x_support = torch.tensor([[-4.0], [-2.0], [0.0], [2.0], [4.0]])  # (5, 1)
    x_query = torch.linspace(-5.0, 5.0, 100).unsqueeze(1)  # (100, 1)

    learner = distmeta.load(run_dir)
    for steps in (0, 1, 10, 100):
        model = learner.adapt(x_support, task(x_support), steps=steps)
        error = (model.predict(x_query) - task(x_query)).square().mean()
        print(f"this task after {steps} inner steps: error {error:.3f}")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except distmeta.DistmetaError as error:  # says what is wrong, and what to do
        sys.exit(f"error: {error}")
