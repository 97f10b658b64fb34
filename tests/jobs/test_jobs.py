"""Jobs on a real Ray cluster: sent, followed, left, stopped, resumed, refused."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import TOKEN, Head, finish

pytestmark = pytest.mark.timeout(600)

DEAD = "http://127.0.0.1:9"  # the port of a service that nobody runs
SINUSOID: dict[str, Any] = {
    "name": "sinusoid",
    "tasks": {"kind": "sinusoid"},
    "model": {"kind": "mlp", "hidden": [4]},
    "algorithm": {"name": "maml"},
    "run": {"steps": 3, "meta_batch": 4, "log_every": 1},
    "evaluation": {"tasks": 8},
    "engine": {"compile": "none"},
}


def write_config(folder: Path, **changes: Any) -> Path:
    file = folder / "sinusoid.yaml"
    file.write_text(yaml.safe_dump({**SINUSOID, **changes}))
    return file


def result_of(run: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((run / "result.json").read_text())
    return result


def write_package(folder: Path) -> None:
    """A network of the user's own, in a package of two files."""
    (folder / "mine").mkdir()
    (folder / "mine" / "__init__.py").write_text("")
    (folder / "mine" / "sizes.py").write_text("HIDDEN = 5\n")
    (folder / "mine" / "nets.py").write_text(
        "from torch import nn\nfrom mine.sizes import HIDDEN\n\n"
        "def network(outputs):\n    return nn.Sequential(nn.Linear(1, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, outputs))\n"
    )


def test_train_and_evaluate(head: Head, tmp_path: Path) -> None:
    """The user's module comes along, all of the cluster works, and the exit code and the result come back."""
    write_package(tmp_path)
    config = write_config(tmp_path, model={"kind": "module:mine.nets.network"})
    done = head.run("submit", config, "--name", "first", cwd=tmp_path).succeeded()
    assert "step 3/3" in done.out
    assert "meta-test" in done.out
    assert "cluster.workers is not set: using auto" in done.err
    assert "~/distmeta-runs/first" in done.err
    result = result_of(head.runs("first"))
    assert result["steps"] == 3
    assert result["workers"]["count"] == 2

    run = head.runs("first")
    options = ["--command", "evaluate", "--module", "mine", "--name", "measure"]
    done = head.run("submit", run, "evaluation.tasks=5", "cluster.workers=0", *options, cwd=tmp_path).succeeded()
    assert "meta-test: 5 tasks" in done.out


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
    assert "RUNNING" in head.run("jobs").succeeded().out

    assert "STOPPED" in head.run("stop", "long").succeeded().err
    assert "STOPPED" in head.run("jobs").succeeded().out
    assert "ended already: STOPPED" in head.run("stop", "long").succeeded().err
    log = head.run("logs", "long", "--no-follow").succeeded().out
    assert "interrupted by SIGTERM" in log
    step = max(int(path.name.removeprefix("step-")) for path in (head.runs("long") / "checkpoints").iterdir())
    assert step >= 100
    assert f"step {step} is saved" in log
    head.run("logs", "long").refused("long was stopped")

    steps = f"run.steps={step + 2}"
    more = ["--name", "longer", "--resume", "--run-dir", "~/distmeta-runs/long"]
    done = head.run("submit", config, steps, "run.log_every=100", "cluster.workers=0", *more).succeeded()
    assert f"resuming {head.runs('long')} at step {step}" in done.out
    assert result_of(head.runs("long"))["steps"] == step + 2


def test_failing_job(head: Head, tmp_path: Path) -> None:
    """What the configuration's check cannot know fails in the job, and its message and code come back."""
    images = {"kind": "omniglot", "root": "/nowhere/omniglot", "ways": 2, "shots": 1, "queries": 1}
    config = write_config(tmp_path, tasks=images, cluster={"workers": 0})
    sent = head.run("submit", config, "--no-follow", "--name", "fails").succeeded()
    assert sent.out == "fails\n"
    followed = head.run("logs", "fails")
    followed.refused("job fails ended with exit code 1")
    assert "error: " in followed.out
    assert "/nowhere/omniglot" in followed.out
    assert "Traceback" not in followed.out

    listed = head.run("jobs", COLUMNS="200").succeeded().out
    assert "FAILED" in listed
    assert "/nowhere/omniglot" in listed
    head.run("submit", config, "--name", "fails").refused("a job fails", "--name")
    head.run("logs", "other").refused("no job other", "fails")
    head.run("stop", "other").refused("no job other", "fails")


def test_tokens(head: Head) -> None:
    head.run("jobs", RAY_AUTH_TOKEN=TOKEN[::-1]).refused("refuses this token", "RAY_AUTH_TOKEN")
    head.run("jobs", RAY_AUTH_MODE="disabled").refused("got none", "RAY_AUTH_MODE=token")


def test_without_tokens(open_head: Head, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = open_head.run("submit", write_config(tmp_path), "cluster.workers=0", "--run-dir", run).succeeded()
    assert "step 3/3" in done.out
    assert result_of(run)["steps"] == 3
    address = ["--address", open_head.address]
    assert "SUCCEEDED" in open_head.run("jobs", *address, RAY_API_SERVER_ADDRESS=DEAD).succeeded().out


def test_nobody_there(head: Head) -> None:
    head.run("jobs", "--address", DEAD).refused("cannot reach", DEAD, "--address")
    head.run("jobs", "--address", "127.0.0.1:6379").refused("--address = 127.0.0.1:6379", "http://")


def test_a_wrong_request_reaches_no_cluster(head: Head, tmp_path: Path) -> None:
    config = write_config(tmp_path)
    head.run("submit", config, "run.stepz=1", "--address", DEAD).refused("run.stepz", "did you mean", code=2)
