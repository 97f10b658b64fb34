"""Sinusoid regression, the toy family of few-shot learning."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from distmeta.config.sections import TaskOptions
from distmeta.core.philox import Purpose, uniform, words
from distmeta.core.records import Split, TaskBatch, TensorSpec
from distmeta.tasks.base import Episode, TaskFamily, TaskSpec
from distmeta.tasks.options import SinusoidOptions

AMPLITUDE = (0.1, 5.0)
PHASE = (0.0, math.pi)
INPUT = (-5.0, 5.0)


class Sinusoid(TaskFamily):
    """y = A sin(x - phase), with A in [0.1, 5], phase in [0, pi] and x in [-5, 5], all uniform.

    Support and query hold ``x`` and ``y``, each (T, shots or queries, 1) float32. The three splits are the
    same distribution with different tasks. Finn, Abbeel, Levine: "Model-agnostic meta-learning", ICML 2017,
    section 5.1.

    >>> options = Sinusoid.Options(kind="sinusoid")
    >>> family = Sinusoid(options, {"train": Episode(shots=10, queries=15, seed=0)}, torch.device("cpu"))
    >>> batch = family.sample("train", range(25))
    >>> batch.support["x"].shape, batch.query["y"].shape
    (torch.Size([25, 10, 1]), torch.Size([25, 15, 1]))
    """

    Options: type[TaskOptions] = SinusoidOptions

    def __init__(self, options: TaskOptions, episodes: Mapping[Split, Episode], device: torch.device) -> None:
        self._episodes = dict(episodes)
        self._device = device

    @classmethod
    def spec(cls, options: TaskOptions) -> TaskSpec:
        """One number in, one out."""
        return TaskSpec(TensorSpec((1,)), outputs=1)

    def sample(self, split: Split, ids: Sequence[int]) -> TaskBatch:
        """These tasks, on the family's device (``ids`` stay on the CPU)."""
        episode = self._episodes[split].at(ids)
        points = episode.shots + episode.queries
        parameters = uniform(words(episode.seed, split, ids, Purpose.PARAMETERS, 2))
        amplitude = _between(AMPLITUDE, parameters[:, :1])
        phase = _between(PHASE, parameters[:, 1:])
        x = _between(INPUT, uniform(words(episode.seed, split, ids, Purpose.INPUTS, points)))
        y = amplitude * np.sin(x - phase)
        data = torch.from_numpy(np.stack([x, y])).to(self._device, torch.float32)[..., None]
        support, query = (
            {"x": part[0].contiguous(), "y": part[1].contiguous()}
            for part in (data[:, :, : episode.shots], data[:, :, episode.shots :])
        )
        return TaskBatch(torch.from_numpy(np.array(ids, dtype=np.int64)), support, query)


def _between(limits: tuple[float, float], fraction: NDArray[np.float64]) -> NDArray[np.float64]:
    low, high = limits
    return low + (high - low) * fraction
