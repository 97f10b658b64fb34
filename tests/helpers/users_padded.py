"""Task families of the user's own whose tasks have unequal numbers of examples, filled up with padding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from distmeta.config.sections import TaskOptions
from distmeta.core.philox import Purpose, integers, uniform, words
from distmeta.core.records import Split, TaskBatch, TensorSpec
from distmeta.tasks.base import Episode, TaskFamily, TaskSpec

MOST, WIDTH, WAYS = 7, 4, 3


class PaddedOptions(TaskOptions):
    """``classes`` says what ``y`` is; ``said`` and ``given`` whether weights are announced, and there."""

    objective: str = "squared_error"
    classes: bool = False
    said: bool = True
    given: bool = True


class Padded(TaskFamily):
    """3 to 7 support examples and 4 to 7 of the query: of each class at least one, whose inputs differ in the mean."""

    Options: ClassVar[type[TaskOptions]] = PaddedOptions

    def __init__(self, options: PaddedOptions, episodes: Mapping[Split, Episode], device: torch.device) -> None:
        self._options, self._episodes, self._device = options, episodes, device

    @classmethod
    def spec(cls, options: TaskOptions) -> TaskSpec:
        assert isinstance(options, PaddedOptions)
        return TaskSpec(TensorSpec((WIDTH,)), WAYS, weighted=options.said)

    def sample(self, split: Split, ids: Sequence[int]) -> TaskBatch:
        seed = self._episodes[split].seed
        counts = [
            least + integers(words(seed, split, ids, Purpose.PARAMETERS, 2)[:, part], MOST + 1 - least)
            for part, least in enumerate((3, 4))
        ]
        numbers = uniform(words(seed, split, ids, Purpose.INPUTS, 2 * MOST * (WIDTH + WAYS))) - 0.5
        drawn = numbers.reshape(len(ids), 2, MOST, WIDTH + WAYS).astype(np.float32)
        parts = [self._part(drawn[:, part], counts[part]) for part in range(2)]
        return TaskBatch(torch.tensor(list(ids)), *parts)

    def _part(self, drawn: np.ndarray, counts: np.ndarray) -> dict[str, torch.Tensor]:
        labels = np.tile(np.arange(MOST) % WAYS, (len(drawn), 1))
        x, y = drawn[..., :WIDTH] + 0.3 * labels[..., None], drawn[..., WIDTH:]
        weight = (np.arange(MOST) < counts[:, None]).astype(np.float32)
        # Padding is anything finite: were it not left out, it would be seen.
        found = {"x": x.astype(np.float32), "y": labels if self._options.classes else y}
        if self._options.given:
            found["weight"] = weight
        return {name: torch.from_numpy(np.ascontiguousarray(value)).to(self._device) for name, value in found.items()}


def normed(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    """A network with batch statistics."""
    return nn.Sequential(
        nn.Linear(input_shape[0], 5), nn.BatchNorm1d(5, track_running_stats=False), nn.Linear(5, outputs)
    )


class Plain:
    """An objective that takes no weights."""

    metrics = ("mse",)
    higher_is_better = False
    classes = False

    def loss(self, outputs: Tensor, data: Mapping[str, Tensor]) -> Tensor:
        return (outputs - data["y"]).square().mean()

    def measure(self, outputs: Tensor, data: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"mse": self.loss(outputs, data)}
