"""How much of the way to an oracle adaptation goes, on HalfCheetahVel: the oracle's policy sees the velocity to run at.

    PYTHONPATH=benchmarks distmeta train configs/half_cheetah_vel_promp.yaml \
        tasks.kind=module:oracle.SeenVelocity algorithm.inner_lr=1e-6 name=half_cheetah_vel_oracle
    python benchmarks/oracle.py RUN ORACLE [--json FILE]

The oracle is trained as the run is, with the task's velocity beside the observations and without adaptation (an inner
rate of a millionth changes nothing). Both are measured on tasks of the same distribution, and before any adaptation the
run's policy is what one policy for all velocities is worth.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from common import show, write

from distmeta.core.records import Data, TensorSpec
from distmeta.tasks.base import TaskSpec
from distmeta.tasks.environments.locomotion import Bodies, HalfCheetahVel

if TYPE_CHECKING:
    from torch import Tensor

    from distmeta.config.sections import TaskOptions


class SeenVelocity(HalfCheetahVel):
    """HalfCheetahVel with the task's velocity as the last number of an observation."""

    @classmethod
    def spec(cls, options: TaskOptions) -> TaskSpec:
        """One number more than HalfCheetahVel's."""
        spec = super().spec(options)
        (seen,) = cast(TensorSpec, spec.inputs).shape
        return replace(spec, inputs=TensorSpec((seen + 1,)))

    def observe(self, tasks: Data, state: Bodies) -> Tensor:
        """What HalfCheetahVel shows, and the velocity."""
        import torch

        seen = super().observe(tasks, state)
        velocity = tasks["velocity"].to(seen).view(-1, 1, 1).expand(*seen.shape[:2], 1)
        return torch.cat([seen, velocity], -1)


def returns(run: Path) -> list[float]:
    """Mean returns on the meta-test tasks before adaptation and after each inner step."""
    result = json.loads((run / "result.json").read_text())
    return [float(step["mean"]) for step in result["meta_test"]["by_step"]]


def main() -> None:
    """Compare a run with its oracle."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("oracle", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    run, oracle = returns(arguments.run), returns(arguments.oracle)[0]
    gap = oracle - run[0]
    rows: list[Mapping[str, Any]] = [
        {"inner steps": str(step), "return": f"{value:.1f}", "of the gap": f"{(value - run[0]) / gap:.1%}"}
        for step, value in enumerate(run)
    ]
    show(f"return; an oracle that sees the velocity has {oracle:.1f}", rows)
    write(arguments.json, "oracle", {"returns": run, "oracle": oracle, "gap": gap})


if __name__ == "__main__":
    main()
