"""Colour images of CIFAR's size that need no download: for timing, not for learning."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from distmeta.config.sections import TaskOptions
from distmeta.core.philox import Purpose, uniform, words
from distmeta.core.records import Split, TaskBatch, TensorSpec
from distmeta.tasks.base import TaskSpec
from distmeta.tasks.glyphs import Glyphs

SIZE = 32


class Pictures(Glyphs):
    """The glyph tasks on 32 x 32 pixels in three colours, under noise, so that no two pixels are equal.

    Equal pixels would make ties in max-pools, which every library's rounding breaks in its own way.
    """

    @classmethod
    def spec(cls, options: TaskOptions) -> TaskSpec:
        """Three channels of 32 x 32 pixels in, the training ways out."""
        return TaskSpec(TensorSpec((3, SIZE, SIZE)), super().spec(options).outputs)

    def sample(self, split: Split, ids: Sequence[int]) -> TaskBatch:
        """These tasks: ``x`` (T, N, 3, 32, 32) float32 in [0, 1], ``y`` (T, N) int64."""
        batch = super().sample(split, ids)
        support, query = batch.support["x"], batch.query["x"]
        images = F.pad(torch.cat([support, query], 1), [(SIZE - support.shape[-1]) // 2] * 4)
        images = _noisy(images.expand(-1, -1, 3, -1, -1), split, ids)
        first, second = images[:, : support.shape[1]].contiguous(), images[:, support.shape[1] :].contiguous()
        return TaskBatch(batch.ids, {**batch.support, "x": first}, {**batch.query, "x": second})


def _noisy(images: Tensor, split: Split, ids: Sequence[int]) -> Tensor:
    noise = uniform(words(0, split, ids, Purpose.INPUTS, images[0].numel())).astype(np.float32)
    return 0.5 * images + 0.5 * torch.from_numpy(noise).view(images.shape).to(images.device)
