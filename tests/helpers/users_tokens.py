"""A task family of the user's own: two named inputs of whole numbers, whose classes differ in one token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from distmeta.config.sections import TaskOptions
from distmeta.core.philox import Purpose, words
from distmeta.core.records import Split, TaskBatch, TensorSpec
from distmeta.tasks.base import Episode, TaskFamily, TaskSpec

LENGTH, VOCABULARY, WAYS = 4, 12, 3


class TokenOptions(TaskOptions):
    """Settings: examples a class, of support and query alike."""

    objective: str = "cross_entropy"
    examples: int = 2


class Tokens(TaskFamily):
    """Rows of tokens and their positions; the first token says the class."""

    Options = TokenOptions

    def __init__(self, options: TokenOptions, episodes: Mapping[Split, Episode], device: torch.device) -> None:
        self._options, self._episodes, self._device = options, episodes, device

    @classmethod
    def spec(cls, options: TaskOptions) -> TaskSpec:
        tokens = TensorSpec((LENGTH,), "int64")
        return TaskSpec({"tokens": tokens, "positions": tokens}, WAYS)

    def sample(self, split: Split, ids: Sequence[int]) -> TaskBatch:
        count = WAYS * self._options.examples
        drawn = words(self._episodes[split].seed, split, ids, Purpose.EXAMPLES, 2 * count * LENGTH)
        tokens = (drawn % VOCABULARY).astype(np.int64).reshape(len(ids), 2, count, LENGTH)
        labels = np.tile(np.arange(WAYS).repeat(self._options.examples), (len(ids), 2, 1))
        tokens[..., 0] = (labels + np.array(ids)[:, None, None]) % WAYS  # which token means which class is the task's
        parts = [self._data(tokens[:, part], labels[:, part]) for part in range(2)]
        return TaskBatch(torch.tensor(list(ids)), *parts)

    def _data(self, tokens: Any, labels: Any) -> dict[str, torch.Tensor]:
        given = torch.from_numpy(tokens).to(self._device)
        positions = torch.arange(LENGTH, device=self._device).expand_as(given).contiguous()
        return {"tokens": given, "positions": positions, "y": torch.from_numpy(labels).to(self._device)}
