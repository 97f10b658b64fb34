"""Every algorithm trains on tasks without labels as it does on others: the runs differ in ``tasks`` alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distmeta.algorithms import ALGORITHMS
from distmeta.data.partitions import write_partitions
from distmeta.loading import load_config
from distmeta.programs.supervised import SupervisedProgram
from distmeta.tasks import Glyphs

CPU = torch.device("cpu")
SIZES = {"ways": 3, "shots": 1, "queries": 2}


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Tasks of the same images: with labels, by UMTRA, and by CACTUs from random clusters."""
    source = {"kind": "glyphs"}
    pool = Glyphs(Glyphs.Options(**source), {}, CPU).pool("train")
    path: Path = tmp_path_factory.mktemp("clusters") / "own.partition"
    labels = np.random.default_rng(0).integers(0, 100, (2, len(pool)), dtype=np.int32)
    write_partitions(path, labels, {"images": pool.digest})
    unlabelled = {"kind": "unlabelled", "source": source, **SIZES}
    return {
        "labelled": {**source, **SIZES},
        "umtra": {**unlabelled, "augment": {"rotation": 20, "shift": 3}},
        "cactus": {**unlabelled, "method": "cactus", "partition": str(path)},
    }


# These need other networks, or classes that are the same in all tasks.
OTHERS = {"maml_plus_plus", "cavia", "in_context", "baseline", "baseline_plus_plus"}


@pytest.mark.parametrize(
    "algorithm", [name for name, each in ALGORITHMS.items() if not each.of_policies and name not in OTHERS]
)
def test_every_algorithm_takes_tasks_without_labels(algorithm: str, kinds: dict[str, dict[str, Any]]) -> None:
    programs = {
        name: SupervisedProgram(
            load_config(
                {"tasks": tasks, "model": {"kind": "mlp", "hidden": [8]}, "algorithm": {"name": algorithm}, "seed": 1}
            ),
            CPU,
        )
        for name, tasks in kinds.items()
    }
    initial = programs["labelled"].initial_vector()
    gradients = {}
    for name, program in programs.items():
        assert torch.equal(program.initial_vector(), initial)
        gradients[name] = program.sample_gradient(2)
        assert torch.isfinite(gradients[name]).all()
        assert gradients[name].norm() > 0
        assert torch.isfinite(program.sample_losses(2)).all()
    assert not torch.equal(gradients["umtra"], gradients["labelled"])
    assert not torch.equal(gradients["cactus"], gradients["labelled"])
    assert torch.equal(programs["umtra"].sample_losses(2), programs["labelled"].sample_losses(2))  # of the same test
