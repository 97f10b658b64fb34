from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from distmeta.errors import ConfigError, StorageError
from distmeta.runs.directory import RunDirectory, check_resume
from distmeta.storage.files import Storage


def test_create_and_read_back(storage: Storage) -> None:
    run = RunDirectory(storage)
    assert not run.holds_run
    run.write_config("seed: 1\n")
    assert run.holds_run
    assert run.read_config() == "seed: 1\n"
    assert run.storage.list() == ["config.yaml"]


@pytest.mark.parametrize("sign", ["config.yaml", "checkpoints/step-00000001/manifest.json"])
def test_an_existing_run_is_refused(sign: str, storage: Storage) -> None:
    storage.write_bytes(sign, b"")
    with pytest.raises(StorageError, match=r"run already holds a run; .*--resume .* another --run-dir"):
        RunDirectory(storage).check_free()


def test_other_files_are_no_run(storage: Storage) -> None:
    storage.write_bytes("notes.txt", b"")
    run = RunDirectory(storage)
    run.check_free()
    assert not run.holds_run


def test_reading_where_there_is_no_run(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "none")
    with pytest.raises(StorageError, match=r"none holds no run: it has no config.yaml"):
        run.read_config()
    with pytest.raises(StorageError, match=r"there is no .*none/result.json"):
        run.read_result()


def test_damaged_small_files_are_explained(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_bytes(b"\xff\xfe")
    (tmp_path / "result.json").write_bytes(b'{"steps": 1')
    with pytest.raises(StorageError, match=r"config.yaml is damaged"):
        RunDirectory(tmp_path).read_config()
    with pytest.raises(StorageError, match=r"result.json is damaged"):
        RunDirectory(tmp_path).read_result()


def test_a_place_that_cannot_be_written_to_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match=r"file/run/.*not a folder; choose another place"):
        RunDirectory(tmp_path / "file" / "run").check_writable()


def test_a_full_disk_is_refused_at_once(small_disk: Path) -> None:
    with pytest.raises(OSError, match="No space left"):
        (small_disk / "filler").write_bytes(bytes(1 << 20))
    with pytest.raises(StorageError, match="no space is left there"):
        RunDirectory(small_disk / "run").check_writable()
    assert os.listdir(small_disk / "run") == []


def test_result(storage: Storage) -> None:
    run = RunDirectory(storage)
    result = {
        "steps": 3,
        "tasks": 12,
        "seconds": 0.1 + 0.2,
        "tasks_per_second": 40.0,
        "checkpoint": "checkpoints/step-00000003",
        "workers": {"count": 1, "shards_each": [12]},
        "faults": {},
        "meta_test": {"accuracy": {"mean": 0.5, "ci95": float("nan"), "tasks": 600}},
    }
    run.write_result(result)
    assert run.read_result() == {**result, "meta_test": {"accuracy": {"mean": 0.5, "ci95": None, "tasks": 600}}}


def config(**changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "name": "run",
        "seed": 0,
        "tasks": {"kind": "sinusoid", "shots": 5},
        "outer": {"lr": 1e-3, "schedule": "constant"},
        "run": {
            "steps": 10,
            "keep": 2,
            "log_every": 1,
            "validate_every": 0,
            "checkpoint_every": 5,
            "dir": "runs",
            "threads": 1,
        },
        "cluster": {"workers": 0},
    }
    for key, value in changes.items():
        section, _, last = key.rpartition("__")
        (values[section] if section else values)[last] = value
    return values


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"cluster__workers": 4, "cluster__address": "auto"},
        {"run__steps": 20, "run__keep": 1, "run__dir": "elsewhere"},
        {"run__log_every": 2, "run__validate_every": 3, "run__checkpoint_every": 1},
    ],
)
def test_resume_may_change_these(changes: dict[str, Any]) -> None:
    check_resume(config(), config(**changes))


def test_where_data_lies_may_change_once_it_is_known_what_it_is() -> None:
    old = config(tasks={"kind": "unlabelled", "partition": "/a/p", "source": {"kind": "omniglot", "root": "/a"}})
    new = config(tasks={"kind": "unlabelled", "partition": "/b/p", "source": {"kind": "omniglot", "root": "/b"}})
    check_resume(old, new, data_is_known=True)
    with pytest.raises(ConfigError, match=r"tasks\.partition: was .*\n +tasks\.source\.root: was "):
        check_resume(old, new)
    with pytest.raises(ConfigError, match=r"tasks\.source\.kind"):
        check_resume(old, config(tasks={**new["tasks"], "source": {"kind": "glyphs"}}), data_is_known=True)


def test_resume_lists_every_other_difference() -> None:
    new = config(seed=1, name="b", tasks__shots=1, tasks__ways=5, run__threads=2, run__steps=11, cluster__workers=1)
    del new["tasks"]["kind"]
    with pytest.raises(ConfigError) as caught:
        check_resume(config(), new)
    lines = str(caught.value).splitlines()
    assert [line.strip() for line in lines[1:-1]] == [
        'name: was "run", is "b"',
        "seed: was 0, is 1",
        'tasks.kind: was "sinusoid", is absent',
        "tasks.shots: was 5, is 1",
        "run.threads: was 1, is 2",
        "tasks.ways: was absent, is 5",
    ]


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_resume_keeps_the_steps_that_a_schedule_depends_on(schedule: str) -> None:
    old = config(outer__schedule=schedule)
    check_resume(old, config(outer__schedule=schedule, run__keep=9))
    with pytest.raises(ConfigError, match=rf"run.steps: was 10, is 20 \(outer.schedule = {schedule} depends"):
        check_resume(old, config(outer__schedule=schedule, run__steps=20))


def test_resume_takes_new_steps_with_a_step_schedule() -> None:
    schedule = {"kind": "step", "every": 5, "factor": 0.5}
    check_resume(config(outer__schedule=schedule), config(outer__schedule=schedule, run__steps=20))
    with pytest.raises(ConfigError, match=r"outer.schedule.every: was 5, is 6"):
        check_resume(config(outer__schedule=schedule), config(outer__schedule={**schedule, "every": 6}))
