"""Whether the inner steps of a trained run come to rest: their objective and its gradient, step by step.

    python benchmarks/inner_objective.py RUN [--tasks 20] [--finer 5] [--json FILE]

Of the run's meta-validation tasks, the mean inner loss (its proximal term included) and the mean norm of its gradient
after shares of the inner steps: with the run's inner rate, and with a rate that is ``--finer`` times as small and as
many times as many steps, which follow the same path more closely. At a minimum the gradient is 0.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from common import show, write

import distmeta
from distmeta.adaptations.base import inner_gradient
from distmeta.config.schema import written_values
from distmeta.loading import load_config
from distmeta.runs.inference import MetaLearner
from distmeta.tasks import open_family

SHARES = (0.0, 0.125, 0.25, 0.5, 1.0)


def along(learner: MetaLearner, support: Any, steps: int) -> dict[str, float]:
    """The inner loss and its gradient's norm after so many steps, means over tasks."""
    losses, norms = [], []
    for x, y in zip(support["x"], support["y"], strict=True):
        adapted, _ = learner.adapt(x, y, steps).solution("support")
        with learner.computing() as parts:
            batch = learner.support_of(x, y).step(0)
            loss, _ = parts.adaptation.loss(adapted, learner.meta, batch)  # type: ignore[attr-defined]
            slope = inner_gradient(parts.adaptation, adapted, learner.meta, batch)  # type: ignore[arg-type]
        losses.append(float(loss))
        norms.append(float(torch.cat([value.flatten() for value in slope.values()]).norm()))
    return {"loss": mean(losses), "gradient": mean(norms)}


def main() -> None:
    """Measure, print the table, write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--tasks", type=int, default=20)
    parser.add_argument("--finer", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    learner = distmeta.load(options.run)
    assert isinstance(learner, MetaLearner)
    config: Any = learner.config
    support = open_family(config, torch.device("cpu")).sample("validation", range(options.tasks)).support
    rows = []
    for times in (1, options.finer):
        rate, steps = config.algorithm.inner_lr / times, config.evaluation.inner_steps * times
        own = load_config(written_values(config), [f"algorithm.inner_lr={rate}"])
        other = MetaLearner(own, learner.meta)
        for share in SHARES:
            taken = round(share * steps)
            rows.append({"inner rate": rate, "inner steps": taken, **along(other, support, taken)})
    show("Inner loss with its proximal term, and the norm of its gradient", rows)
    write(options.json, "inner_objective", {"rows": rows})


if __name__ == "__main__":
    main()
