"""Decisions that change rounding: what a configuration asks for, and where it says ``auto``, a pure function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from distmeta.config.schema import Config
from distmeta.config.sections import EngineOptions
from distmeta.core.plan import Compile, Differentiation, Layers, Plan, Precision
from distmeta.estimators import ESTIMATORS

ACTIVATIONS = {"native": 64 * 2**20, "products": 16 * 2**20, "general": 16 * 2**20}
"""Bytes of a chunk's activations in one forward pass on a CPU; beyond, larger chunks gain nothing or lose the cache."""


GRAPH_REPAYS = 8
"""Chunks of a run from which recording a chunk's operations is repaid."""


INDUCTOR_REPAYS = 30_000
"""Computations with a task in a whole run from which compiling them is repaid; that takes ten seconds or so."""


MIXED_REPAYS = 8
"""Inner steps beyond which reverse mode's memory costs more than the recomputation of mixed mode."""


LONGEST_GRAPH = 16
"""Inner steps up to which a whole adaptation is recorded; longer ones take too long to record and to compile."""


@dataclass(frozen=True)
class RunPlan:
    """The plan of a run that is evaluated, with what it was decided for.

    Attributes:
        plan: of the run.
        engine: the run's section ``engine``.
        fingerprint: of the run's workers.
    """

    plan: Plan
    engine: EngineOptions
    fingerprint: Mapping[str, Any]

    def unfit(self, engine: EngineOptions, device: str, compiler: Callable[[], str | None]) -> str:
        """Why the plan does not serve with these settings and this device; empty where it does.

        Args:
            engine: what is asked for now.
            device: ``cpu`` or ``cuda``.
            compiler: finds the C++ compiler here; ``None`` where there is none.
        """
        asked = {name: value for name, value in engine.model_dump().items() if value != getattr(self.engine, name)}
        if asked:
            return ", ".join(f"engine.{name}={value} is asked for" for name, value in asked.items())
        before = "cpu" if self.fingerprint.get("device") == "cpu" else "cuda"
        if before != device:
            return f"the run computed on {self.fingerprint.get('device')}, this is {device}"
        # Only in the fingerprints of runs whose plan needs one.
        if "compiler" in self.fingerprint and self.fingerprint["compiler"] != (here := compiler()):
            return f"the run's C++ compiler was {self.fingerprint['compiler']}, here it is {here or 'missing'}"
        return ""


@dataclass(frozen=True)
class Facts:
    """What a plan depends on beside the configuration.

    Attributes:
        device: ``cpu`` or ``cuda``.
        task_layers: whether the network has layers with a task-batched form.
        iterative: whether adaptation goes by steps.
        activations: bytes of one task's activations in a forward pass, the mean over those of a meta-gradient.
        no_compiler: why there is no C++ compiler; ``None`` where there is one, or no use for it.
        shapes: sizes that training tasks have, each of which is recorded or compiled by itself.
    """

    device: str
    task_layers: bool
    iterative: bool
    activations: int
    no_compiler: str | None
    shapes: int = 1


def decide(config: Config, facts: Facts, *, training: bool = True) -> Plan:
    """The plan: what the configuration asks for, and where it says ``auto``, a pure function of its arguments.

    - ``layers``: ``native`` on a CPU with a C++ compiler, ``products`` on CUDA, in networks that have such layers.
    - ``differentiation``: ``mixed`` beyond ``MIXED_REPAYS`` inner steps.
    - ``chunk``: the largest divisor of a shard that keeps to ``ACTIVATIONS``; the whole shard on CUDA.
    - ``compile``: ``graph`` from ``GRAPH_REPAYS`` chunks in the whole run, ``inductor`` from ``INDUCTOR_REPAYS`` tasks,
      each counted as often as the outer step computes with it, both of each size that tasks have; ``none`` where a
      whole adaptation is too long to be recorded.
    - ``precision``: ``float32``.

    Without training it counts the tasks of the meta-test, and is ``graph`` at most: measurements are never compiled.
    """
    engine, notes = config.engine, []
    steps = getattr(config.algorithm, "inner_steps", 0)
    precision: Precision = "float32" if engine.precision == "auto" else engine.precision
    layers: Layers = _layers(facts, precision) if engine.layers == "auto" else engine.layers
    if facts.no_compiler and facts.device == "cpu" and (engine.layers == "auto" or engine.compile == "auto"):
        notes.append(f"computing without compiled code, which is slower: {facts.no_compiler}")
    if not facts.task_layers:
        layers = "general"
    chunk = _chunk(config.run.shard, facts, layers) if engine.chunk == "auto" else engine.chunk
    recorded = _compile(config, facts, steps, chunk or config.run.shard, training)
    return Plan(
        chunk=chunk,
        layers=layers,
        compile=recorded if engine.compile == "auto" else engine.compile,
        precision=precision,
        differentiation=_differentiation(config, facts, steps),
        notes=tuple(notes),
    )


def uses_compiler(config: Config, task_layers: bool) -> bool:
    """Whether a plan may need a C++ compiler: looking for one that works takes as long as compiling with it.

    Args:
        config: the resolved configuration.
        task_layers: whether the network has layers with a task-batched form.
    """
    return task_layers or _computations(config) >= INDUCTOR_REPAYS


def _computations(config: Config) -> int:
    """How often a run computes with a task."""
    return config.run.steps * config.run.meta_batch * config.outer.passes


def _layers(facts: Facts, precision: Precision) -> Layers:
    if facts.device == "cuda":
        return "products"
    return "general" if facts.no_compiler or precision != "float32" else "native"


def _compile(config: Config, facts: Facts, steps: int, chunk: int, training: bool) -> Compile:
    tasks = _computations(config) // facts.shapes if training else config.evaluation.tasks
    if tasks < GRAPH_REPAYS * chunk or steps > LONGEST_GRAPH:
        return "none"
    if not training or tasks < INDUCTOR_REPAYS or (facts.device == "cpu" and facts.no_compiler):
        return "graph"
    return "inductor"


def _differentiation(config: Config, facts: Facts, steps: int) -> Differentiation:
    if config.engine.differentiation != "auto":
        return config.engine.differentiation
    long = _through_steps(config) and facts.iterative and steps > MIXED_REPAYS
    return "mixed" if long else "reverse"


def _through_steps(config: Config) -> bool:
    return ESTIMATORS.options[config.algorithm.estimator].through_steps


def _chunk(shard: int, facts: Facts, layers: Layers) -> int:
    limit = shard if facts.device == "cuda" else max(1, ACTIVATIONS[layers] // max(1, facts.activations))
    return max(size for size in range(1, shard + 1) if shard % size == 0 and size <= limit)
