"""A task family of the user's own that learns the width and the scale of its inputs from a file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from distmeta.config.sections import TaskOptions
from distmeta.core.philox import Purpose, uniform, words
from distmeta.core.records import Split, TaskBatch, TensorSpec
from distmeta.errors import DataError
from distmeta.tasks.base import Episode, TaskFamily, TaskSpec


class ScaledOptions(TaskOptions):
    """Settings: where the file is, examples of support and of query."""

    objective: str = "squared_error"
    file: str
    shots: int = 3
    queries: int = 4


class Scaled(TaskFamily):
    """y is the sum of x; the file says how many numbers x has and their scale."""

    Options = ScaledOptions

    def __init__(self, options: ScaledOptions, episodes: Mapping[Split, Episode], device: torch.device) -> None:
        assert options.fitted is not None
        self._fitted, self._episodes, self._device = options.fitted, episodes, device

    @classmethod
    def fit(cls, options: TaskOptions, episodes: Mapping[Split, Episode]) -> dict[str, Any]:
        assert isinstance(options, ScaledOptions)
        path = Path(options.file)
        if not path.exists():
            raise DataError(f"there is no {path}")
        with path.with_name("fits").open("a") as log:  # so that tests see how often
            log.write("fit\n")
        return dict(json.loads(path.read_text()))

    @classmethod
    def spec(cls, options: TaskOptions) -> TaskSpec:
        assert options.fitted is not None
        return TaskSpec(TensorSpec((options.fitted["width"],)), 1)

    def sample(self, split: Split, ids: Sequence[int]) -> TaskBatch:
        episode, width = self._episodes[split], self._fitted["width"]
        count = episode.shots + episode.queries
        drawn = uniform(words(episode.seed, split, ids, Purpose.INPUTS, count * width))
        x = torch.from_numpy(drawn * self._fitted["scale"]).to(self._device, torch.float32).view(len(ids), count, width)
        data = [{"x": part, "y": part.sum(-1, keepdim=True)} for part in x.split([episode.shots, episode.queries], 1)]
        return TaskBatch(torch.tensor(list(ids)), *data)
