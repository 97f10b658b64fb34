"""Runs whose files were changed: evaluating, loading and resuming them works or is refused, and loses nothing."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from fuzz_checkpoints import (
    SMALL,
    files_of,
    manifest_of,
    saved,
    sealed,
    small_checkpoint,
    small_config,
    small_run,
    state_of,
    write,
)
from fuzz_helpers import damaged, fuzz, mutated, plain_values, refusal
from hypothesis import strategies as st
from typer.testing import CliRunner

import distmeta
from distmeta.cli.main import app
from distmeta.loading import load_config
from distmeta.runs import checkpoint
from distmeta.storage.files import Storage

STEP = "checkpoints/step-00000002/"


def states() -> st.SearchStrategy[Any]:
    moments = st.sampled_from([torch.zeros(3), torch.zeros(2).double(), torch.tensor(1), torch.zeros(10)])
    return st.deferred(lambda: mutated([state_of(small_checkpoint())], plain_values() | moments, most=2))


def manifests() -> st.SearchStrategy[Any]:
    return st.deferred(lambda: mutated([manifest_of(small_checkpoint())], plain_values(), most=2))


@st.composite
def changed_checkpoints(draw: st.DrawFn) -> dict[str, bytes]:
    """A checkpoint with other values and the right hashes."""
    files = dict(small_checkpoint())
    if draw(st.booleans()):
        files["state.pt"] = saved(draw(states()))
        return sealed(files)
    try:
        return sealed(files, draw(manifests()))
    except TypeError:  # keys that cannot be sorted: no manifest
        return files


def is_whole(run: Path) -> None:
    """No file is half-written, and what is a checkpoint can be read."""
    assert not [path for path in run.rglob("*") if ".partial-" in path.name]
    for line in (run / "metrics.jsonl").read_bytes().splitlines():
        json.loads(line)


@fuzz(20, 300, files=changed_checkpoints())
def test_changed_checkpoints_are_evaluated_or_refused(files: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = write(Path(folder), files)
        refusal(lambda: distmeta.evaluate(place))
        refusal(lambda: distmeta.load(place).adapt(torch.zeros(2, 1), torch.zeros(2, 1)).predict(torch.zeros(3, 1)))
        assert files_of(place) == files


@fuzz(12, 300, files=changed_checkpoints())
def test_changed_checkpoints_are_resumed_or_refused(files: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = write(Path(folder), {**small_run(), **{STEP + name: data for name, data in files.items()}})
        error = refusal(lambda: list(distmeta.train(small_config("run.steps=3"), run, resume=True)))
        if error is None:
            assert checkpoint.load(Storage.at(run / "checkpoints" / "step-00000003")).step == 3
            assert json.loads((run / "result.json").read_bytes())["steps"] == 3
        is_whole(run)


# Small files --------------------------------------------------------------------------------------------------------


def result_trees() -> st.SearchStrategy[Any]:
    return st.deferred(lambda: mutated([json.loads(small_run()["result.json"])], plain_values()))


LINES = [b"", b"[]", b"{}", b"null", b'{"step": 1e999}', b'{"step": true}', b'{"step": "1"}', b"[" * 9999, b"\xff"]


@st.composite
def changed_runs(draw: st.DrawFn) -> dict[str, bytes]:
    """A finished run with one file changed."""
    files = dict(small_run())
    name = draw(st.sampled_from(["metrics.jsonl", "result.json", "config.yaml", "result.json", "metrics.jsonl"]))
    if name == "result.json" and draw(st.booleans()):
        files[name] = json.dumps(draw(result_trees()), skipkeys=True).encode()
    elif name == "metrics.jsonl" and draw(st.booleans()):
        lines = [*files[name].splitlines(), *draw(st.lists(st.sampled_from(LINES), min_size=1, max_size=3))]
        files[name] = b"\n".join(lines)
    else:
        files[name] = draw(damaged(st.just(files[name])))
    if draw(st.booleans()):  # a run without a checkpoint knows itself by its config.yaml alone
        files = {name: data for name, data in files.items() if not name.startswith("checkpoints/")}
    return files


@fuzz(12, 400, files=changed_runs(), steps=st.sampled_from([2, 3]))
def test_changed_files_of_a_run_are_mended_or_refused(files: dict[str, bytes], steps: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = write(Path(folder), files)
        arguments = ["train", write_config(Path(folder)), f"run.steps={steps}", "--run-dir", str(run), "--resume"]
        code = finished(arguments)
        if code == 0:
            result = json.loads((run / "result.json").read_bytes())
            assert result["steps"] == steps
            if steps == 3:  # else there was nothing to do, perhaps
                is_whole(run)
        else:
            assert files_of(run).keys() >= files.keys()


# The command line ---------------------------------------------------------------------------------------------------


def write_config(folder: Path, tree: Any = None) -> str:
    file = folder / "small.yaml"
    file.write_text(yaml.safe_dump(SMALL if tree is None else tree))
    return str(file)


def finished(arguments: list[str]) -> int:
    """The exit code of a command, which shows no traceback; a failure is told in one message."""
    done = CliRunner().invoke(app, arguments)
    assert done.exception is None or isinstance(done.exception, SystemExit), repr(done.exception)
    assert "Traceback" not in done.output
    if done.exit_code:
        assert (done.stderr.count("error: ") == 1) != (done.exit_code == 2 and "─ Error ─" in done.stderr), done.stderr
    return done.exit_code


ODD = [
    "",
    "x",
    "-1",
    "0",
    "nan",
    "inf",
    "1e999",
    "../..",
    "s3://",
    "nosuch://x",
    "~nobody/x",
    "/dev/null",
    "run.steps=1",
]
ODD += ["run.steps=x", "a=b", "=", "outer.lr=1e30", "tasks.kind=nothing", "algorithm.name=protonet", "model.kind=conv4"]
FLAGS = ["--resume", "--run-dir", "--json", "--write", "--seconds", "--source", "--out", "--trust-code", "--nothing"]


@fuzz(
    25,
    500,
    command=st.sampled_from([["train"], ["evaluate"], ["plan"], ["tune"], ["data", "build"], ["list"], ["submit"]]),
    arguments=st.lists(st.sampled_from([*ODD, *FLAGS, "CONFIG", "RUN", "CHECKPOINT", "FILE", "FOLDER"]), max_size=5),
)
def test_arguments(command: list[str], arguments: list[str]) -> None:
    if command == ["plan"]:  # which measures a configuration that is right, for long
        arguments = [each for each in arguments if each != "CONFIG"]
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.chdir(name)
        folder = Path(name)
        run = write(folder / "run", small_run())
        (folder / "file").write_text("mine")
        (folder / "folder").mkdir()
        places = {"CONFIG": write_config(folder), "RUN": str(run), "CHECKPOINT": str(run / STEP), "FILE": "file"}
        given = [{**places, "FOLDER": "folder"}.get(each, each) for each in arguments]
        finished([*command, *given, *(["--address", "http://127.0.0.1:9"] if command == ["submit"] else [])])
        assert (folder / "file").read_text() == "mine" or "--write" in given
        assert checkpoint.load(Storage.at(run / STEP)).step == 2


@fuzz(25, 500, tree=mutated([SMALL]))
def test_a_configuration_that_is_refused_leaves_nothing(tree: Any) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            file = write_config(folder, tree)
        except (yaml.YAMLError, ValueError):  # what YAML cannot say
            return
        if refusal(lambda: load_config(file)) is not None:
            assert finished(["train", file, "--run-dir", str(folder / "run")]) == 2
            assert not (folder / "run").exists()
