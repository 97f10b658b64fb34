"""Meta-validation and meta-test: means with confidence intervals over tasks, spread over the same workers."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from distmeta import trust
from distmeta.config.schema import CALLBACKS, Config
from distmeta.config.sections import EngineOptions
from distmeta.config.text import parse_override, put, read_mapping
from distmeta.core.hosts import hosts_in
from distmeta.core.layout import Layout, Meta
from distmeta.core.plan import Plan
from distmeta.core.quoting import shown
from distmeta.core.records import Shard, Split, TaskMetrics
from distmeta.core.requests import COUNTED, Request, Start
from distmeta.core.secrets import mask
from distmeta.errors import ConfigError
from distmeta.loading import load_config, named_keys, named_kinds
from distmeta.objectives.metrics import described, may_be_undefined
from distmeta.origins import of_run
from distmeta.outer.learner import check_layout
from distmeta.programs import blueprint
from distmeta.programs.deciding import RunPlan
from distmeta.runs import artefact, checkpoint
from distmeta.runs.identity import differing
from distmeta.runs.metrics import have, mean_ci
from distmeta.storage.files import Storage
from distmeta.tasks import TASKS, prepare_family, with_fitted
from distmeta.workers import Check, Transport, start_transport
from distmeta.workers.bundle import unpack_modules

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Called with the number of tasks done and their total."""


def cut(split: Split, first: int, count: int, size: int) -> list[Shard]:
    """Consecutive task ids in shards of ``size``; the last one may be smaller.

    >>> [(shard.start, shard.count) for shard in cut("test", 0, 5, 2)]
    [(0, 2), (2, 2), (4, 1)]
    """
    return [
        Shard(index, split, first + start, min(size, count - start))
        for index, start in enumerate(range(0, count, size))
    ]


def validate(transport: Transport, config: Config, start: Start) -> dict[str, float]:
    """Mean of every measurement over the meta-validation tasks; of those that some tasks have not, their number too."""
    shards = cut("validation", 0, config.evaluation.validation_tasks, config.run.shard)
    values = _measure(transport, Request("validate", start), shards, None).values
    counted = {name: have(name, values) for name in values}
    means = {name: float(value[counted[name]].mean()) for name, value in values.items()}
    return means | {name + COUNTED: float(counted[name].sum()) for name in values if may_be_undefined(name)}


def meta_test(transport: Transport, config: Config, start: Start, progress: Progress | None = None) -> dict[str, Any]:
    """The ``meta_test`` object of ``result.json``: mean, 95 % interval and number of tasks of every measurement.

    Of metrics, ``higher_is_better`` and ``unit``, where they have one, stand beside these.
    """
    shards = cut("test", 0, config.evaluation.tasks, config.run.shard)
    total = _measure(transport, Request("test", start), shards, progress)
    unit = TASKS[config.tasks.kind].spec(config.tasks).unit
    inner = hasattr(config.algorithm, "inner_steps")
    result = _figures(total, unit, inner)
    groups_of = getattr(TASKS[config.tasks.kind], "groups", None)  # a class of the user's may have less
    groups = groups_of(config.tasks, "test", total.ids.tolist()) if groups_of else None
    if groups is not None:
        result["by_group"] = {name: _figures(_part_of(total, groups, name), unit, inner) for name in sorted({*groups})}
    return result


def _figures(total: TaskMetrics, unit: str, inner: bool) -> dict[str, Any]:
    """Means and intervals of all measurements; ``inner``: whether those by step are by inner steps."""
    result: dict[str, Any] = {
        name: {**mean_ci(value[have(name, total.values)]), **_meaning(name, unit)}
        for name, value in total.values.items()
    }
    if total.by_step is not None:
        metric = next(name for name in total.values if name != "loss")
        by_step = [mean_ci(column[have(metric, total.values)]) for column in total.by_step.T]
        figures = [{"mean": each["mean"], "ci95": each["ci95"]} for each in by_step]
        if inner:
            result["before_adaptation"] = by_step[0]
            result["by_step"] = [{"step": step, **each} for step, each in enumerate(figures)]
        else:  # a policy with a memory, episode by episode of a trial
            result["by_episode"] = [{"episode": number, **each} for number, each in enumerate(figures, 1)]
    return result


def _part_of(total: TaskMetrics, groups: Sequence[str], name: str) -> TaskMetrics:
    """The measurements of the tasks of one group."""
    chosen = torch.tensor([each == name for each in groups])
    values = {key: value[chosen] for key, value in total.values.items()}
    return TaskMetrics(total.ids[chosen], values, None if total.by_step is None else total.by_step[chosen])


def _meaning(name: str, unit: str) -> dict[str, Any]:
    """What is known of a metric: which way it improves, and its unit where it has one."""
    metric = described(name)
    if metric is None:
        return {}
    of_target = metric.of_target(unit)
    return {"higher_is_better": metric.higher_is_better, **({"unit": of_target} if of_target else {})}


def evaluate(
    location: str | Path,
    overrides: Iterable[str] = (),
    *,
    trust_code: bool = False,
    check: Check = lambda: None,
    progress: Progress | None = None,
    shots: Sequence[int] = (),
) -> dict[str, Any]:
    """Meta-test a run (its best-validation checkpoint, else its last) or one checkpoint.

    Args:
        location: a run directory or a checkpoint folder, a path or a URI.
        overrides: ``key=value`` changes to the run's configuration, for example ``evaluation.tasks=1000``.
        trust_code: run the code that the run's configuration names (``module:``), and connect to hosts that it names.
            Without it code is refused, unless an override names the same, or it lies in the working directory as the
            run recorded it; a host of its data is refused, and its ``cluster.address`` left out, unless an override
            names them.
        check: raises when the evaluation should end.
        progress: called as tasks are done.
        shots: numbers of support examples, a class or a task, with each of which it is tested.

    Returns:
        The ``meta_test`` object of ``result.json``; with ``shots`` a list of these under ``by_shots``, each with its
        number beside the measurements, as ``shots``.

    Raises:
        StorageError: there is no usable checkpoint.
        ConfigError: an override is wrong, or changes what is meta-learned.
        TrustError: the run names code, or a host of its data, that nobody has allowed; none of it was run or asked.
    """
    if shots:
        return _by_shots(location, list(overrides), trust_code, check, progress, shots)
    snapshot, config = load_snapshot(location, overrides, trust_code=trust_code, with_data=True)
    engine = EngineOptions.model_validate(snapshot.config.get("engine", {}))
    given = RunPlan(Plan.from_dict(snapshot.plan), engine, snapshot.fingerprint)
    transport = start_transport(config, check, lambda: prepare_family(config))
    try:
        for change in differing(config, snapshot.identity, ["data"]):
            log.warning("since the run was computed: %s", change)
        transport.open(given)
        if transport.plan != given.plan:
            for note in transport.plan.notes:
                log.warning("%s", note)
        vector = Layout.of(snapshot.meta).flatten(snapshot.meta)
        return meta_test(transport, config, Start.of(snapshot.step, vector), progress)
    finally:
        transport.close()


def _by_shots(
    location: str | Path,
    overrides: list[str],
    trust_code: bool,
    check: Check,
    progress: Progress | None,
    shots: Sequence[int],
) -> dict[str, Any]:
    """A meta-test with each of these numbers of shots."""
    if len(set(shots)) < len(shots):
        raise ConfigError(f"shots = {list(shots)}: give each number once")
    tested = []
    for place, number in enumerate(shots):
        own, told = [*overrides, f"evaluation.shots={number}"], progress and _part(progress, place, len(shots))
        measured = evaluate(location, own, trust_code=trust_code, check=check, progress=told)
        tested.append({"shots": number, **measured})
    return {"by_shots": tested}


def _part(progress: Progress, place: int, parts: int) -> Progress:
    """Tells the advance of one of several meta-tests as that of all."""
    return lambda done, total: progress(place * total + done, parts * total)


def load_snapshot(
    location: str | Path, overrides: Iterable[str] = (), *, trust_code: bool = False, with_data: bool = False
) -> tuple[checkpoint.Snapshot, Config]:
    """A run's best checkpoint, one checkpoint or an artefact, and its configuration with changes that keep the layout.

    An artefact's modules are imported from the artefact itself, and only where code is trusted.

    With data, which will be read, hosts of it that the run names are refused. Raises what :func:`evaluate` does, before
    code that the checkpoint names can run.
    """
    location = artefact.fetched(location)
    folder, modules = Storage.at(location), dict[str, bytes]()
    exported = artefact.is_artefact(folder)
    if exported:
        snapshot, modules = artefact.read(folder)
    else:
        snapshot, damaged = checkpoint.resolve(location)
        for message in damaged:
            log.warning("%s", message)
    overrides = list(overrides)
    values = {key: value for key, value in read_mapping(snapshot.config).items() if key != CALLBACKS}
    for override in overrides:
        put(values, *parse_override(override))
    if with_data and not trust_code:
        trust.check_hosts({"tasks": values.get("tasks")}, named_keys(overrides), mask(str(location)))
    origin = of_run(location, snapshot.identity)
    with trust.check(values, named_kinds(overrides), origin, trust_code).guard():
        if trust_code:
            unpack_modules(modules)
        config = with_fitted(load_config(values), snapshot.fitted)
        _check_layout(config, snapshot.meta)
        # A learner takes an artefact's own; a meta-test, whose workers build the network, does not.
        for change in differing(config, snapshot.identity, ["frozen"] if with_data or not exported else []):
            log.warning("since the run was computed: %s", change)
    return snapshot, config if trust_code else _without_address(config, named_keys(overrides))


def _without_address(config: Config, own: Sequence[str]) -> Config:
    """A run's configuration without its cluster's address: a token would be sent there."""
    if not hosts_in({"cluster": config.cluster.model_dump(mode="json")}, own):
        return config
    address = shown(config.cluster.address)[1:-1]
    log.warning(
        "the run used the cluster at %s, which is not asked now: %s uses it again",
        address,
        shlex.quote(f"cluster.address={address}"),
    )
    return config.model_copy(update={"cluster": config.cluster.model_copy(update={"address": None})})


def _check_layout(config: Config, meta: Meta) -> None:
    expected, found = Layout.of(blueprint(config).initial_meta()), Layout.of(meta)
    if expected != found:
        known = set(zip(found.names, found.shapes, strict=True))
        new = [f"{n} {list(s)}" for n, s in zip(expected.names, expected.shapes, strict=True) if (n, s) not in known]
        raise ConfigError(
            "the configuration asks for other meta-parameters than the checkpoint holds "
            f"({', '.join(new[:3]) or 'fewer names'}); leave model.*, algorithm.* and tasks.ways as the run had them"
        )
    check_layout(expected, meta)


def _measure(transport: Transport, request: Request, shards: list[Shard], progress: Progress | None) -> TaskMetrics:
    """All shards' measurements, in the order of the task ids."""
    parts: dict[int, TaskMetrics] = {}
    total, done = sum(shard.count for shard in shards), 0
    for node, answer in transport.run(request, shards):
        assert answer.rows is not None
        part = parts[node.index] = answer.rows
        done += len(part.ids)
        if progress:
            progress(done, total)
    ordered = [parts[index] for index in sorted(parts)]
    steps = [part.by_step for part in ordered if part.by_step is not None]
    return TaskMetrics(
        torch.cat([part.ids for part in ordered]),
        {name: torch.cat([part.values[name] for part in ordered]) for name in ordered[0].values},
        torch.cat(steps) if steps else None,
    )
