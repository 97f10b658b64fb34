"""The learner: holds the meta-parameters, and lets the outer step change them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from distmeta.config.sections import OuterOptions
from distmeta.core.layout import Layout, Meta
from distmeta.core.quoting import shown
from distmeta.core.requests import THETA, Start
from distmeta.errors import StorageError
from distmeta.outer import OUTER
from distmeta.outer.base import Ask, Outcome


class Learner:
    """Holds the meta-parameters as one flat float32 vector on the CPU, and the outer step with its state.

    Args:
        options: the settings under ``outer``.
        steps: meta-steps of the whole run.
        meta: initial meta-parameters.

    Attributes:
        step: meta-steps done.
        vector: (P,) float32, the meta-parameters.
        layout: their order in it.
    """

    def __init__(self, options: OuterOptions, steps: int, meta: Meta) -> None:
        self.layout = Layout.of(meta)
        self.step = 0
        # A copy: the outer step writes into it.
        self.vector = self.layout.flatten(meta).detach().to("cpu", torch.float32).clone()
        self._several = len(options.requests) > 1 or options.repeats
        self._outer = OUTER[options.name](options, steps, self.layout, self.vector)

    def start(self) -> Start:
        """What workers compute with; shares the vector's memory."""
        return Start(self.step, {THETA: self.vector})

    def meta(self) -> dict[str, Tensor]:
        """Named views of the meta-parameters."""
        return self.layout.unflatten(self.vector)

    def apply(self, ask: Ask) -> Outcome:
        """One outer step.

        With task losses or a gradient that is not finite nothing changes, and the step does not count; the caller
        raises, or counts it by :meth:`skip`.
        """
        start = self.start()
        outcome = self._outer.step(start.kept() if self._several else start, ask)
        if not outcome.failed:
            self.step += 1
        return outcome

    def skip(self) -> None:
        """Count a step that changed nothing."""
        self.step += 1

    def outer_state(self) -> dict[str, Any]:
        """The outer step's state."""
        return self._outer.state()

    def restore(self, step: int, meta: Meta, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint.

        Raises:
            StorageError: its meta-parameters or the outer step's state are not this run's.
        """
        check_layout(self.layout, meta)
        self._outer.restore(state)
        self.step = step
        self.vector.copy_(self.layout.flatten(meta))


def check_layout(expected: Layout, meta: Meta) -> None:
    """Refuse meta-parameters of other names, shapes or types than a configuration's.

    Raises:
        StorageError: naming the first that differs.
    """
    found = Layout.of(meta)
    known, there = (dict(zip(each.names, each.shapes, strict=True)) for each in (expected, found))
    for name in (*known, *there):
        if known.get(name) != there.get(name):
            wants, holds = (f"of shape {list(each[name])}" if name in each else "absent" for each in (known, there))
            raise StorageError(
                f"the checkpoint does not fit the configuration: meta-parameter {shown(name)[1:-1]} is {holds}, but "
                f"should be {wants}; use another checkpoint, or the configuration that it was made with"
            )
        if meta[name].dtype != torch.float32:
            raise StorageError(
                f"meta-parameter {shown(name)[1:-1]} of the checkpoint is of {meta[name].dtype}, and should be of "
                "torch.float32; use another checkpoint"
            )
