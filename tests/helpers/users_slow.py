"""Functions of one task that take a while, in a module that is imported quickly."""

from __future__ import annotations

import time

import numpy as np


def slow(split, generator, wait: float = 0.02):
    """A line's points."""
    time.sleep(wait)
    x = generator.normal(size=(6, 1))
    y = x * generator.normal()
    return (x[:3], y[:3]), (x[3:], y[3:])


def slow_and_wrong(split, generator, wait: float = 0.0):
    """One that fails for some tasks of the test split, not for the first one."""
    time.sleep(wait)
    x = generator.normal(size=(3, 1))
    if split == "test" and x[0, 0] < -0.5:
        raise ValueError("negative")
    return (x, x), (x, x)


def hashes(split, generator, wait: float = 0.0):
    """The same in one process only."""
    time.sleep(wait)
    x = np.full((3, 1), hash("a name") % 1000, float)
    return (x, x), (x, x)
