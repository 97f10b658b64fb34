"""A support set of the shape that a learner's meta-test has, of values that mean nothing."""

from __future__ import annotations

import torch
from torch import Tensor

from distmeta.adaptations.base import Support
from distmeta.core.records import TensorSpec
from distmeta.runs.inference import MetaLearner


def example_support(learner: MetaLearner) -> Support:
    """A support set of the meta-test's shape."""
    config, spec = learner.config, learner.parts.spec
    shots = config.evaluation.shots or getattr(config.tasks, "shots", None)
    shots = getattr(shots, "max", shots) or 1
    classes: int | None = None
    if learner.parts.objective.classes:
        ways = config.evaluation.ways or getattr(config.tasks, "ways", None)
        classes = int(getattr(ways, "max", ways) or spec.outputs or 2)
        targets = torch.arange(classes).repeat_interleave(shots)
    else:
        targets = torch.ones(shots, spec.outputs or 1)
    inputs = spec.inputs
    generator = torch.Generator().manual_seed(0)

    def drawn(each: TensorSpec) -> Tensor:
        if each.dtype.startswith("float"):
            return torch.rand(len(targets), *each.shape, generator=generator)
        return torch.ones(len(targets), *each.shape, dtype=getattr(torch, each.dtype))

    named = {"x": inputs} if isinstance(inputs, TensorSpec) else inputs
    return Support({**{name: drawn(each) for name, each in named.items()}, "y": targets}, classes)
