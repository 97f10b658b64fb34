"""A program's figures beside those of plain autograd on the user's own module."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

TASKS_COMPARED = 2
"""Tasks that are compared at once."""

TASKS_ALONE = 9
"""Tasks that are compared one by one where together they differ, of which the median counts.

Where an activation lies at the corner of a rectifier, or two values of a max-pool are as good as equal, rounding
decides the side, and the task's meta-gradient is off by a hundredth or more, whoever computes it. Several inner steps
of a network with max-pools do so to every third task, hence to most groups; a missing derivative concerns all tasks."""

FLOAT32_TOLERANCE = 1e-3
"""Relative difference that float32 may have: far above rounding (1e-6), and below a missing derivative."""

AMPLIFIED = 10
"""How many times the difference between plain autograd in float32 and in float64 is still rounding."""


class Compared(Protocol):
    """What is compared."""

    def sample_gradient(self, count: int, first: int = 0) -> Tensor:
        """Meta-gradient (P,) of so many tasks from this one on."""
        ...

    def sample_losses(self, count: int) -> Tensor:
        """(count,) losses of meta-test tasks, after everything else that a run measures has been tried on a task."""
        ...

    def reference_gradient(
        self, count: int, first: int = 0, dtype: torch.dtype = torch.float64, nudge: int = 0
    ) -> Tensor:
        """What :meth:`sample_gradient` is in theory, by plain autograd on the user's own module.

        ``nudge`` moves the parameters by a last bit, every number but 0 in its own way.
        """
        ...

    def reference_losses(self, count: int, dtype: torch.dtype = torch.float64) -> Tensor:
        """What :meth:`sample_losses` is in theory."""
        ...


def disagreement(a: Tensor, b: Tensor) -> float:
    """``|a - b| / |b|`` of two vectors, in float64; 0 where both are zero, or neither is finite.

    >>> disagreement(torch.tensor([3.0, 4.4]), torch.tensor([3.0, 4.0])) < 0.0801
    True
    """
    if not torch.isfinite(b).all():
        return float("inf") if torch.isfinite(a).all() else 0.0
    scale = b.double().abs().max()  # squares of large numbers overflow
    if not scale:
        return float("inf") if a.any() else 0.0
    difference = float((a.double() / scale - b.double() / scale).norm() / (b.double() / scale).norm())
    return difference if difference == difference else float("inf")


class Comparison:
    """Compares whatever plan a program follows with plain autograd, on a few training and meta-test tasks.

    The reference is in float64. Where it cannot be, since a module insists on float32, or where a difference may be
    rounding (an activation at the corner of a rectifier, Adam's direction of a gradient that is zero but for rounding),
    plain autograd in float32 is asked as well: what lies within a few times the distance of the two is rounding.

    Attributes:
        notes: what a user should hear about the comparison.
    """

    def __init__(self, program: Compared) -> None:
        self._program = program
        self._known: dict[tuple[str, int, torch.dtype], Tensor | Exception] = {}
        self.notes: tuple[str, ...] = ()

    def difference(self) -> str | None:
        """What differs beyond rounding; whatever cannot be computed is raised."""
        program = self._program
        if self._apart(TASKS_COMPARED, 0):
            apart = [self._apart(1, task) for task in range(TASKS_ALONE)]
            if statistics.median(apart):
                return f"its meta-gradient differs from plain autograd's by {statistics.median(apart):.1e}"
        beyond = self._beyond(program.sample_losses(TASKS_COMPARED), "losses", 0, self._losses)
        return f"its losses in the meta-test differ from plain autograd's by {beyond:.1e}" if beyond else None

    def _apart(self, count: int, first: int) -> float:
        """How far the gradient of so many tasks is off beyond rounding."""
        program = self._program
        found = program.sample_gradient(count, first)
        return self._beyond(
            found, f"gradient of {count}", first, lambda dtype: program.reference_gradient(count, first, dtype)
        )

    def _losses(self, dtype: torch.dtype) -> Tensor:
        return self._program.reference_losses(TASKS_COMPARED, dtype)

    def _beyond(self, found: Tensor, name: str, first: int, compute: Callable[[torch.dtype], Tensor]) -> float:
        """The relative difference to the reference, or 0 where it is rounding."""
        exact = self._reference(name, first, torch.float64, compute)
        if isinstance(exact, Tensor) and disagreement(found, exact) <= FLOAT32_TOLERANCE:
            return 0.0
        rounded = self._reference(name, first, torch.float32, compute)
        if isinstance(rounded, Exception):
            self.notes = (f"meta-gradients could not be compared with plain autograd: {_first_line(rounded)}",)
            return 0.0
        if isinstance(exact, Exception):
            self.notes = (
                f"compared with plain autograd in float32, since the model cannot run in float64: {_first_line(exact)}",
            )
            exact = rounded
        apart = min(disagreement(found, exact), disagreement(found, rounded))
        rounding = disagreement(rounded, exact)
        return 0.0 if apart <= max(FLOAT32_TOLERANCE, AMPLIFIED * rounding) else apart

    def _reference(
        self, name: str, first: int, dtype: torch.dtype, compute: Callable[[torch.dtype], Tensor]
    ) -> Tensor | Exception:
        key = (name, first, dtype)
        if key not in self._known:
            try:
                self._known[key] = compute(dtype)
            except Exception as error:  # whatever a user's module raises
                self._known[key] = error
        return self._known[key]


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
