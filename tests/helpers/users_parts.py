"""A loss with two metrics, an estimator, an outer step and a network of the user's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distmeta.config.sections import EstimatorOptions, OuterOptions
from distmeta.core.requests import Request, Start
from distmeta.estimators.exact import Exact
from distmeta.outer.base import Ask, Outcome
from distmeta.outer.sums import euclidean_norm


class Smoothed:
    """Cross-entropy with smoothed labels, reported with accuracy and confidence."""

    metrics = ("accuracy", "confidence")
    higher_is_better = True
    classes = True

    def loss(self, outputs: Tensor, data: Mapping[str, Tensor]) -> Tensor:
        return F.cross_entropy(outputs, data["y"], label_smoothing=0.1)

    def measure(self, outputs: Tensor, data: Mapping[str, Tensor]) -> dict[str, Tensor]:
        probabilities = outputs.softmax(-1)
        right = (outputs.argmax(-1) == data["y"]).to(outputs.dtype).mean()
        return {"accuracy": right, "confidence": probabilities.amax(-1).mean()}


class HalvedOptions(EstimatorOptions):
    """By how much the exact meta-gradient is scaled."""

    share: float = 0.5


class Halved:
    """A share of the exact meta-gradient."""

    Options = HalvedOptions
    merges_query = False

    def __init__(self, options: Any, adaptation: Any) -> None:
        self._share = options.share
        self._exact = Exact(options, adaptation)

    def gradient(self, meta: Any, task: Any, steps: int | None) -> tuple[Any, Any]:
        found, measured = self._exact.gradient(meta, task, steps)
        return {name: self._share * value for name, value in found.items()}, measured

    def follow(self, differentiation: Any) -> None:
        self._exact.follow(differentiation)


class SignOptions(OuterOptions):
    """The length of every element's step."""

    requests = ("gradient",)

    rate: float = 0.01


class Sign:
    """Every meta-parameter moves by the same length, against the sign of its gradient."""

    Options = SignOptions

    def __init__(self, options: SignOptions, steps: int, layout: Any, theta: Tensor) -> None:
        self._rate, self._taken = options.rate, 0

    def step(self, start: Start, ask: Ask) -> Outcome:
        answer = ask(Request("gradient", start))
        norm = euclidean_norm(answer.vector / answer.tasks)
        if answer.nonfinite:
            return Outcome(answer, norm, self._rate, False, answer.nonfinite)
        start.theta.sub_(answer.vector.sign(), alpha=self._rate)
        self._taken += 1
        return Outcome(answer, norm, self._rate, True, metrics={"taken": float(self._taken)})

    def state(self) -> dict[str, Any]:
        return {"taken": self._taken}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._taken = int(state.get("taken", 0))


class Reader(nn.Module):
    """Embeds tokens and positions, which it gets by name."""

    def __init__(self, input_shape: Any, outputs: int) -> None:
        super().__init__()
        (length,) = input_shape["tokens"]
        self.tokens, self.positions = nn.Embedding(12, 8), nn.Embedding(length, 8)
        self.head = nn.Linear(8, outputs)

    def forward(self, *, tokens: Tensor, positions: Tensor) -> Tensor:
        hidden: Tensor = torch.tanh(self.tokens(tokens) * self.positions(positions)).sum(1)
        outputs: Tensor = self.head(hidden)
        return outputs


make: Callable[..., nn.Module] = Reader


def own_parts_settings() -> dict[str, Any]:
    """A configuration in which all of them stand."""
    return {
        "name": "own",
        "tasks": {"kind": "module:users_tokens.Tokens", "objective": "module:users_parts.Smoothed", "examples": 2},
        "model": {"kind": "module:users_parts.make"},
        "algorithm": {
            "name": "maml",
            "inner_lr": 0.5,
            "estimator": "module:users_parts.Halved",
            "share": 0.25,
        },
        "outer": {"name": "module:users_parts.Sign", "rate": 0.02},
        "run": {"steps": 20, "meta_batch": 6, "tasks_per_shard": 2, "validate_every": 5, "checkpoint_every": 5},
        "evaluation": {"tasks": 12, "validation_tasks": 6},
    }
