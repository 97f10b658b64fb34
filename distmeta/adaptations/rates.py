"""Inner learning rates, given or meta-learned."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from distmeta.adaptations.options import GradientDescentOptions
from distmeta.core.layout import Meta
from distmeta.core.philox import Purpose, uniform, words
from distmeta.models.base import Network

RATES = "rates/"
"""Prefix of learned inner rates in a :data:`~distmeta.core.layout.Meta`."""

DRAWN = 2**18
"""Rates that are drawn at a time."""


class Rates:
    """The rate of each parameter in each step.

    ``learned_rates`` makes them meta-parameters ``rates/NAME``: a number (``per_tensor``), of the parameter's shape
    (``per_element``: Li et al. 2017, arXiv 1707.09835, equation 2), or (K,), one for each of the training's inner steps
    (``per_step``: Antoniou, Edwards, Storkey, ICLR 2019, section 4), of which further steps use the last.
    """

    def __init__(self, options: GradientDescentOptions, names: Sequence[str], network: Network) -> None:
        self._options = options
        self._parameters = {name: network.parameters[name] for name in names}

    def extras(self, seed: int) -> dict[str, Tensor]:
        """The first learned rates, constant or uniform in the range."""
        kind, rate = self._options.learned_rates, self._options.inner_lr
        if kind == "none":
            return {}
        low, high = rate if isinstance(rate, tuple) else (rate, rate)
        extras = {}
        for place, (name, parameter) in enumerate(self._parameters.items()):
            steps = (self._options.inner_steps,) if kind == "per_step" else ()
            shape = parameter.shape if kind == "per_element" else steps
            if low == high:
                extras[RATES + name] = torch.full(shape, low).to(parameter)
            else:
                extras[RATES + name] = (low + (high - low) * _draws(seed, place, shape)).clamp(max=high).to(parameter)
        return extras

    def of(self, meta: Meta, name: str, step: int) -> float | Tensor:
        """The rate of a parameter in step ``step`` (0, 1, ...)."""
        kind, rate = self._options.learned_rates, self._options.inner_lr
        if kind == "per_step":
            learned = meta[RATES + name]
            return learned[min(step, len(learned) - 1)]
        if kind != "none":
            return meta[RATES + name]
        assert not isinstance(rate, tuple)
        return rate


def _draws(seed: int, place: int, shape: Sequence[int]) -> Tensor:
    """Numbers uniform in [0, 1) for the rates of one parameter, from a stream that nothing else draws from."""
    count = math.prod(shape)
    rows = range(place << 32, (place << 32) + -(-count // DRAWN))  # drawn one by one, which bounds memory
    drawn = [uniform(words(seed, "train", [row], Purpose.RATES, DRAWN)).astype(np.float32) for row in rows]
    return torch.from_numpy(np.concatenate(drawn).reshape(-1)[:count]).view(tuple(shape))
