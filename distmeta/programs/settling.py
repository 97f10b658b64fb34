"""From a decided plan to one that works here: tried on real tasks, and compared with the plain way."""

from __future__ import annotations

import logging
import statistics
from dataclasses import replace
from typing import Protocol

from torch import Tensor

from distmeta.config import EngineOptions
from distmeta.errors import ClusterError, ConfigError
from distmeta.kernels.build import Unavailable, load
from distmeta.plan import Plan

log = logging.getLogger(__name__)

TOLERANCE = {"float32": 1e-3, "tf32": 3e-2, "bf16": 0.8}
"""Relative difference (Euclidean norm) to the plain way's gradient beyond which a plan is not believed.

The median over SAMPLES chunks counts: it is far above rounding (1e-6) and below a missing derivative. A single float32
chunk may be 1e-3 off where an activation lies at the corner of its rectifier and rounding decides its side."""

SAMPLES = 3
"""Chunks of tasks by which gradients are compared."""

WORST = 0.1
"""Relative difference that no chunk of a float32 plan may have."""


class Tried(Protocol):
    """What a plan is tried on."""

    def follow(self, plan: Plan) -> None:
        """Compute by this plan."""
        ...

    def sample_gradient(self, count: int, first: int = 0) -> Tensor:
        """Meta-gradient (P,) of so many tasks from this one on."""
        ...


def plain(plan: Plan) -> Plan:
    """Mapped Python code, own layers, float32; chunk and differentiation as planned, since they bound memory."""
    return Plan(chunk=plan.chunk, differentiation=plan.differentiation, notes=plan.notes)


def looped(plan: Plan, reason: str, asked: EngineOptions) -> Plan:
    """The plan of tasks that cannot be mapped together.

    Raises:
        ConfigError: the configuration asks for something that needs mapped tasks.
    """
    for name, default in (("compile", "none"), ("layers", "general")):
        if getattr(asked, name) not in ("auto", default):
            raise ConfigError(
                f"engine.{name} = {getattr(asked, name)} needs tasks that can be mapped together, and these cannot: "
                f"{reason}; use engine.{name}=auto"
            )
    return Plan(mapped=False, reason=reason, differentiation=plan.differentiation, precision=plan.precision)


def require(plan: Plan) -> None:
    """Check that this host can follow a plan.

    Raises:
        ClusterError: the plan needs a C++ compiler, and there is none.
    """
    if plan.layers == "native":
        try:
            load()
        except Unavailable as error:
            raise ClusterError(
                f"this run computes with compiled layers, and this host cannot: {error}. Install a C++ compiler on "
                "every host of the run, or start it with engine.layers=general"
            ) from None


def disagreement(a: Tensor, b: Tensor) -> float:
    """``|a - b| / |b|`` of two gradients, in float64; 0 where both are zero."""
    reference = float(b.double().norm())
    difference = float((a.double() - b.double()).norm())
    return difference / reference if reference else (float("inf") if difference else 0.0)


def settle(program: Tried, plan: Plan, asked: EngineOptions) -> Plan:
    """The plan, or the nearest plainer one where it fails or gives another gradient than the plain way.

    What the configuration asks for by name is not replaced by something else.

    Raises:
        ConfigError: what was asked for by name does not work here.
    """
    if plan == plain(plan):
        return plan
    count = plan.chunk or 1
    program.follow(plain(plan))
    reference = sample(program, count)
    while plan != plain(plan):
        reason = _fails(program, plan, reference, count)
        if reason is None:
            return plan
        plainer = _plainer(plan, asked)
        if plainer is None:
            raise ConfigError(f"the plan that engine.* asks for does not work here: {reason}; set them to auto")
        plan = replace(plainer, notes=(*plan.notes, f"not {_difference(plan, plainer)}: {reason}"))
        log.debug("plan: %s", plan)
    return plan


def sample(program: Tried, count: int) -> list[Tensor]:
    """Meta-gradients of some chunks of so many tasks."""
    return [program.sample_gradient(count, number * count) for number in range(SAMPLES)]


def _fails(program: Tried, plan: Plan, reference: list[Tensor], count: int) -> str | None:
    try:
        program.follow(plan)
        gradients = sample(program, count)
    except (ConfigError, ClusterError) as error:
        return str(error)
    except Exception as error:  # whatever a tracer or a compiler raises
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    apart = [disagreement(a, b) for a, b in zip(gradients, reference, strict=True)]
    off = statistics.median(apart)
    if off <= TOLERANCE[plan.precision] and (max(apart) <= WORST or plan.precision != "float32"):
        return None
    off = max(apart) if off <= TOLERANCE[plan.precision] else off
    return f"its meta-gradient differs from the plain way's by {off:.1e}"


def _plainer(plan: Plan, asked: EngineOptions) -> Plan | None:
    """One step down: what is compiled last was tried last, so it goes first."""
    if plan.compile == "inductor" and asked.compile == "auto":
        return replace(plan, compile="graph")
    if plan.compile == "graph" and asked.compile == "auto":
        return replace(plan, compile="none")
    if plan.layers != "general" and asked.layers == "auto":
        return replace(plan, layers="general")
    return None


def _difference(plan: Plan, plainer: Plan) -> str:
    names = ("compile", "layers")
    changed = [name for name in names if getattr(plan, name) != getattr(plainer, name)]
    return ", ".join(f"engine.{name}={getattr(plan, name)}" for name in changed)
