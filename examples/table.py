"""MAML on a table, beside a network that was trained on all tasks together and is then fine-tuned.

python examples/table.py [FOLDER] [KEY=VALUE]...     for example: runs/table run.steps=2000
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import distmeta

CONFIG = Path(__file__).parents[1] / "configs" / "table_oscillators_maml.yaml"
RATES = (0.003, 0.01, 0.03, 0.1, 0.3)


def make(path: Path, oscillators: int = 20_000, readings: int = 50) -> None:
    """Masses on springs, each with its own stiffness, friction and start: only time and position are written down."""
    draw = np.random.default_rng(0)
    stiffness, friction = draw.uniform(0.5, 1.5, oscillators), draw.uniform(0.0, 0.2, oscillators)
    height, phase = draw.uniform(1, 5, oscillators), draw.uniform(0, 2 * np.pi, oscillators)
    which, time = np.repeat(np.arange(oscillators), readings), draw.uniform(0, 6, oscillators * readings)
    frequency = np.sqrt(stiffness - friction**2 / 4)  # of x'' + friction x' + stiffness x = 0
    position = height[which] * np.exp(-friction[which] / 2 * time) * np.cos(frequency[which] * time + phase[which])
    pq.write_table(pa.table({"oscillator": which, "time": time, "position": position}), path)


def run(folder: Path, *settings: str) -> dict[str, Any]:
    """Train, or go on with training; gives the meta-test."""
    for _ in distmeta.train(distmeta.load_config(CONFIG, settings), folder, resume=True):
        pass
    return distmeta.evaluate(folder)


def main(folder: str = "runs/table", *overrides: str) -> None:
    """Make the table, train both, and adapt both to the same new oscillators, in as many steps."""
    home, table = Path(folder), Path(folder) / "oscillators.parquet"
    home.mkdir(parents=True, exist_ok=True)
    make(table)
    maml = run(home / "maml", f"tasks.path={table}", *overrides)
    # Inner steps of no length: the network learns what all oscillators have in common.
    run(
        home / "joint", f"tasks.path={table}", *overrides, "algorithm.inner_lr=1e-30", "algorithm.estimator=first_order"
    )
    tuned = {rate: distmeta.evaluate(home / "joint", [f"algorithm.inner_lr={rate}"])["mse"]["mean"] for rate in RATES}
    rate = min(tuned, key=tuned.__getitem__)  # chosen on the test tasks themselves, in the network's favour
    print(f"MAML: error {maml['before_adaptation']['mean']:.3f} cm², {maml['mse']['mean']:.3f} after adaptation")
    print(f"a network trained on all tasks together: {tuned[rate]:.3f} after adaptation at its best rate, {rate}")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except distmeta.DistmetaError as error:  # says what is wrong, and what to do
        sys.exit(f"error: {error}")
