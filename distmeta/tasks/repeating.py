"""Whether the user's code gives the same task for the same id: tried on a few."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from distmeta.core.records import SPLITS, Split
from distmeta.tasks.making import TaskMaker
from distmeta.tasks.reading import TaskName

REPEATED: Sequence[tuple[Split, int]] = (("train", 0), ("train", 1), ("validation", 0), ("test", 0))
"""Tasks that are made twice: in this order, then in the opposite one."""


def check_repeatable(kind: str, maker: TaskMaker) -> None:
    """Make a few tasks again: in another order, and after global random numbers were seeded anew.

    Raises:
        DataError: naming a task that is another one the second time, and where that may come from.
    """
    with _random_state() as (restore, reseed):
        for split in SPLITS:
            maker.first(split)
        restore()
        before = [maker.again(*place).digest() for place in REPEATED]
        reseed()
        after = [maker.again(*place).digest() for place in reversed(REPEATED)][::-1]
        differing = [place for place, one, two in zip(REPEATED, before, after, strict=True) if one != two]
        if not differing:
            return
        restore()
        again = [maker.again(*place).digest() for place in REPEATED]
    if again == before:
        why = (
            "it uses global random numbers (random, numpy.random or torch), which are other ones in every process; "
            "draw from the generator that it is given"
        )
    else:
        why = (
            "it depends on earlier calls, on time, or on a generator of its own; draw from the generator that it is "
            "given, and keep nothing from one call to the next"
        )
    split, task = differing[0]
    raise TaskName(kind, split, task).refuse(f"called twice, it gave two different tasks: {why}")


@contextmanager
def _random_state() -> Iterator[tuple[Callable[[], None], Callable[[], None]]]:
    """Ways to put the global random numbers back as they are now, and to seed them anew; put back at the end."""
    torch: Any = sys.modules.get("torch")  # not imported for this: without it, nobody draws from it
    python, numpy = random.getstate(), np.random.get_state()
    tensor = torch.get_rng_state() if torch else None

    def restore() -> None:
        random.setstate(python)
        np.random.set_state(numpy)
        if torch:
            torch.set_rng_state(tensor)

    def reseed() -> None:
        # By the system's entropy: other threads may draw meanwhile, and should not draw what another process does.
        random.seed()
        np.random.seed()
        if torch:
            torch.default_generator.seed()

    try:
        yield restore, reseed
    finally:
        restore()
