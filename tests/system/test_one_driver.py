"""Two drivers on one run directory: beside a live one, after a killed one, and a stopped one that wakes up too late."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.fs
import pytest
from integration_helpers import (
    SINUSOID,
    Command,
    assert_same,
    invoke,
    logged_steps,
    parameters,
    poll,
    train,
    write_config,
)

import distmeta
from distmeta.errors import LeaseError
from distmeta.runs import checkpoint
from distmeta.runs.lease import VARIABLE, acquire
from distmeta.storage.files import Storage

PLAIN = ("engine.compile=none", "run.validate_every=0", "run.checkpoint_every=3")
ENDLESS = ("run.steps=1000000", *PLAIN)
ELSEWHERE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
"""Runs a command as in a container: it cannot see the processes outside."""


def files(run: Storage) -> dict[str, bytes]:
    """All of a run directory, however deep."""
    filesystem, path = run._filesystem, run._path
    found = filesystem.get_file_info(pyarrow.fs.FileSelector(path, recursive=True))
    return {
        info.path.removeprefix(f"{path}/"): filesystem.open_input_file(info.path).read()
        for info in found
        if info.is_file
    }


@pytest.mark.slow  # as test_killed_driver.py, and tests/runs/test_lease.py for the second driver
def test_a_second_driver_and_a_killed_one(tmp_path: Path) -> None:
    """The second one is refused at once and harms nothing; after a kill the next one goes on to the same bits."""
    run, config = tmp_path / "run", write_config(tmp_path, SINUSOID)
    with Command("train", config, *ENDLESS, "--run-dir", str(run)) as driver:
        assert driver.reach(4, run)
        for resume in ([], ["--resume"]):
            began = time.monotonic()
            message = invoke("train", config, *ENDLESS, "--run-dir", run, *resume).refused(
                f"{run} is in use: process {driver.pid} on ", "heartbeat", f"`kill {driver.pid}`", "--run-dir"
            )
            assert time.monotonic() - began < 1
            assert re.search(r"has driven it for \d+ (s|min) \(last heartbeat \d+ s ago\)", message)
        seen = len(checkpoint.steps(Storage.at(run)))
        assert invoke("evaluate", run, "--json").succeeded()  # which only reads
        assert driver.reach(40, run)
        assert seen
        driver.kill()

    steps = logged_steps(run)[-1] + 5
    train(run, SINUSOID, f"run.steps={steps}", *PLAIN, resume=True)
    train(tmp_path / "whole", SINUSOID, f"run.steps={steps}", *PLAIN)
    assert logged_steps(run) == list(range(1, steps + 1))
    assert_same(parameters(run, steps), parameters(tmp_path / "whole", steps))
    assert not list(run.glob("lease-*"))


@pytest.mark.slow  # that whoever has lost a lease writes nothing is tested in tests/runs/test_lease.py too
@pytest.mark.parametrize("place", ["disk", "bucket"])
def test_a_stopped_driver(
    place: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is stopped for longer than the limit keeps this host's drivers out, and gives way to those elsewhere.

    When it wakes up it changes nothing, wherever it was stopped, and says what has happened.
    """
    if subprocess.run([*ELSEWHERE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine does not let this user have process numbers of their own")
    monkeypatch.setenv(VARIABLE, "1.5")
    where = str(tmp_path / "run") if place == "disk" else request.getfixturevalue("bucket").format("/runs/stopped")
    run, config = Storage.at(where), write_config(tmp_path, SINUSOID)
    with Command("train", config, *ENDLESS, "--run-dir", where) as driver:
        assert poll(lambda: checkpoint.steps(run), bool, 60)
        os.kill(driver.pid, signal.SIGSTOP)
        time.sleep(2.5)
        invoke("train", config, *ENDLESS, "--run-dir", where, "--resume").refused(
            f"process {driver.pid}", "alive but stopped", f"`kill -CONT {driver.pid}`"
        )
        before = checkpoint.steps(run)[-1]
        steps = before + 30
        resumed = subprocess.run(
            [*ELSEWHERE, sys.executable, "-m", "distmeta", "train", str(config), f"run.steps={steps}", *PLAIN,
             "--run-dir", where, "--resume"],
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert resumed.returncode == 0, resumed.stderr
        assert f"taking over from process {driver.pid}" in resumed.stderr
        left = files(run)
        os.kill(driver.pid, signal.SIGCONT)
        message = driver.end().refused("the lease of this process in", "is gone", "writes nothing more")
        assert "Traceback" not in message
    assert files(run) == left
    logged = [json.loads(line)["step"] for line in left["metrics.jsonl"].splitlines()]
    assert logged == list(range(1, steps + 1))
    train(tmp_path / "whole", SINUSOID, f"run.steps={steps}", *PLAIN)
    found, damaged = checkpoint.latest(run)
    assert found is not None
    assert not damaged
    assert_same(found.meta, parameters(tmp_path / "whole", steps))


def test_two_in_one_process(tmp_path: Path) -> None:
    config = distmeta.load_config(SINUSOID, PLAIN)
    first = distmeta.train(config, tmp_path)
    next(first)
    for resume in (False, True):
        with pytest.raises(LeaseError, match="this very process"):
            next(distmeta.train(config, tmp_path, resume=resume))
    first.close()
    second = distmeta.train(config, tmp_path, resume=True)
    assert next(second).step == 2
    second.close()


def test_sweeps_too(tmp_path: Path) -> None:
    """Refused before Ray starts, and without a change."""
    sweep = {"base": SINUSOID, "space": {"outer.lr": {"loguniform": [1e-4, 1e-2]}}, "trials": 2}
    home = Storage.at(tmp_path / "sweep")
    lease = acquire(home)
    before = home.list()
    for resume in (False, True):
        with pytest.raises(LeaseError, match="sweep is in use: this very process"):
            distmeta.tune(sweep, run_dir=tmp_path / "sweep", resume=resume)
    assert home.list() == before
    lease.release()


def fails_at(step: int, run: Path) -> Callable[[], None]:
    def check() -> None:
        if run.exists() and list(run.glob("checkpoints/*")):
            raise RuntimeError(f"after {step}")

    return check


@pytest.mark.parametrize("setting", ["tasks.kind=omniglot", "model.hidden=[8]"])
def test_the_folder_is_free_after_an_error(setting: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One before the first step, where the data is missing; one in the middle."""
    monkeypatch.setenv("DISTMETA_DATA", str(tmp_path / "none"))
    base: dict[str, Any] = {**SINUSOID, "model": {"kind": "mlp"}}
    overrides = (*PLAIN, "run.checkpoint_every=1", setting)
    if "omniglot" in setting:
        base["model"] = {"kind": "conv4"}
        overrides += (f"tasks.root={tmp_path / 'none'}",)
    run = tmp_path / "run"
    with pytest.raises((distmeta.DistmetaError, RuntimeError)):
        for _ in distmeta.train(distmeta.load_config(base, overrides), run, check=fails_at(1, run)):
            pass
    assert not list(run.glob("lease-*"))
