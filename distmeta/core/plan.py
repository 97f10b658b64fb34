"""How a run computes: the decisions that change rounding, taken once and stored with the run."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from distmeta.core.quoting import shown

log = logging.getLogger(__name__)

Differentiation = Literal["reverse", "mixed"]
Compile = Literal["none", "graph", "inductor"]
Layers = Literal["native", "products", "general"]
Precision = Literal["float32", "tf32", "bf16"]
Running = Literal["mapped", "looped", "plain"]
"""Tasks of a chunk together by ``torch.func.vmap``; one by one, by ``torch.func``; one by one, by plain autograd."""


@dataclass(frozen=True)
class Plan:
    """Taken by the first worker at the start of a run, followed by all workers, kept in every checkpoint.

    Attributes:
        running: how tasks are computed; the first of :data:`Running` that works.
        reason: why tasks are not mapped, in the words of the operation that cannot be.
        chunk: tasks of a shard that are computed together; ``None`` for all of them.
        layers: what computes convolutions and batch norms.
        compile: whether the mapped operations are recorded, or compiled.
        precision: of products.
        differentiation: of the exact estimator.
        notes: what a user should hear about these decisions.
    """

    running: Running = "mapped"
    reason: str = ""
    chunk: Annotated[int, Field(gt=0)] | None = None
    layers: Layers = "general"
    compile: Compile = "none"
    precision: Precision = "float32"
    differentiation: Differentiation = "reverse"
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for checkpoints."""
        return {**asdict(self), "notes": list(self.notes)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Plan:
        """The plan that a checkpoint holds.

        Raises:
            ValueError: naming the value that is unknown or wrong.
        """
        unknown = [name for name in values if name not in {field.name for field in fields(cls)}]
        if unknown:
            raise ValueError(f"plan.{shown(unknown[0])[1:-1]}: there is no such value in this version of distmeta")
        try:
            return TypeAdapter(cls).validate_json(json.dumps(dict(values)), strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, ("plan", *first["loc"])))
            raise ValueError(f"{place}: {first['msg']}, got {shown(first['input'])}") from None

    @property
    def announcement(self) -> str:
        """What a user should hear where tasks are not mapped; empty where they are."""
        if self.running == "mapped":
            return ""
        way = ", by plain autograd" if self.running == "plain" else ""
        return f"tasks are computed one by one{way}, not mapped together: {self.reason}"

    def settings(self) -> dict[str, Any]:
        """The values of the section ``engine`` that ask for this plan."""
        names = ("chunk", "compile", "precision", "differentiation", "layers")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


def announce(plan: Plan) -> None:
    """Say how a run computes."""
    if plan.announcement:
        log.warning("%s", plan.announcement)
    for note in plan.notes:
        log.warning("%s", note)
    log.info("engine: %s", ", ".join(f"{name} {value}" for name, value in plan.settings().items()))
