"""Functions of one task, as users write them: right ones, and one for each way to be wrong."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

CALLS: list[tuple[str, dict[str, Any]]] = []
BUFFER = np.zeros((4, 2))
UNSEEDED = np.random.default_rng()


def line(split, generator, noise: float = 0.1, shots: int = 5, queries: int = 10):
    """Regression: a line's points."""
    slope, height = generator.normal(size=2)
    x = generator.uniform(-2, 2, size=(shots + queries, 1))
    y = slope * x[:, 0] + height + noise * generator.normal(size=len(x))
    return (x[:shots], y[:shots]), (x[shots:], y[shots:])


def blobs(split, generator, *, ways=4, shots=2, queries=3, dim: int = 3):
    """Classification: clouds of points."""
    centres = 3 * generator.normal(size=(ways, dim))

    def part(count):
        y = np.arange(ways, dtype=np.int32).repeat(count)
        return centres[y] + generator.normal(size=(len(y), dim)), y

    return part(shots), part(queries)


def named(split, generator, length: int = 6):
    """Several inputs by name, tensors of torch, whole numbers and a mask."""

    def part(count):
        tokens = torch.from_numpy(generator.integers(0, 12, size=(count, length), dtype=np.int32))
        tokens[:, 0] = torch.arange(count) % 3
        return {"tokens": tokens, "mask": tokens > 2}, (tokens[:, 0]).to(torch.uint8)

    return part(3), part(6)


def many(split, generator, **settings):
    """Takes whatever it is given."""
    CALLS.append((split, settings))
    size = settings.get("shots", 3)
    return (np.zeros((size, 2)), np.zeros(size)), (np.ones((4, 2)), np.ones((4, 3))[:, 0])


def typed(
    split: str,
    generator: np.random.Generator,
    root: Path = Path("data"),
    how: Literal["plain", "odd"] = "plain",
    sizes: tuple[int, ...] = (2, 3),
    limit: int = None,  # type: ignore[assignment]  # noqa: RUF013  # as people write it
    transform=np.sin,
    _hidden=3,
):
    """Settings of several types."""
    CALLS.append((split, {"root": root, "how": how, "sizes": sizes, "limit": limit}))
    return (np.zeros((2, 1)), np.zeros(2)), (np.ones((2, 1)), np.ones(2))


def buffered(split, generator):
    """Fills the same memory for every task."""
    BUFFER[:] = generator.normal(size=BUFFER.shape)
    return (BUFFER, BUFFER[:, 0]), (BUFFER, BUFFER[:, 1])


class Callable:
    """A callable that is no function."""

    def __call__(self, split, generator, dim: int = 2):
        x = generator.normal(size=(4, dim))
        return (x, x[:, 0]), (x, x[:, 1])


an_object = Callable()
a_number = 3


def no_generator(split):
    return None


def reserved(split, generator, kind="x"):
    return None


def nameless(split, generator, size, /):
    return None


# Wrong in what they return ----------------------------------------------------------------------------------------

X, Y = np.zeros((4, 2)), np.zeros(4)
GOOD = (X, Y)


def _returning(support, query=GOOD):
    def task(split, generator, ways=None):
        return support, query

    return task


def _changing(change):
    """Right for task 0; another part for the others."""

    def task(split, generator, ways=None):
        at = float(generator.random())
        first = getattr(task, "first", None)
        task.first = first = at if first is None else first
        return (GOOD, GOOD) if at == first else (change, change)

    return task


def returns_nothing(split, generator):
    CALLS.append((split, {}))


def raises(split, generator):
    values = {}
    return values["missing"]


def three(split, generator):
    return GOOD, GOOD, GOOD


bare = _returning(X)
lists = _returning(([[1.0], [2.0]], Y))
ragged = _returning((np.array([np.zeros(2), np.zeros(3)], dtype=object), Y))
text = _returning((np.array(["a", "b"]), Y))
complexes = _returning((np.zeros((4, 2), complex), Y))
scalar = _returning((np.array(1.0), Y))
uneven = _returning((np.zeros((3, 2)), Y))
empty = _returning((np.zeros((0, 2)), np.zeros(0)))
infinite = _returning((np.array([[0.0, 1e300], [1.0, 2.0]]), np.zeros(2)))
not_a_number = _returning(GOOD, (X, np.array([0.0, np.nan, 1.0, 2.0])))
other_types = _returning(GOOD, (np.zeros((4, 2), int), Y))
other_names = _returning(({"a": X}, Y), ({"b": X}, Y))
no_inputs = _returning(({}, Y), ({}, Y))
y_as_input = _returning(({"y": X}, Y), ({"y": X}, Y))
x_and_more = _returning(({"x": X, "z": X}, Y), ({"x": X, "z": X}, Y))
cube = _returning((X, np.zeros((4, 2, 2))))
whole = _returning((X, np.arange(4)), (X, np.arange(4)))
sparse = _returning((torch.zeros(4, 2).to_sparse(), Y))
too_large = _returning((np.full((4, 2), 2**63, np.uint64), Y))
other_shape = _changing((np.zeros((5, 2)), np.zeros(5)))
other_examples = _changing((np.zeros((4, 3)), Y))


def labels_beyond(split, generator, ways=3):
    y = np.array([0, 1, 2, 3])
    return (X, np.minimum(y, 2)), (X, y)


def negative_labels(split, generator, ways=3):
    return (X, np.array([0, 1, 2, -1])), (X, np.zeros(4, int))


def floating_labels(split, generator, ways=3):
    return (X, Y), (X, Y)


def two_labels(split, generator, ways=3):
    return (X, np.zeros((4, 2), int)), (X, np.zeros((4, 2), int))


# Wrong in how they draw ------------------------------------------------------------------------------------------


def draws_python(split, generator):
    return (X + random.random(), Y), GOOD


def draws_numpy(split, generator):
    return (X + np.random.random(), Y), GOOD


def draws_torch(split, generator):
    return (torch.from_numpy(X) + torch.rand(()), Y), GOOD


def draws_its_own(split, generator):
    return (X + UNSEEDED.random(), Y), GOOD


def counts(split, generator):
    CALLS.append((split, {}))
    return (X + len(CALLS), Y), GOOD
