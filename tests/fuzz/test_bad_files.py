"""Small files of runs and sweeps that were damaged: refused by name, or written anew."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from fuzz_checkpoints import small_config, small_run, write

import distmeta
from distmeta.errors import ConfigError, StorageError
from distmeta.runs.directory import RunDirectory
from distmeta.runs.metrics import read_lines
from distmeta.storage.files import Storage
from distmeta.storage.json_files import JsonValues, read_json
from distmeta.sweeps.results import read_results
from distmeta.sweeps.state import put_back
from distmeta.sweeps.sweep import check_same_sweep
from distmeta.sweeps.trial import diverged, read_parts, read_validations


def finish(run: Path, *overrides: str) -> dict[str, Any]:
    steps = distmeta.train(small_config(*overrides), run, resume=True)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: dict[str, Any] = end.value
            return result


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 9999, '{"steps": 2}', '{"steps": "2"}', "\x00"])
def test_a_damaged_result_is_written_anew(text: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = write(tmp_path, {**small_run(), "result.json": text.encode()})
    with pytest.raises(StorageError, match=r"result\.json is damaged: .*; write it anew with --resume"):
        RunDirectory(run).read_result()
    with caplog.at_level(logging.WARNING):
        result = finish(run)
    assert "result.json is damaged" in caplog.text
    assert result["meta_test"] == json.loads(small_run()["result.json"])["meta_test"]
    assert RunDirectory(run).read_result() == json.loads((run / "result.json").read_text())


def test_damaged_lines_of_metrics_are_left_out(tmp_path: Path) -> None:
    good = small_run()["metrics.jsonl"].splitlines()
    bad = [
        b"",
        b"[]",
        b"7",
        b'{"step": 1e999}',
        b'{"step": null}',
        b'{"steps": 1}',
        b"[" * 9999,
        b"\xff",
        b'{"step": 2',
    ]
    run = write(tmp_path, {**small_run(), "metrics.jsonl": b"\n".join([*bad, *good, *bad])})
    assert [line for line, _ in read_lines(Storage.at(run))] == good
    assert sorted(read_validations(RunDirectory(run))) == [1, 2]
    finish(run, "run.steps=3")
    assert [values["step"] for _, values in read_lines(Storage.at(run))] == [1, 2, 3]


@pytest.mark.parametrize("text", ["", "[", "1: 2", "a: &a [*a]", "[" * 9999, "\x00", "? [1]\n: 2"])
def test_a_damaged_config_of_a_run_without_checkpoints(text: str, tmp_path: Path) -> None:
    run = write(tmp_path, {"config.yaml": text.encode()})
    with pytest.raises(ConfigError, match=r"config\.yaml|there is no such setting"):
        finish(run)
    assert (run / "config.yaml").read_text() == text
    with pytest.raises(ConfigError):
        check_same_sweep(text, "a: 1")


FILES = {
    "trial.json": lambda home: read_parts(home),
    "diverged.json": lambda home: diverged(read_parts(write_trial(home))[-1]),
    "results.json": lambda home: read_results(home),
    "tune-state-1/manifest.json": lambda home: put_back(home),
    "part-001/origin.json": lambda home: read_parts(write_trial(home)),
}


def write_trial(home: Storage) -> Storage:
    home.write_bytes("trial.json", b'{"values": {}}')
    return home


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("text", ["", "[]", "{}", "{", "[" * 9999, '{"number": "1"}', '{"trial": "../x"}', "\ufeff{}"])
def test_damaged_files_of_a_sweep_are_named(file: str, text: str, tmp_path: Path) -> None:
    write(tmp_path, {file: text.encode()})
    with pytest.raises(StorageError, match=file.rpartition("/")[2] + " is damaged: .*; (restore it|delete )"):
        FILES[file](Storage.at(tmp_path))


def test_a_part_of_a_trial_elsewhere(tmp_path: Path) -> None:
    """Names of other trials are names, no paths."""
    origin = {"trial": "../../elsewhere", "part": 0, "step": 5, "values": {}}
    write(tmp_path, {"trial.json": b'{"values": {}}', "part-001/origin.json": json.dumps(origin).encode()})
    with pytest.raises(StorageError, match=r"origin\.json is damaged: trial: string should match pattern"):
        read_parts(Storage.at(tmp_path))


def test_what_else_a_file_holds_is_left_alone(tmp_path: Path) -> None:
    write(tmp_path, {"x.json": b'{"a": 1}'})
    assert read_json(Storage.at(tmp_path), "x.json", JsonValues, "restore it") == {"a": 1}
