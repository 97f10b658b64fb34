"""The values of a sweep's trials: drawn, listed, perturbed."""

from __future__ import annotations

import copy
import itertools
import random
from collections.abc import Mapping
from typing import Any

from distmeta.config.text import put, read_mapping
from distmeta.sweeps.sections import Domain, Pbt, SweepOptions

Values = dict[str, Any]
"""What distinguishes a trial: values by dotted keys of the configuration."""

DEFAULT_TRIALS = 16
"""Trials of a sweep that does not say how many."""


def points(options: SweepOptions) -> tuple[Values, ...]:
    """The values of all trials."""
    space, chance = options.space, random.Random(options.seed)
    if options.searcher == "grid":
        found: list[Values] = []
        for each in _combinations(space, list(space)):
            values = drawn(space, chance, each)
            if values not in found:  # combinations of keys that are not set are the same trial
                found.append(values)
        return tuple(found)
    given = itertools.islice(itertools.cycle(grid(space)), (options.trials or DEFAULT_TRIALS) - len(options.first))
    return (*options.first, *(drawn(space, chance, each) for each in given))


def drawn(space: Mapping[str, Domain], chance: random.Random, given: Values) -> Values:
    """The values of one trial: those given, the others drawn; without those of keys that are not set beside them."""
    values: Values = {}
    for key, domain in space.items():
        value = given[key] if key in given else domain.draw(chance)  # drawn for keys that are not set too: as many
        if domain.active(values):
            values[key] = value
    return values


def grid(space: Mapping[str, Domain]) -> list[Values]:
    """The combinations of the keys with ``grid``."""
    return _combinations(space, [key for key, domain in space.items() if domain.kind == "grid"])


def _combinations(space: Mapping[str, Domain], keys: list[str]) -> list[Values]:
    return [dict(zip(keys, each, strict=True)) for each in itertools.product(*(space[key].values for key in keys))]


def perturb(values: Values, options: SweepOptions, chance: random.Random) -> Values:
    """Other rates near these, or drawn anew, within the space: the step that population-based training explores by."""
    assert isinstance(options.scheduler, Pbt)
    new = dict(values)
    for key, domain in options.space.items():
        if chance.random() < options.scheduler.resample:
            new[key] = domain.draw(chance)
        else:
            new[key] = domain.clip(values[key] * (0.8 if chance.random() < 0.5 else 1.25))
    return new


def changed(base: Mapping[str, Any], values: Values) -> dict[str, Any]:
    """A copy of a configuration with values at dotted keys."""
    copied = read_mapping(base)
    for key, value in values.items():
        put(copied, key, copy.deepcopy(value))  # a section may be changed by the keys within it
    return copied
