"""From a decided plan to one that works here: tried on all that a run asks for, compared with plain autograd."""

from __future__ import annotations

import logging
import statistics
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Protocol, get_args

import torch
from torch import Tensor

from distmeta.config.sections import EngineOptions
from distmeta.core.plan import Plan, Running
from distmeta.errors import ClusterError, ConfigError, DistmetaError
from distmeta.functional.hints import hint
from distmeta.functional.kernels.build import Unavailable, load
from distmeta.programs.engine.comparison import AMPLIFIED, TASKS_ALONE, Compared, Comparison, disagreement

log = logging.getLogger(__name__)

PLAN_TOLERANCE = {"float32": 1e-3, "tf32": 0.5, "bf16": 0.8}
"""Relative difference (Euclidean norm) of a meta-gradient beyond which a plan of this precision is not believed.

The median over the chunks counts, or over single tasks (``TASKS_ALONE``): it is far above rounding (1e-6) and below a
missing derivative. The 8 bits of bfloat16 are amplified by batch norms of a few examples."""

CHUNKS_COMPARED = 3
"""Chunks of tasks by which gradients are compared."""

WORST_CHUNK = 0.1
"""Relative difference that no chunk and no task of a float32 plan may have, unless last bits of the parameters turn its
gradient about as far by plain autograd too (a solver that stops a step earlier, for example)."""

NUDGES = 5
"""Ways in which the last bits of the parameters are changed to see that."""


class Tried(Compared, Protocol):
    """What a plan is tried on."""

    def follow(self, plan: Plan) -> None:
        """Compute by this plan."""
        ...

    def repeated_gradient(self, task: int, count: int) -> Tensor:
        """Meta-gradient (P,) of one task, from a chunk that holds it so many times."""
        ...

    def hides_curvature(self) -> str:
        """Custom functions that lose the second derivatives which the meta-gradient needs; empty where none does."""
        ...

    def differentiates_once(self) -> bool:
        """Whether the meta-gradient is asked for second derivatives, and works without them."""
        ...


def choose(program: Tried, plan: Plan, asked: EngineOptions) -> Plan:
    """The plan with the first way of running that works, and with what works here of the rest.

    A way works if everything that a run asks for can be computed by it, and comes out as plain autograd on the user's
    own module says. Why an earlier way does not work is believed only if a later one does.

    Raises:
        ConfigError: no way works, or not with what the configuration asks for by name.
    """
    comparison = Comparison(program)
    problems: list[str | Exception] = []
    for running in get_args(Running):
        base = plain(replace(plan, running=running, reason=_words(problems[-1]) if problems else ""))
        problem = _problem(program, base, comparison)
        if problem is None:
            break
        log.debug("tasks cannot be %s: %s", running, problem)
        problems.append(problem)
    else:
        raise _refusal(program, problems)
    hidden = program.hides_curvature()
    if hidden:
        raise _first_order_only(f"the backward pass of {hidden} cannot be differentiated")
    if running != "mapped":
        _check_asked(asked, base.reason)
        plan = replace(base, chunk=None, precision=plan.precision)
    plan = replace(plan, notes=(*plan.notes, *comparison.notes))
    return settle(program, plan, asked)


def _problem(program: Tried, plan: Plan, comparison: Comparison) -> str | Exception | None:
    """What is wrong with a plan of the module's own layers."""
    program.follow(plan)  # what bounds memory holds from the first gradient on
    try:
        return comparison.difference()
    except (DistmetaError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever a module or a transform raises
        return error


def _refusal(program: Tried, problems: list[str | Exception]) -> ConfigError:
    """Why no way of running works, from what the plainest one met."""
    problem = problems[-1]
    if isinstance(problem, str):
        return ConfigError(
            f"the model computes something else here than under plain PyTorch: {problem}. A layer of a class of your "
            "own, or one that is changed in forward, may be taken for another; write it with torch's own layers"
        )
    advice = hint(problem)
    if not advice and program.differentiates_once():
        return _first_order_only(f"{_words(problem)}{_where(problem)}")
    refusal = ConfigError(
        f"the model cannot compute these tasks: {type(problem).__name__}: {_words(problem)}{_where(problem)}"
        + (f"; {advice}" if advice else "")
    )
    refusal.__cause__ = problem
    return refusal


def _first_order_only(reason: str) -> ConfigError:
    return ConfigError(
        f"the model has no second derivatives, which algorithm.estimator = exact needs: {reason}; use a method that "
        "does without them (algorithm.name=fomaml, reptile)"
    )


def _words(problem: str | Exception) -> str:
    return " ".join(str(problem).split())[:300]


def _where(error: Exception) -> str:
    """The place in the user's code that an error came through."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not {"torch", "distmeta"} & set(Path(frame.filename).parts) and not frame.filename.startswith("<"):
            return f" ({frame.filename}, line {frame.lineno})"
    return ""


def plain(plan: Plan) -> Plan:
    """Python code, own layers, float32; the rest, which bounds memory, as planned."""
    return Plan(
        running=plan.running,
        reason=plan.reason,
        chunk=plan.chunk,
        differentiation=plan.differentiation,
        notes=plan.notes,
    )


def _check_asked(asked: EngineOptions, reason: str) -> None:
    """Refuse what needs mapped tasks, where they cannot be mapped."""
    for name, default in (("compile", "none"), ("layers", "general")):
        if getattr(asked, name) not in ("auto", default):
            raise ConfigError(
                f"engine.{name} = {getattr(asked, name)} needs tasks that can be mapped together, and these cannot: "
                f"{reason}; use engine.{name}=auto"
            )


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


def settle(program: Tried, plan: Plan, asked: EngineOptions) -> Plan:
    """The plan, or the nearest plainer one where it fails or gives another gradient than the plain way.

    What the configuration asks for by name is not replaced by something else.

    Raises:
        ConfigError: what was asked for by name does not work here.
    """
    if plan == plain(plan):
        return plan
    reference = _PlainWay(program, plain(plan), plan.chunk or 1)
    while plan != plain(plan):
        reason = _fails(program, plan, reference)
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
    return [program.sample_gradient(count, number * count) for number in range(CHUNKS_COMPARED)]


class _PlainWay:
    """Meta-gradients by the plain way, against which another plan's are held.

    Args:
        program: what computes.
        plan: the plain way.
        count: tasks of a chunk.
    """

    def __init__(self, program: Tried, plan: Plan, count: int) -> None:
        self._program, self._plan, self._count = program, plan, count
        program.follow(plan)
        self._chunks = sample(program, count)
        self._alone: list[Tensor] = []

    def apart(self, plan: Plan) -> tuple[float, float]:
        """How far a plan that is followed is from it: the median by chunks, or where these differ by tasks, and the
        largest beyond ``WORST_CHUNK`` that is no rounding.
        """
        apart, size = self._distances(sample(self._program, self._count), self._chunks), self._count
        if statistics.median(apart) > PLAN_TOLERANCE[plan.precision]:
            if not self._alone:
                self._program.follow(self._plan)
                self._alone = self._one_by_one()
                self._program.follow(plan)
            apart, size = self._distances(self._one_by_one(), self._alone), 1
        far = [(off, size * number) for number, off in enumerate(apart) if off > WORST_CHUNK]
        if plan.precision == "float32" and statistics.median(apart) <= PLAN_TOLERANCE["float32"]:
            far = [(off, first) for off, first in far if not self._turned(size, first, off)]
        return statistics.median(apart), max((off for off, _ in far), default=0.0)

    def _turned(self, count: int, first: int, off: float) -> bool:
        """Whether last bits of the parameters turn the gradient of these tasks about as far by plain autograd."""
        there = self._program.reference_gradient(count, first, torch.float32)
        nudged = (self._program.reference_gradient(count, first, torch.float32, way + 1) for way in range(NUDGES))
        return any(AMPLIFIED * disagreement(each, there) >= off for each in nudged)

    def _one_by_one(self) -> list[Tensor]:
        # A chunk holds one task again and again: other numbers of tasks would be recorded anew.
        return [self._program.repeated_gradient(task, self._count) for task in range(TASKS_ALONE)]

    @staticmethod
    def _distances(found: list[Tensor], expected: list[Tensor]) -> list[float]:
        return [disagreement(a, b) for a, b in zip(found, expected, strict=True)]


def _fails(program: Tried, plan: Plan, reference: _PlainWay) -> str | None:
    try:
        program.follow(plan)
        off, worst = reference.apart(plan)
        program.sample_losses(1)
    except (ConfigError, ClusterError) as error:
        return str(error)
    except Exception as error:  # whatever a tracer or a compiler raises
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    if off <= PLAN_TOLERANCE[plan.precision] and (not worst or plan.precision != "float32"):
        return None
    off = worst if off <= PLAN_TOLERANCE[plan.precision] else off
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
