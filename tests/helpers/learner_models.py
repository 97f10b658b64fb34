"""Networks of users' own, for the tests of a trained learner in use."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Normalised(nn.Module):
    """Batch norms that use the statistics of their batch, by themselves and after one another."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(1, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8))
        self.norm = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, outputs)

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.head(torch.tanh(self.norm(self.layers(x))))
        return outputs


class Attentive(nn.Module):
    """Attention, dropout, and a buffer that is no statistics."""

    scale: Tensor

    def __init__(self, input_shape: tuple[int, ...], outputs: int, width: int = 8) -> None:
        super().__init__()
        self.embedding = nn.Linear(math.prod(input_shape), 4 * width)
        self.attention = nn.MultiheadAttention(width, 2, dropout=0.2, batch_first=True)
        self.encoder = nn.TransformerEncoderLayer(width, 2, 2 * width, dropout=0.1, batch_first=True)
        self.dropout = nn.Dropout(0.3)
        self.register_buffer("scale", torch.tensor(0.5))
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.embedding(x.flatten(1)).unflatten(1, (4, -1)) * self.scale
        rows = self.encoder(rows + self.attention(rows, rows, rows)[0])
        outputs: Tensor = self.head(self.dropout(rows.mean(1)))
        return outputs


SEED = 0


class Frozen(nn.Module):
    """A backbone that is random, frozen, and another one where ``SEED`` is: as a file of weights may change."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Linear(1, 8)
        with torch.no_grad():
            self.backbone.weight.copy_(torch.empty(8, 1).normal_(generator=torch.Generator().manual_seed(SEED)))
        self.backbone.requires_grad_(False)
        self.head = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.head(torch.tanh(self.backbone(x)))
        return outputs


class InPlace(nn.Module):
    """Writes to what it is given, as many a preprocessing does."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(1, 8), nn.ReLU(inplace=True), nn.Linear(8, 1))

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.layers(x.mul_(2).sub_(1))
        return outputs
