"""Sweeps on a real Ray: to their end, with processes and drivers killed, and refused."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import ray
from sweep_helpers import BASE, EVERY, STEPS, scores, storage, sweep, trial_names, undisturbed_scores, written

import distmeta
from distmeta.errors import ClusterError, ConfigError, StorageError
from distmeta.runs import checkpoint
from distmeta.runs.directory import RunDirectory
from distmeta.sweeps.trial import read_parts, read_validations
from distmeta.sweeps.view import TrialStatus

pytestmark = pytest.mark.usefixtures("ray_cluster")

LATER = 60  # steps of a sweep that is disturbed
TRIALS = 2
# None is stopped.
UNDISTURBED = [f"trials={TRIALS}", "repeats=2", "scheduler={kind: median, grace: 11}", "resources.cpus=2"]
HALF = ("resources.cpus=2",)  # two trials at a time on the four CPUs of the tests' Ray


WORKER = (b"ray::RayWorker",)
TRIAL = (b"ray::SweepTrial", b"ray::ResourceTrainable")  # idle, and at work


def descendants(titles: tuple[bytes, ...]) -> list[int]:
    """Process ids of the Ray processes with these titles that this process has started."""
    parents: dict[int, int] = {}
    names: dict[int, bytes] = {}
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
                names[int(path.name)] = (path / "cmdline").read_bytes()
            except OSError:  # it has ended
                continue
    mine = {os.getpid()}
    while found := {pid for pid, parent in parents.items() if parent in mine} - mine:
        mine |= found
    return sorted(pid for pid in mine if names.get(pid, b"").startswith(titles))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("undisturbed") / "sweep"
    return folder, distmeta.tune(written(), UNDISTURBED, folder)


@pytest.mark.slow  # test_tune_command.py has a sweep by its command
def test_a_sweep(undisturbed: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """Trials are ranked, and training with ``best.yaml`` gives the best one's validations to the bit."""
    folder, results = undisturbed
    assert [trial["status"] for trial in results["trials"]] == ["finished"] * TRIALS
    ordered = [trial["score"] for trial in results["trials"]]
    assert ordered == sorted(ordered)
    best = results["best"]
    assert best["score"] == ordered[0]
    assert best["meta_test"]["mse"]["tasks"] == 8
    assert checkpoint.resolve(best["checkpoint"])[0].step > 0

    config = distmeta.load_config(folder / "best.yaml")
    for record in distmeta.train(config, tmp_path / "again"):
        if record.step == STEPS:
            break
    trial = read_parts(storage(folder).child(best["trial"]))[0]
    assert read_validations(RunDirectory(tmp_path / "again")) == read_validations(trial.run(config.seed))


def test_finished_and_taken(undisturbed: tuple[Path, dict[str, Any]]) -> None:
    folder, results = undisturbed
    assert distmeta.tune(written(), UNDISTURBED, folder, resume=True) == results
    with pytest.raises(StorageError, match="already holds a sweep"):
        distmeta.tune(written(), ["repeats=2"], folder)
    with pytest.raises(ConfigError, match="repeats: was 2, is absent"):
        distmeta.tune(written(), [f"trials={TRIALS}"], folder, resume=True)


@pytest.mark.slow
def test_asha_and_optuna(tmp_path: Path) -> None:
    """Bad trials end early, and the searcher's values are within the space."""
    overrides = ["scheduler={kind: asha, grace: 4, reduction: 2}", "searcher=optuna", "trials=6", *HALF]
    results = distmeta.tune(written(), overrides, f"file://{tmp_path}/sweep")
    assert len(results["trials"]) == 6
    assert (tmp_path / "sweep" / "best.yaml").exists()
    statuses = [trial["status"] for trial in results["trials"]]
    assert statuses.count("stopped") >= 1
    assert statuses.count("finished") >= 1
    assert all(0.001 <= trial["values"]["algorithm.inner_lr"] <= 0.1 for trial in results["trials"])
    stopped = [trial for trial in results["trials"] if trial["status"] == "stopped"]
    assert all(trial["steps"] < STEPS for trial in stopped)


@pytest.mark.slow
def test_hyperband(tmp_path: Path) -> None:
    """Trials that are paused go on from where they were."""
    results = distmeta.tune(written(), ["trials=3", "scheduler=hyperband", *HALF], tmp_path / "sweep")
    assert len(results["trials"]) == 3
    assert results["trials"][0]["steps"] == STEPS


@pytest.mark.slow
def test_a_trial_that_fails(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Tried again three times, told in a line each time, kept in the ranking; its traceback is in a file."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "helpers")
    kinds = [f"module:integration_models.{name}" for name in ("RaisesOnTasks", "Plain")]
    content = written(
        base={**BASE, "model": {"kind": kinds[1]}},
        space={"model.kind": {"choice": kinds}},
        searcher="grid",
        trials=None,
    )
    with caplog.at_level("WARNING", "distmeta"):
        results = distmeta.tune(content, run_dir=tmp_path / "sweep")
    well, failed = results["trials"]
    assert [well["status"], failed["status"]] == ["finished", "failed"]
    assert failed["score"] is None
    assert "cannot compute these tasks: LookupError: the user's own complaint" in failed["problem"]
    told = [record.getMessage() for record in caplog.records if record.name == "distmeta.sweeps.tune.watch"]
    assert all(failed["name"] in line and failed["problem"] in line for line in told)
    assert ["starts again" in line for line in told] == [True, True, True, False]
    traceback = tmp_path / "sweep" / "trials" / failed["name"] / "failure.txt"
    assert str(traceback) in told[-1]
    assert "in forward" in traceback.read_text()
    assert "Traceback" not in "".join(capfd.readouterr())


class Killer:
    """Kills one worker, then one trial's process, of a sweep that it watches."""

    def __init__(self) -> None:
        self.killed: list[tuple[bytes, ...]] = []
        self.at_once = 0

    def show(self, rows: Sequence[TrialStatus]) -> None:
        self.at_once = max(self.at_once, sum(row.status == "RUNNING" for row in rows))
        for kind in (WORKER, TRIAL):
            if kind not in self.killed and any(EVERY <= row.step < LATER for row in rows if row.status == "RUNNING"):
                found = descendants(kind)
                if found:
                    os.kill(found[-1], signal.SIGKILL)
                    self.killed.append(kind)
                    return


@pytest.mark.slow
def test_killed_processes(tmp_path: Path) -> None:
    """Trials of two workers take turns; neither a worker's nor a trial's death loses or changes anything."""
    more = ["trials=2", f"run.steps={LATER}"]
    killer = Killer()
    crowded = [*more, "resources={workers: 2, cpus: 1.5}"]
    results = distmeta.tune(written(), crowded, tmp_path / "killed", view=killer)
    assert len(killer.killed) == 2
    assert killer.at_once == 1  # three of the four CPUs are one trial's
    assert scores(results) == undisturbed_scores(tmp_path / "whole", more)
    assert len(trial_names(tmp_path / "killed")) == 2


class Counter:
    """Counts trials at work and their workers, five seconds after the last one was started or stopped."""

    def __init__(self) -> None:
        self.counts: set[tuple[int, int]] = set()
        self._at_work, self._since = 0, time.monotonic()

    def show(self, rows: Sequence[TrialStatus]) -> None:
        running = [row.step for row in rows if row.status == "RUNNING"]
        at_work = len(running)
        if at_work != self._at_work or 0 in running:  # one that begins may have its worker or not
            self._at_work, self._since = at_work, time.monotonic()
        elif at_work and time.monotonic() - self._since > 5:
            self.counts.add((at_work, len(descendants(WORKER))))


@pytest.mark.slow
def test_stopped_trials_give_back_their_workers(tmp_path: Path) -> None:
    """Four trials begin at once; of those that ASHA stops, no worker is left while the others go on."""
    counter = Counter()
    early = "scheduler={kind: asha, grace: 200, reduction: 4}"
    overrides = [early, "resources.workers=1", "run.steps=2000", "run.validate_every=200"]
    results = distmeta.tune(written(), overrides, tmp_path / "sweep", view=counter)
    assert [trial["status"] for trial in results["trials"]].count("stopped") >= 1
    assert any(trials < 4 for trials, _ in counter.counts)
    assert all(trials == workers for trials, workers in counter.counts)


def test_trials_that_never_fit(tmp_path: Path) -> None:
    for resources, words in (
        ("{workers: 2, cpus: 3}", r"2 x 3 CPU, and the cluster has 4 CPU"),
        ("{workers: 0, cpus: 5}", r"1 x 5 CPU, and this host, .* has 4 CPU"),
        ("{workers: 1, gpus: 1}", r"1 x 1 CPU and 1 x 1 GPU, and the cluster has 4 CPU and 0 GPU"),
    ):
        with pytest.raises(ClusterError, match=words):
            distmeta.tune(written(), [f"resources={resources}"], tmp_path / "sweep")
        assert not (tmp_path / "sweep").exists()


def drive(folder: str, overrides: list[str], environment: dict[str, str]) -> None:
    os.setsid()
    os.environ.update(environment)
    distmeta.tune(written(), overrides, folder)


def killed(folder: Path, overrides: list[str], whole_cluster: bool) -> None:
    """A sweep that is killed when a trial is done: its driver, or that and the Ray that it has for itself."""
    context = multiprocessing.get_context("spawn")
    settings = {name: os.environ[name] for name in ("DISTMETA_CACHE", "RAY_AUTH_MODE")}
    if not whole_cluster:
        settings["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
    process = context.Process(target=drive, args=(str(folder), overrides, settings))
    process.start()
    try:
        while not done_trials(folder):
            process.join(0.05)
            assert process.is_alive(), "it ended before it was killed"
    finally:
        (os.killpg if whole_cluster else os.kill)(process.pid or 0, signal.SIGKILL)
        process.join()


@pytest.mark.slow
@pytest.mark.parametrize("whole_cluster", [False, True], ids=["driver", "cluster"])
def test_killed(whole_cluster: bool, tmp_path: Path) -> None:
    """Finished trials are kept and the others go on: every trial once, with the score that it would have had."""
    overrides = ["trials=4", f"run.steps={LATER}", "resources.cpus=2" if not whole_cluster else "resources.cpus=1"]
    folder = tmp_path / "killed"
    killed(folder, overrides, whole_cluster)
    for torn in (folder / "tune").glob("experiment_state-*"):  # it is copied over itself, and was killed in that
        torn.write_bytes(torn.read_bytes()[:1000])
    results = distmeta.tune(written(), [*overrides, "resources.cpus=1.5"], folder, resume=True)
    assert [trial["status"] for trial in results["trials"]] == ["finished"] * 4
    assert scores(results) == undisturbed_scores(tmp_path / "whole", overrides)
    assert len(scores(results)) == 4
    assert checkpoint.resolve(results["best"]["checkpoint"])[0].step > 0


def done_trials(folder: Path) -> list[str]:
    if not (folder / "trials").exists():
        return []
    last = f"checkpoints/step-{LATER:08d}"
    return [name for name in trial_names(folder) if any((folder / "trials" / name).glob(f"**/seed-0/{last}"))]


POPULATION = ["trials=3", "scheduler={kind: pbt, interval: 4, quantile: 0.34}", *HALF]


def check_population(folder: Path, results: dict[str, Any], steps: int) -> None:
    """Every trial is there once, to its end; those that went on from others did so from their exact state."""
    assert not (folder / "best.yaml").exists()
    assert (folder / "schedule.yaml").exists()
    assert [trial["steps"] for trial in results["trials"]] == [steps] * 3
    assert {trial["name"] for trial in results["trials"]} == set(trial_names(folder))
    assert checkpoint.resolve(results["best"]["checkpoint"])[0].step == results["best"]["step"]
    trials, exploited = storage(folder), 0
    for name in trial_names(folder):
        for part in read_parts(trials.child(name))[1:]:
            assert part.origin is not None
            donor = read_parts(trials.child(part.origin.trial))[part.origin.part]
            step = f"step-{part.origin.step:08d}"
            gave, took = (each.run(0).storage.child("checkpoints", step) for each in (donor, part))
            assert gave.read_bytes("params.safetensors") == took.read_bytes("params.safetensors")
            assert part.values != donor.values
            exploited += 1
    assert exploited >= 1


@pytest.mark.slow
def test_population(tmp_path: Path) -> None:
    """The worst go on from the best ones' exact state; the schedule of rates is written."""
    chosen = sweep(*POPULATION, "run.steps=16")
    results = distmeta.tune(chosen, run_dir=tmp_path / "sweep")
    check_population(tmp_path / "sweep", results, 16)


@pytest.mark.slow
def test_a_population_replaces_what_has_diverged(tmp_path: Path) -> None:
    """It waits until there is another one to go on from, and is as good as that in the end."""
    rates = [{"algorithm.inner_lr": rate, "outer.lr": 0.001} for rate in (0.01, 0.02, 1e30)]
    space = {"algorithm.inner_lr": {"loguniform": [0.001, 1e30]}, "outer.lr": {"loguniform": [1e-4, 1e-2]}}
    scheduler = {"kind": "pbt", "interval": 4, "quantile": 0.34, "resample": 0}
    content = written(first=rates, space=space, scheduler=scheduler, trials=3)
    results = distmeta.tune(content, ["run.steps=24", *HALF], tmp_path / "sweep")
    check_population(tmp_path / "sweep", results, 24)
    assert [trial["status"] for trial in results["trials"]] == ["finished"] * 3
    assert all(trial["values"]["algorithm.inner_lr"] < 1 for trial in results["trials"])


@pytest.mark.slow
def test_killed_population(tmp_path: Path) -> None:
    """A population whose driver was killed goes on, with all that it had come to."""
    overrides = [*POPULATION, f"run.steps={LATER}"]
    folder = tmp_path / "killed"
    killed(folder, overrides, whole_cluster=False)
    assert any(len(read_parts(storage(folder).child(name))) > 1 for name in trial_names(folder))
    check_population(folder, distmeta.tune(written(), overrides, folder, resume=True), LATER)
