"""How a run computes: the decisions that change rounding, taken once and stored with the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Plan:
    """Taken by the first worker at the start of a run, followed by all workers, kept in every checkpoint.

    Attributes:
        mapped: tasks of a chunk are computed together by ``torch.func.vmap``; else one after the other.
        reason: why tasks are not mapped, in the words of the operation that cannot be.
    """

    mapped: bool = True
    reason: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for checkpoints."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Plan:
        """The plan that a checkpoint holds."""
        return cls(**values)
