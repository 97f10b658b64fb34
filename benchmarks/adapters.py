"""What travels and what is stored where a large frozen network adapts by matrices of low rank.

    python benchmarks/adapters.py --data CLINC150 [--width 768] [--depth 7] [--steps 4] [--json FILE] [key=value ...]

A transformer of random weights, 50 million as it stands here, is trained for a few meta-steps on two Ray workers by
LoRA, with a checkpoint at each. Messages are pickled as they go between driver and worker; checkpoints are the files of
the run.
"""

from __future__ import annotations

import argparse
import pickle
import tempfile
from pathlib import Path
from typing import Any

import torch
from common import show, write

import distmeta
from distmeta.config.schema import Config
from distmeta.core.requests import Request, Start
from distmeta.loading import load_config
from distmeta.programs.engine.assembly import Assembly
from distmeta.programs.supervised import SupervisedProgram
from distmeta.tasks import fit_family


def settings(data: Path, width: int, depth: int, steps: int, overrides: list[str]) -> Config:
    """The run."""
    return load_config(
        {
            "name": "adapters",
            "tasks": {"kind": "clinc150", "root": str(data), "ways": 5, "shots": 1, "queries": 1, "length": 32},
            "model": {"kind": "transformer", "width": width, "depth": depth, "heads": width // 64},
            "algorithm": {"name": "lora", "rank": 4, "layers": "blocks.*", "inner_lr": 0.1, "inner_steps": 1},
            "run": {"steps": steps, "meta_batch": 2, "tasks_per_shard": 1, "checkpoint_every": 1, "keep": steps},
            "evaluation": {"tasks": 2, "validation_tasks": 2},
            "engine": {"compile": "none", "differentiation": "reverse"},
            "cluster": {"workers": 2},
        },
        overrides,
    )


def messages(config: Config) -> dict[str, Any]:
    """Parameters, and megabytes of what a worker gets and gives in a meta-step."""
    config = fit_family(config)
    program = SupervisedProgram(config, torch.device("cpu"))
    program.follow(program.probe())
    request = Request("gradient", Start.of(0, program.initial_vector()))
    answer = program.answer(request, "train", range(1))
    parts = Assembly(config)
    constants = parts.network.constants()
    return {
        "frozen parameters": sum(constants[name].numel() for name in parts.frozen),
        "meta-parameters": len(program.initial_vector()),
        "trunk MB": sum(constants[name].nbytes for name in parts.frozen) / 1e6,
        "to a worker, MB a step": len(pickle.dumps(request)) / 1e6,
        "from a worker, MB a step": len(pickle.dumps(answer)) / 1e6,
    }


def files(folder: Path) -> dict[str, Any]:
    """Megabytes of a run's checkpoints, and of what lies beside them once."""
    steps = sorted((folder / "checkpoints").glob("step-*"))
    sizes = [sum(each.stat().st_size for each in step.rglob("*") if each.is_file()) / 1e6 for step in steps]
    beside = [each.stat().st_size / 1e6 for each in (folder / "checkpoints").glob("frozen-*")]
    return {
        "checkpoints": len(steps),
        "largest checkpoint, MB": max(sizes),
        "trunk's files": len(beside),
        "trunk's files, MB": sum(beside),
    }


def main() -> None:
    """Measure, print the table, write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of CLINC150")
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--depth", type=int, default=7)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--json", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    options = parser.parse_intermixed_args()
    config = settings(options.data, options.width, options.depth, options.steps, options.overrides)
    figures = messages(config)
    with tempfile.TemporaryDirectory() as folder:
        for _ in distmeta.train(config, Path(folder) / "run"):
            pass
        figures |= files(Path(folder) / "run")
    show("A frozen transformer and adapters of rank 4", [{"what": name, "value": at} for name, at in figures.items()])
    write(options.json, "adapters", {"overrides": options.overrides, "figures": figures})


if __name__ == "__main__":
    main()
