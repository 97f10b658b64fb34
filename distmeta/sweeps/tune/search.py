"""Sweeps: Ray Tune searches the settings of whole distributed runs."""

from __future__ import annotations

import functools
import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
from ray import tune

from distmeta.config.modules import kinds
from distmeta.config.schema import Config
from distmeta.core.environment import environment
from distmeta.core.secrets import masked, without_secrets
from distmeta.errors import ClusterError, Interrupted, StorageError
from distmeta.runs.directory import to_json
from distmeta.runs.evaluate import Progress, evaluate
from distmeta.runs.lease import acquire
from distmeta.storage.credentials import credentials
from distmeta.storage.files import Storage, below
from distmeta.sweeps.outcomes import TrialResult
from distmeta.sweeps.points import Values
from distmeta.sweeps.results import TRIALS_FOLDER, best_checkpoint, ranked, read_results, read_trial, write_results
from distmeta.sweeps.sections import Domain
from distmeta.sweeps.state import TUNE_FOLDER, check_own, put_back
from distmeta.sweeps.sweep import SWEEP, Sweep, check_same_sweep, dump_sweep
from distmeta.sweeps.trial import Moment, TrialRun, check_trials, finite
from distmeta.sweeps.tune.former import former_names
from distmeta.sweeps.tune.internals import CREDENTIALS, TUNE_LOGGER, without_credentials
from distmeta.sweeps.tune.schedulers import scheduler
from distmeta.sweeps.tune.watch import Watch, current_values, reported, why
from distmeta.sweeps.view import View
from distmeta.tasks import prepare_family
from distmeta.workers import Check
from distmeta.workers.ray.cluster import ROUNDING, connect, fit, may_hold
from distmeta.workers.ray.pool import SHARED_ENVIRONMENT

log = logging.getLogger(__name__)

RESTARTS = 3
"""Times that a trial whose process died is started again."""

TUNE_VARIABLES = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # a trial's own folder has all of it
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "2",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # models of the user's own are imported from the working directory
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # which prints even where it should be silent
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # told once, in a line
}
"""Tune's own ways and chatter."""


class SweepTrial(tune.Trainable):  # type: ignore[misc]
    """What Tune runs in a trial's process; a step of it goes to the next validation."""

    def setup(
        self,
        config: Mapping[str, Any],
        sweep: Sweep,
        trials: str,
        folder: str,
        variables: dict[str, str],
        accept_changes: bool,
    ) -> None:
        """Open the trial, as far as it had come; in the sweep's own folder and environment, since it is on its host."""
        os.chdir(folder)
        os.environ.update(variables)
        self._sweep, self._trials, self._accept = sweep, trials, accept_changes
        self._run = self._trial(config["values"])

    def reset_config(self, new_config: Mapping[str, Any]) -> bool:
        """Use this process for another trial: its imports take seconds."""
        self._run.close()
        self._run = self._trial(new_config["values"])
        return True

    def _trial(self, values: Values) -> TrialRun:
        return TrialRun(self._sweep, Storage.at(self._trials), self.trial_id, values, accept_changes=self._accept)

    def step(self) -> dict[str, Any]:
        """Go on to the next validation, and report it."""
        step, metrics = self._run.next()
        score = metrics[self._sweep.metric] if metrics else math.nan
        ended = step == self._sweep.config.run.steps or (metrics is None and not self._sweep.population)
        return {"step": step, "score": finite(score, self._sweep.mode), "done": ended}

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        """Where the trial is; what it is lies in its own folder."""
        return asdict(self._run.place)

    def load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on from a moment of this trial or of another one."""
        self._run.go_on(Moment(**checkpoint), self.config["values"])

    def cleanup(self) -> None:
        """End the runs and their workers."""
        self._run.close()


def run_sweep(
    sweep: Sweep,
    run_dir: str | Path | None = None,
    *,
    resume: bool = False,
    address: str | None = None,
    trust_code: bool = False,
    accept_changes: bool = False,
    check: Check = lambda: None,
    view: View | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run a sweep to its end; see :func:`distmeta.sweeps.tune.tune`."""
    home = Storage.at(run_dir if run_dir is not None else below(sweep.config.run.dir, sweep.options.name))
    if resume and (results := read_results(home)) is not None and _check_home(home, sweep, resume):
        log.info("%s is finished: nothing to do", home.location)
        return results
    lease = acquire(home, check=check)

    def checked() -> None:
        check()
        lease.check()

    try:
        begun = _check_home(home, sweep, resume)
        prepare_family(sweep.config)
        if begun:
            if not trust_code:
                check_own(home)
            if not accept_changes:
                check_trials(sweep, home.child(TRIALS_FOLDER))
        with _connected(sweep.config, address):
            _check_resources(sweep)
            return _run(sweep, home.guarded(lease.guard), begun, accept_changes, view, checked, progress)
    finally:
        lease.release()


def _run(
    sweep: Sweep,
    home: Storage,
    begun: bool,
    accept_changes: bool,
    view: View | None,
    check: Check,
    progress: Progress | None,
) -> dict[str, Any]:
    """The sweep, in a folder that nobody else drives."""
    home.write_bytes(SWEEP, dump_sweep(sweep).encode())
    try:
        return _finish(sweep, home, _search(sweep, home, begun, accept_changes, view, check), check, progress)
    except Interrupted as error:
        how = "--resume" if home.local is not None else "--resume --trust-code"
        raise Interrupted(f"{error}; the trials are saved in {home.location}, go on with {how}") from None


def _finish(
    sweep: Sweep, home: Storage, failures: Mapping[str, str], check: Check, progress: Progress | None
) -> dict[str, Any]:
    """Rank the trials, meta-test the best one, and write what was found; ``failures`` is what :func:`_search` gives."""
    trials = home.child(TRIALS_FOLDER)
    found = ranked(sweep, [read_trial(sweep, trials, name, failure) for name, failure in failures.items()])
    best = best_checkpoint(sweep, trials, _check_best(found))
    # The sweep's own settings name its code, wherever that lies, and secrets that are masked in the checkpoint.
    config = sweep.trial_config(found[0].values, sweep.seeds[0]).model_dump(mode="json")
    given = {key: section for key, section in config.items() if kinds(section) or masked(section) != section}
    named = [f"{key}={to_json(section)}" for key, section in given.items()]
    measured = evaluate(best.uri, named, check=check, progress=progress)
    return write_results(home, sweep, found, best.location, measured)


def _check_home(home: Storage, sweep: Sweep, resume: bool) -> bool:
    """Whether the folder holds a sweep to go on with; refuses one that may not be."""
    if not home.exists(SWEEP):
        if resume:
            log.info("no sweep in %s: starting one", home.location)
        return False
    if not resume:
        raise StorageError(
            f"{home.location} already holds a sweep; continue it with --resume (resume=True in Python) or name "
            "another --run-dir"
        )
    check_same_sweep(home.read_bytes(SWEEP).decode(errors="replace"), dump_sweep(sweep))
    return True


@contextmanager
def _connected(config: Config, address: str | None) -> Iterator[None]:
    """Ray for a sweep: at an address, or on this machine with as many CPUs as it has."""
    cluster = config.cluster.model_copy(
        update={"workers": "auto", "cpus_per_worker": 1.0, "address": address or config.cluster.address}
    )
    connection = connect(config.model_copy(update={"cluster": cluster}))
    try:
        yield
    finally:
        if connection is not None:
            connection.close()


# Resources --------------------------------------------------------------------------------------------------------


def _bundles(sweep: Sweep) -> list[dict[str, float]]:
    """What a trial takes: its own process, on this host with the sweep's folder and data, and its workers."""
    resources = sweep.options.resources
    here = {f"node:{ray.util.get_node_ip_address()}": 0.001}
    each = {"CPU": resources.cpus, **({"GPU": resources.gpus} if resources.gpus else {})}
    return [{**here, **each}] if resources.workers == 0 else [here, *[each] * resources.workers]


def _check_resources(sweep: Sweep) -> None:
    """Refuse trials that neither the cluster nor its autoscaler can ever hold."""
    resources = sweep.options.resources
    count = max(1, resources.workers)
    need = {kind: each for kind, each in (("CPU", resources.cpus), ("GPU", resources.gpus)) if each}
    here, nodes = ray.util.get_node_ip_address(), [node for node in ray.nodes() if node["Alive"]]
    hosts = [node["Resources"] for node in nodes if resources.workers or node["NodeManagerAddress"] == here]
    if sum(fit(free, need) for free in hosts) >= count:
        return
    there = {kind: sum(free.get(kind, 0) for free in hosts) for kind in need}
    most = may_hold()
    grows = any(most.get(kind, 0) > there[kind] for kind in need) and resources.workers
    if grows and all(most.get(kind, 0) + ROUNDING >= count * each for kind, each in need.items()):
        return
    asked = " and ".join(f"{count} x {each:g} {kind}" for kind, each in need.items())
    has = " and ".join(f"{number:g} {kind}" for kind, number in there.items())
    whose = "the cluster has" if resources.workers else "this host, where trials without workers compute, has"
    raise ClusterError(
        f"a trial asks for {asked}, and {whose} {has}; set fewer resources.workers, or less in resources.cpus and "
        "resources.gpus"
    )


# Tune -------------------------------------------------------------------------------------------------------------


def _search(
    sweep: Sweep, home: Storage, begun: bool, accept_changes: bool, view: View | None, check: Check
) -> dict[str, str]:
    """Run all trials; gives their names, and what ended those that failed."""
    quiet = {name: value for name, value in TUNE_VARIABLES.items() if name not in os.environ}
    logging.getLogger(TUNE_LOGGER).setLevel(logging.CRITICAL)
    watch = Watch(sweep, home, view, check)
    opening = credentials(home.uri)  # not by the URI, which Tune writes into its files
    shared = {name: os.environ[name] for name in (*SHARED_ENVIRONMENT, *CREDENTIALS) if name in os.environ}
    trainable = tune.with_resources(
        tune.with_parameters(
            SweepTrial,
            sweep=sweep,
            trials=home.child(TRIALS_FOLDER).uri,
            folder=os.getcwd(),
            variables={**shared, **opening},
            accept_changes=accept_changes,
        ),
        tune.PlacementGroupFactory(_bundles(sweep), strategy="PACK"),
    )
    state = home.child(TUNE_FOLDER)
    with environment({**quiet, **opening}), without_credentials(), former_names():
        if begun and put_back(home):
            tuner = tune.Tuner.restore(without_secrets(state.uri), trainable, resume_errored=True)
        else:
            tuner = _tuner(sweep, home, trainable, watch)
        grid = tuner.fit()
    return {Path(result.path).name: why(result.error) if result.error else "" for result in grid}


def _tuner(sweep: Sweep, home: Storage, trainable: Any, watch: Watch) -> tune.Tuner:
    space: dict[str, Any] = {}
    searcher = None
    if sweep.points is not None:
        space["values"] = tune.grid_search(list(sweep.points))
    else:
        import optuna
        from ray.tune.search.optuna import OptunaSearch

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        suggest = functools.partial(_suggest, sweep.options.space)
        searcher = OptunaSearch(
            space=suggest,
            metric="score",
            mode=sweep.mode,
            seed=sweep.options.seed,
            points_to_evaluate=[_enqueued(sweep.options.space, values) for values in sweep.options.first],
        )
    return tune.Tuner(
        trainable,
        param_space=space,
        tune_config=tune.TuneConfig(
            metric="score",
            mode=sweep.mode,
            search_alg=searcher,
            scheduler=scheduler(sweep, reported, current_values),
            num_samples=1 if sweep.points is not None else sweep.trials,
            max_concurrent_trials=sweep.options.concurrency,
            reuse_actors=True,
            trial_name_creator=_name,
            trial_dirname_creator=_name,
        ),
        run_config=tune.RunConfig(
            name=TUNE_FOLDER,
            storage_path=without_secrets(home.uri),
            failure_config=tune.FailureConfig(max_failures=RESTARTS),
            # Small files that say where a trial is: all of them, since the state that is kept may be an older one.
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=1, checkpoint_at_end=False),
            callbacks=[watch],
            verbose=0,
        ),
    )


def _name(trial: Any) -> str:
    return str(trial.trial_id)


def _suggest(space: Mapping[str, Domain], trial: Any) -> dict[str, Any]:
    """A trial's values as Optuna has them; Tune takes ``values/KEY`` apart again."""
    values: Values = {}
    for key, domain in space.items():
        if not domain.active(values):
            continue
        name = f"values/{key}"
        if domain.listed:  # by their places, since Optuna takes no lists for values
            values[key] = domain.values[trial.suggest_categorical(name, list(range(len(domain.values))))]
        elif domain.kind == "randint":
            values[key] = trial.suggest_int(name, *domain.values)
        else:
            values[key] = trial.suggest_float(name, *domain.values, log=domain.kind == "loguniform")
    return {f"values/{key}": value for key, value in values.items()}


def _enqueued(space: Mapping[str, Domain], values: Values) -> Values:
    """Given values as :func:`_suggest` would have Optuna say them."""
    listed = {key: list(space[key].values).index(value) for key, value in values.items() if space[key].listed}
    return {f"values/{key}": listed.get(key, value) for key, value in values.items()}


def _check_best(results: Sequence[TrialResult]) -> TrialResult:
    """The best trial, where any has a score."""
    if results and not math.isnan(results[0].score):
        return results[0]
    problems = dict.fromkeys(each.problem for each in results if each.problem)
    raise ClusterError("no trial of the sweep has a score: " + ("; ".join(problems) or "none was validated"))
