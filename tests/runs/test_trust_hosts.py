"""Loading connects to no host that only the loaded settings name, since that would send it the user's credentials."""

from __future__ import annotations

import shutil
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from integration_helpers import invoke, train
from trust_helpers import OWN, OWN_SMALL, SMALL, forge, new_process, write_own

import distmeta
from distmeta.core.hosts import hosts_in
from distmeta.errors import DataError, TrustError
from distmeta.loading import load_config
from distmeta.runs import checkpoint
from distmeta.storage.files import Storage
from distmeta.sweeps.sweep import load_sweep

SPACE: dict[str, Any] = {"outer.lr": {"loguniform": [1e-4, 1e-2]}}
GLYPHS = {"kind": "glyphs", "ways": 2, "shots": 1, "queries": 1}
FOREIGN = [
    "s3://bucket/a?endpoint_override=127.0.0.1:{}&scheme=http",
    "s3://bucket/a?scheme=http",
    "s3://bucket/a?%65ndpoint_override=127.0.0.1:{}",
    "s3://bucket/a?region=x&endpoint_override=127.0.0.1:{}",
    "s3://bucket/a?region=x.evil.example/",
    "S3://key:***@bucket/a?endpoint_override=127.0.0.1:{}",
    "gs://bucket?endpoint_override=127.0.0.1:{}",
    "abfs://c@127.0.0.1:{}/x",
    "hdfs://127.0.0.1:{}/x",
    "viewfs://127.0.0.1:{}/x",
    "unheard-of://127.0.0.1:{}/x",
]


@pytest.fixture(name="callers")
def _callers() -> Iterator[tuple[int, list[Any]]]:
    """A port, and who has connected to it."""
    server, callers = socket.create_server(("127.0.0.1", 0)), []

    def serve() -> None:
        while True:
            try:
                connection, address = server.accept()
            except OSError:  # closed
                return
            callers.append(address)
            connection.close()

    threading.Thread(target=serve, daemon=True).start()
    yield server.getsockname()[1], callers
    server.close()


@pytest.fixture(name="trained", scope="module")
def _trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    train(folder, {**SMALL, "tasks": GLYPHS})
    return folder


@pytest.fixture(name="run")
def _run(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "run")


def ask_for(run: Path, **sections: dict[str, Any]) -> None:
    """Make a run's checkpoints and its settings say something else."""
    storage = Storage.at(run)
    for step in checkpoint.steps(storage):
        found = checkpoint.load(storage.child("checkpoints", f"step-{step:08d}"))
        config = {**found.config, **sections}
        checkpoint.save(storage, replace(found, config=config))
    (run / "config.yaml").write_text(yaml.safe_dump(config))


@pytest.mark.parametrize("root", FOREIGN)
def test_data(root: str, run: Path, callers: tuple[int, list[Any]], tmp_path: Path) -> None:
    port, seen = callers
    root = root.format(port)
    ask_for(run, tasks={**GLYPHS, "kind": "omniglot", "root": root})
    for place in (run, max((run / "checkpoints").iterdir())):
        invoke("evaluate", place).refused(str(run), "names a host", "tasks.root", "--trust-code")
    invoke("train", run / "config.yaml", "--resume", "--run-dir", tmp_path / "other").refused("tasks.root")
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"base": str(run / "config.yaml"), "space": SPACE}))
    with pytest.raises(TrustError, match=r"tasks.root"):
        load_sweep(tmp_path / "mine.yaml")
    assert distmeta.load(run)  # which reads no data
    assert load_config(run / "config.yaml", [f"tasks.root={tmp_path}"])
    with pytest.raises(DataError):  # the user's own place, which holds none
        distmeta.evaluate(run, [f"tasks.root={tmp_path}"])
    assert not seen


def test_sweeps(tmp_path: Path) -> None:
    home = tmp_path / "sweep"
    (home / "trials").mkdir(parents=True)
    base = {**SMALL, "cluster": {"address": "10.0.0.1:6379", "workers": 1}}
    (home / "sweep.yaml").write_text(yaml.safe_dump({"base": base, "space": SPACE}))
    with pytest.raises(TrustError, match=r"base.cluster.address.*'?cluster.address=10.0.0.1:6379"):
        load_sweep(home / "sweep.yaml")
    own = ["cluster.address=10.0.0.2:6379", "run.validate_every=2"]
    assert load_sweep(home / "sweep.yaml", own).config.cluster.address == "10.0.0.2:6379"


def test_a_cluster(run: Path, callers: tuple[int, list[Any]]) -> None:
    port, seen = callers
    ask_for(run, cluster={"workers": 1, "address": f"127.0.0.1:{port}"})
    invoke("train", run / "config.yaml", "--resume").refused("cluster.address", "--trust-code")
    own = load_config(run / "config.yaml", ["cluster.address=10.0.0.1:6379"])
    assert own.cluster.address == "10.0.0.1:6379"
    done = invoke("evaluate", run, "cluster.workers=1", "--json").succeeded()
    assert "which is not asked now" in done.err
    assert not seen


def test_what_names_no_host() -> None:
    values = {
        "tasks": {"root": "/data/omniglot"},
        "run": {"dir": "s3://bucket/runs"},
        "a": ["s3://key:***@my.bucket/a/b?region=us-east-1", "gs://bucket/x", "file:///data", "runs/a:b"],
        "model": {"kind": "module:a.b", "weights": "https://example.org/weights"},
        "cluster": {"address": "auto"},
    }
    assert hosts_in(values) == {}


def test_advice_is_no_command(run: Path, tmp_path: Path) -> None:
    """What a refusal tells the user to type is one word to a shell, whatever the loaded settings say."""
    for kind in (
        "module:x; touch PWNED #.y",
        "module:$(touch PWNED).y",
        "module:x.y\n",
        "module:x.\x1b[31my",
        "module:x",
    ):
        forge(run, {"kind": kind}, {})
        message = invoke("evaluate", run).refused("no name of Python code")
        assert "\x1b" not in message
    ask_for(run, model={"kind": "mlp", "hidden": [3]}, tasks={"kind": "omniglot", "root": "s3://b?x=$(touch PWNED)'\n"})
    with pytest.raises(TrustError) as refused:
        load_config(run / "config.yaml")
    assert "\n" not in str(refused.value)


def test_settings_of_a_run_that_lacks_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever was taken away beside them."""
    write_own(tmp_path)
    monkeypatch.chdir(tmp_path)
    marks = ("metrics.jsonl", "params.safetensors", "trials/0/seed-0/x", "checkpoints/step-00000001/x")
    cases = {(mark, "mine.yaml") for mark in marks} | {("tensorboard/x", "config.yaml"), ("x", "best.yaml")}
    with new_process():
        for number, (mark, name) in enumerate(sorted(cases)):
            folder = tmp_path / f"found-{number}"
            (folder / mark).parent.mkdir(parents=True)
            (folder / mark).touch()
            (folder / name).write_text(yaml.safe_dump(OWN_SMALL))
            with pytest.raises(TrustError, match="no record of its code"):
                load_config(folder / name)
            assert load_config(folder / name, [f"model.kind={OWN}"])
        (tmp_path / "found").mkdir()
        for name in ("mine.yaml", "config.yaml", "sweep.yaml"):
            (tmp_path / "found" / name).write_text(yaml.safe_dump(OWN_SMALL))
            assert load_config(tmp_path / "found" / name)
