"""Jobs on a real Ray cluster: sent, followed, left, stopped, resumed, refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from job_helpers import Head, finish, invoke, result_of, running_head, write_config
from users_parts import own_parts_settings

from distmeta.runs import checkpoint
from distmeta.storage.credentials import S3_VARIABLES
from distmeta.storage.files import Storage

pytestmark = pytest.mark.timeout(600)

DEAD = "http://127.0.0.1:9"  # the port of a service that nobody runs


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """A head that wants no token, and has the credentials of the tests' bucket."""
    environment = {"RAY_AUTH_MODE": "disabled", **dict(zip(S3_VARIABLES, ("key", "secret"), strict=True))}
    with running_head(tmp_path_factory.mktemp("head"), environment) as found:
        yield found


def write_package(folder: Path) -> None:
    """A network of the user's own, in a package of two files."""
    (folder / "mine").mkdir()
    (folder / "mine" / "__init__.py").write_text("")
    (folder / "mine" / "sizes.py").write_text("HIDDEN = 5\n")
    (folder / "mine" / "nets.py").write_text(
        "from torch import nn\nfrom mine.sizes import HIDDEN\n\n"
        "def network(outputs):\n    return nn.Sequential(nn.Linear(1, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, outputs))\n"
    )


def test_train(head: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's module comes along, all of the cluster works, and the exit code and the result come back."""
    write_package(tmp_path)
    monkeypatch.chdir(tmp_path)
    config = write_config(tmp_path, model={"kind": "module:mine.nets.network"})
    long = ["run.meta_batch=40000", "run.tasks_per_shard=200"]  # for the second worker to open before it ends
    done = head.invoke("submit", config, *long, "--name", "first").succeeded()
    assert "step 3/3" in done.out
    assert "meta-test" in done.out
    assert "cluster.workers is not set: using auto" in done.err
    assert "~/distmeta-runs/first" in done.err
    result = result_of(head.runs("first"))
    assert result["steps"] == 3
    assert result["workers"]["count"] == 2


@pytest.mark.slow  # as any job; what is sent for it is looked at in test_job_secrets.py
def test_evaluate(head: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_package(tmp_path)
    monkeypatch.chdir(tmp_path)
    run = head.runs("trained")
    head.run("train", write_config(tmp_path, model={"kind": "module:mine.nets.network"}), "--run-dir", run).succeeded()
    options = ["--command", "evaluate", "--module", "mine", "--name", "measure"]
    done = head.invoke("submit", run, "evaluation.tasks=5", "cluster.workers=0", *options).succeeded()
    assert "meta-test: 5 tasks" in done.out


@pytest.mark.slow
def test_parts_of_the_users_own(head: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task family, a loss, an estimator and an outer step come along as a network does."""
    for name in ("users_tokens.py", "users_parts.py"):
        shutil.copy(Path(__file__).parents[1] / "helpers" / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    run = {**own_parts_settings()["run"], "steps": 4}
    config = tmp_path / "own.yaml"
    config.write_text(yaml.safe_dump({**own_parts_settings(), "run": run, "cluster": {"workers": 2}}))
    done = head.invoke("submit", config, "--name", "own").succeeded()
    assert "confidence" in done.out
    assert result_of(head.runs("own"))["workers"]["count"] == 2


@pytest.mark.slow
def test_left_stopped_and_resumed(head: Head, tmp_path: Path) -> None:
    """Ctrl-C leaves the job alone; stopping it checkpoints the run, and another job goes on from there."""
    config = write_config(tmp_path)
    endless = ["run.steps=1000000", "run.log_every=100", "cluster.workers=1", "--name", "long"]
    with head.start("submit", config, *endless) as process:
        assert process.stdout is not None
        assert any(line.startswith("step 100/") for line in process.stdout)  # while it runs
        os.killpg(process.pid, signal.SIGINT)
        left = finish(process)
    assert left.code == 130
    assert "`distmeta logs long` follows it again" in left.err
    assert "Traceback" not in left.err
    assert "RUNNING" in head.invoke("jobs").succeeded().out

    assert "STOPPED" in head.invoke("stop", "long").succeeded().err
    assert "STOPPED" in head.invoke("jobs").succeeded().out
    assert "ended already: STOPPED" in head.invoke("stop", "long").succeeded().err
    log = head.invoke("logs", "long", "--no-follow").succeeded().out
    assert "interrupted by SIGTERM" in log
    step = max(int(path.name.removeprefix("step-")) for path in (head.runs("long") / "checkpoints").iterdir())
    assert step >= 100
    assert f"step {step} is saved" in log
    head.invoke("logs", "long").refused("long was stopped")

    steps = f"run.steps={step + 2}"
    more = ["--name", "longer", "--resume", "--run-dir", "~/distmeta-runs/long"]
    done = head.invoke("submit", config, steps, "run.log_every=100", "cluster.workers=0", *more).succeeded()
    assert f"resuming {head.runs('long')} at step {step}" in done.out
    assert result_of(head.runs("long"))["steps"] == step + 2


def test_failing_job(head: Head, tmp_path: Path) -> None:
    """What the configuration's check cannot know fails in the job, and its message and code come back."""
    images = {"kind": "omniglot", "root": "/nowhere/omniglot", "ways": 2, "shots": 1, "queries": 1}
    config = write_config(tmp_path, tasks=images, cluster={"workers": 0})
    sent = head.invoke("submit", config, "--no-follow", "--name", "fails").succeeded()
    assert sent.out == "fails\n"
    assert "tasks.root = /nowhere/omniglot is taken for a file or folder on the cluster's head" in sent.err
    followed = head.invoke("logs", "fails")
    followed.refused("job fails ended with exit code 1")
    assert "error: " in followed.out
    assert "/nowhere/omniglot" in followed.out
    assert "Traceback" not in followed.out

    listed = head.invoke("jobs").succeeded().out
    assert "FAILED" in listed
    assert "/nowhere/omniglot" in listed
    head.invoke("submit", config, "--name", "fails").refused("a job fails", "--name")
    head.invoke("logs", "other").refused("no job other", "fails")
    head.invoke("stop", "other").refused("no job other", "fails")


@pytest.mark.slow
def test_sweeps(head: Head, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job, with its files on the head or in a bucket, leaves what the same sweep leaves here, to the bit.

    The base configuration and the user's module come along; trials have workers on the cluster.
    """
    write_package(tmp_path)
    monkeypatch.chdir(tmp_path)
    write_config(tmp_path, model={"kind": "module:mine.nets.network"})
    sweep = {"base": "sinusoid.yaml", "space": {"outer.lr": {"choice": [0.01, 0.001]}}, "searcher": "grid"}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump({"name": "rates", **sweep, "resources": {"workers": 1}}))
    options = ["sweep.yaml", "run.validate_every=1"]
    head.run("tune", *options, "--run-dir", "here").succeeded()
    expected = Storage.at(tmp_path / "here")
    job = ["submit", *options, "--command", "tune", "--name"]
    for name, more, home in (
        ("sweep", [], Storage.at(head.runs("sweep"))),
        ("remote", ["--run-dir", bucket.format("/sweep")], Storage.at(bucket.format("/sweep"))),
    ):
        done = head.invoke(*job, name, *more).succeeded()
        assert "2 of 2 trials done" in done.out
        assert "meta-test" in done.out
        assert home.list() == expected.list()
        assert scores(home) == scores(expected)
        assert home.read_bytes("best.yaml") == expected.read_bytes("best.yaml")
        assert checkpoint.resolve(results(home)["best"]["checkpoint"])[0].step == 3


def results(home: Storage) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(home.read_bytes("results.json"))
    return found


def scores(home: Storage) -> dict[float, float]:
    return {trial["values"]["outer.lr"]: trial["score"] for trial in results(home)["trials"]}


def test_nobody_there() -> None:
    invoke("jobs", "--address", DEAD).refused("cannot reach", DEAD, "--address")
    invoke("jobs", RAY_API_SERVER_ADDRESS="", RAY_ADDRESS="127.0.0.1:6379").refused("RAY_ADDRESS = 127", "http://")


def test_an_address_given_wins(head: Head) -> None:
    invoke("jobs", "--address", head.address, RAY_API_SERVER_ADDRESS=DEAD).succeeded()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run.stepz=1"], ["run.stepz", "did you mean"]),
        (["--name", "a b"], ["--name a b", "letters"]),
        (["--run-dir", "runs/first"], ["--run-dir = runs/first", "absolute"]),
        (["--resume"], ["--resume", "--run-dir"]),
        (["model={kind: 'module:not_there.network'}"], ["no module not_there"]),
        (["--command", "evaluate"], ["RUN_OR_CHECKPOINT", "absolute"]),
    ],
    ids=lambda value: str(value[0]) if isinstance(value, list) else None,
)
def test_a_wrong_request_reaches_no_cluster(
    arguments: list[str], words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = write_config(tmp_path).name
    invoke("submit", config, *arguments, "--address", DEAD).refused(*words, code=2)
