"""Families that a plain function stands for."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import users_functions
import users_slow
from integration_helpers import poll
from task_helpers import flat

import distmeta
from distmeta.config.importing import find_own
from distmeta.config.schema import Config, dump_config
from distmeta.core.records import SPLITS, TensorSpec
from distmeta.errors import ConfigError, DataError
from distmeta.tasks import TASKS, open_family, prepare_family, task_fingerprint
from distmeta.tasks.making import generator_of
from distmeta.tasks.reading import Targets, TaskName, read_task

CPU = torch.device("cpu")
IDS = [0, 7, 2**40 + 3]


def configure(name: str, *overrides: str, **tasks: Any) -> Config:
    """A configuration whose tasks are those of a function in ``users_functions``."""
    values = {
        "tasks": {"kind": f"module:{'users_slow' if hasattr(users_slow, name) else 'users_functions'}.{name}", **tasks},
        "model": {"kind": "mlp"},
        "algorithm": {"name": "maml"},
    }
    return distmeta.load_config(values, overrides)


def opened(name: str, *overrides: str, **tasks: Any) -> Any:
    return open_family(configure(name, *overrides, **tasks), CPU)


def spec(config: Config) -> Any:
    return TASKS[config.tasks.kind].spec(config.tasks)


def test_regression() -> None:
    config = configure("line", "evaluation.shots=8")
    assert spec(config).inputs == TensorSpec((1,))
    assert spec(config).outputs == 1
    assert config.tasks.objective == "squared_error"
    prepare_family(config)
    batch = open_family(config, CPU).sample("train", IDS)
    assert batch.ids.tolist() == IDS
    assert batch.support["x"].shape == batch.support["y"].shape == (3, 5, 1)
    assert batch.query["y"].shape == (3, 10, 1)
    assert {value.dtype for value in [*batch.support.values(), *batch.query.values()]} == {torch.float32}
    assert open_family(config, CPU).sample("test", [1, 2]).support["x"].shape == (2, 8, 1)


def test_classification() -> None:
    config = configure("blobs", "algorithm.name=protonet", "evaluation.ways=6", "evaluation.shots=1")
    assert config.tasks.objective == "cross_entropy"
    assert (spec(config).inputs, spec(config).outputs) == (TensorSpec((3,)), 4)
    prepare_family(config)
    family = open_family(config, CPU)
    batch = family.sample("train", IDS)
    assert batch.support["y"].tolist() == [[0, 0, 1, 1, 2, 2, 3, 3]] * 3
    assert batch.support["y"].dtype == torch.int64
    assert family.sample("validation", [4]).query["y"].max() == 5


def test_inputs_by_name() -> None:
    config = configure("named", ways=3, length=4)
    assert spec(config).inputs == {"tokens": TensorSpec((4,), "int64"), "mask": TensorSpec((4,), "bool")}
    batch = open_family(config, CPU).sample("train", IDS)
    assert batch.support["tokens"].dtype == torch.int64
    assert batch.support["mask"].dtype == torch.bool
    assert batch.support["y"].tolist() == [[0, 1, 2]] * 3


def test_a_task_is_its_id() -> None:
    family, again = opened("line"), opened("line")
    together = flat(family.sample("train", range(10, 18)))
    assert torch.equal(together, flat(again.sample("train", range(10, 18))))
    assert torch.equal(flat(family.sample("train", [13]))[0], together[3])
    assert len(torch.unique(together, dim=0)) == 8
    rows = torch.cat([flat(opened("line", "evaluation.shots=5").sample(split, range(4))) for split in SPLITS])
    assert len(torch.unique(rows, dim=0)) == 12


def test_the_run_seed_changes_training_alone() -> None:
    one, two = opened("line", "seed=1"), opened("line", "seed=2")
    assert not torch.equal(flat(one.sample("train", IDS)), flat(two.sample("train", IDS)))
    assert torch.equal(flat(one.sample("test", IDS)), flat(two.sample("test", IDS)))


def test_the_generator_is_keyed() -> None:
    places = [(seed, split, task) for seed in (0, 1, 2**32) for split in SPLITS for task in (0, 1, 2**32, 2**62)]
    drawn = {generator_of(*place).integers(2**63) for place in places}
    assert len(drawn) == len(places)
    both = [generator_of(1, "train", 2).spawn(1)[0].random() for _ in range(2)]
    assert both[0] == both[1]


def test_memory_that_is_filled_again_is_copied() -> None:
    x = opened("buffered").sample("train", range(3)).support["x"]
    assert len(torch.unique(x.flatten(1), dim=0)) == 3


def test_settings_are_what_the_signature_takes() -> None:
    config = configure("line", noise=1)
    assert config.tasks.model_dump(exclude={"kind", "metrics"}) == {
        "objective": "squared_error", "ways": None, "noise": 1.0, "shots": 5, "queries": 10,
    }  # fmt: skip
    assert "noise: 1.0" in dump_config(config)
    with pytest.raises(ConfigError, match=r"tasks.nosie: there is no such setting; did you mean 'noise'"):
        configure("line", nosie=1)
    with pytest.raises(ConfigError, match=r"tasks.dim: there is no .* there are .*noise, shots, queries"):
        configure("line", dim=1)
    with pytest.raises(ConfigError, match=r"tasks.noise: .* valid number, .* got 'much'"):
        configure("line", "tasks.noise=much")
    with pytest.raises(ConfigError, match=r"tasks.shots: .* greater than 0, got 0"):
        configure("line", shots=0)
    with pytest.raises(ConfigError, match=r"evaluation.shots has no meaning for tasks.kind"):
        configure("named", "evaluation.shots=3", ways=3)


def test_settings_have_the_types_of_their_annotations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = configure("typed", "tasks.sizes=[4, 5, 6]")
    users_functions.CALLS.clear()
    opened("typed", "tasks.sizes=[4, 5, 6]").sample("train", [1])
    given = users_functions.CALLS[-1][1]
    assert given == {"root": tmp_path / "data", "how": "plain", "sizes": (4, 5, 6), "limit": None}
    again = distmeta.load_config(config.model_dump(mode="json"))
    assert again.tasks == config.tasks
    with pytest.raises(ConfigError, match=r"tasks.how"):
        configure("typed", how="other")
    for name in ("transform", "_hidden"):
        with pytest.raises(ConfigError, match=rf"tasks.{name}: there is no such setting"):
            configure("typed", **{name: 1})


def test_a_function_may_take_whatever_it_is_given() -> None:
    family = opened("many", "evaluation.shots=2", shots=5, colour="red", sizes=[1, 2])
    users_functions.CALLS.clear()
    assert family.sample("train", [0]).support["x"].shape == (1, 5, 2)
    assert family.sample("test", [0]).support["x"].shape == (1, 2, 2)
    assert users_functions.CALLS[0] == ("train", {"shots": 5, "colour": "red", "sizes": [1, 2]})
    assert ("test", {"shots": 2, "colour": "red", "sizes": [1, 2]}) in users_functions.CALLS


def test_what_can_be_called_will_do() -> None:
    assert opened("an_object", dim=5).sample("train", [0]).support["x"].shape == (1, 4, 5)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a_number", "a_number should be a class with the methods .* or a function of one task, but is int"),
        ("no_generator", r"expected a function of one task, task\(split, generator.*, but its signature is \(split\)"),
        ("reserved", "its parameter 'kind' has the name of a setting that every family has; call it otherwise"),
        ("nameless", "its parameter 'size' cannot be given by name"),
    ],
)
def test_what_is_no_function_of_a_task_is_refused(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"tasks.kind = 'module:users_functions.{name}': .*{message}"):
        configure(name)


RETURNS: Mapping[str, str] = {
    "returns_nothing": r"expected \(support, query\), but it returned NoneType",
    "three": r"expected \(support, query\), but it returned a tuple of 3",
    "bare": r"support: expected \(x, y\), or \(inputs by name, y\), but it is ndarray of shape \(4, 2\)",
    "lists": "support x is a list of 2; expected an array of NumPy or a tensor of torch",
    "ragged": "support x is ragged, or holds objects",
    "text": "support x holds <U1 values",
    "complexes": "support x holds complex128 values",
    "scalar": "support x is a single number",
    "uneven": "support x has 3 examples, and support y has 4",
    "empty": "support has no examples",
    "infinite": r"support x holds numbers that are not finite in float32: 1 of 4, the first is 1e\+300 at \[0, 1\]",
    "not_a_number": r"query y holds numbers that are not finite in float32: 1 of 4, the first is nan at \[1\]",
    "other_types": r"query x: expected float32 examples of shape \(2,\), as in the support set, but it has int64",
    "other_names": "support has the inputs a, and query b",
    "no_inputs": "support: there are no inputs",
    "y_as_input": "support: 'y' cannot be the name of one of several inputs",
    "x_and_more": "support: 'x' cannot be the name of one of several inputs",
    "cube": r"support y: expected values of shape \(N,\) or \(N, D\), but it has the shape \(4, 2, 2\)",
    "whole": "support y holds whole numbers, which are classes; set tasks.ways",
    "sparse": "support x cannot be read .*; give a dense tensor",
    "too_large": "support x holds 9223372036854775808, which is more than int64 can hold",
    "raises": r"it raised KeyError: 'missing' \(.*users_functions.py, line \d+: return values\[\"missing\"\]\)",
    "labels_beyond": r"query y names class 3 \(example 3\), but tasks.ways = 3: expected 0 to 2",
    "negative_labels": r"support y names class -1 \(example 3\), but tasks.ways = 3: expected 0 to 2",
    "floating_labels": "support y holds floating-point numbers, but tasks.objective = cross_entropy is about classes",
    "two_labels": r"support y: expected class indices of shape \(N,\), but it has the shape \(4, 2\)",
}


@pytest.mark.parametrize("name", RETURNS)
def test_what_is_no_task_is_refused(name: str) -> None:
    config = configure(name)
    where = f"tasks.kind = 'module:users_functions.{name}', task 0 of the train split: "
    for use in (spec, prepare_family):
        with pytest.raises(DataError, match=where + RETURNS[name]) as error:
            use(config)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("shape", ["other_shape", "other_examples"])
def test_tasks_of_other_shapes_are_refused(shape: str) -> None:
    family = opened(shape)
    found = {"other_shape": r"\(5, 2\)", "other_examples": r"\(4, 3\)"}[shape]
    message = rf"task 3 of the train split: support x: expected float32 numbers of shape \(4, 2\).* shape {found}"
    with pytest.raises(DataError, match=message):
        family.sample("train", [0, 3])


def test_labels_are_those_of_the_split_s_ways() -> None:
    with pytest.raises(DataError, match=r"of the validation split: .* evaluation.ways = 2: expected 0 to 1"):
        prepare_family(configure("labels_beyond", "algorithm.name=protonet", "evaluation.ways=2", ways=4))
    with pytest.raises(ConfigError, match=r"evaluation.ways = 2, but tasks.ways = 3, and the function .* no ways"):
        prepare_family(configure("named", "algorithm.name=protonet", "evaluation.ways=2", ways=3))


@pytest.mark.parametrize("name", ["draws_python", "draws_numpy", "draws_torch", "draws_its_own", "counts"])
def test_a_second_call_gives_the_same_task_or_is_refused(name: str) -> None:
    theirs = name.startswith("draws") and name != "draws_its_own"
    why = "uses global random numbers" if theirs else "depends on earlier calls"
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    with pytest.raises(DataError, match=f"task 0 of the train split: called twice, it gave two .*{why}"):
        prepare_family(configure(name))
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    assert before == after


def test_the_version_of_numpy_is_known() -> None:
    config = configure("line")
    found = TASKS[config.tasks.kind].fingerprint(config.tasks)
    assert found["numpy"] == np.__version__
    assert found["first task"] == task_fingerprint(config)["first task"]
    assert found["first task"] != task_fingerprint(configure("line", noise=2))["first task"]
    assert task_fingerprint(configure("line", "tasks={kind: sinusoid}")) == {}


def test_masked_values_are_no_data() -> None:
    task = TaskName("module:mine.task", "train", 0)
    targets = Targets("squared_error", False, None)
    x, y = np.ma.masked_array(np.ones((4, 2)), np.zeros((4, 2), bool)), np.ones(4)
    assert type(read_task(((x, y), (x, y)), task, targets).support["x"]) is np.ndarray
    x[2, 1] = np.ma.masked
    message = r"query x is a masked array, of which 1 of 8 values are masked, the first at \[2, 1\]; fill them in"
    with pytest.raises(DataError, match=message):
        read_task(((x.data, y), (x, y)), task, targets)
    with pytest.raises(DataError, match="support y is a masked array, of which 2 of 4 values"):
        read_task(((x.data, np.ma.masked_array(y, [1, 0, 1, 0])), (x.data, y)), task, targets)


@pytest.mark.parametrize("kind", ["module:fns", "module:", "module:fns.", "module:.fns", "module:a..b", "module:fns:"])
def test_kinds_without_a_function_are_refused(kind: str) -> None:
    with pytest.raises(
        ConfigError, match=r"tasks.kind = '\S+' does not name both .*; expected module:MODULE.NAME, for"
    ):
        find_own(kind, "tasks.kind", "a function of one task")


# In processes -----------------------------------------------------------------------------------------------------


def processes_of(parent: int) -> list[int]:
    """Those that make tasks for a process."""
    found = []
    for path in Path("/proc").iterdir():
        try:
            ours = path.name.isdigit() and b"distmeta.tasks.serving" in (path / "cmdline").read_bytes()
            if ours and int((path / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(path.name))
        except OSError:  # it has ended
            continue
    return found


def in_processes(name: str, **tasks: Any) -> Any:
    """The family with two processes, which have begun."""
    family = opened(name, **tasks)
    family.use(2)
    end = time.monotonic() + 60
    while family._processes is None or not family._processes.ready():
        family.sample("train", range(20, 60))
        assert time.monotonic() < end
    return family


@pytest.fixture(scope="module")
def slow() -> Iterator[Any]:
    family = in_processes("slow")
    yield family
    family.close()


def test_slow_functions_are_called_in_processes(slow: Any) -> None:
    assert len(processes_of(os.getpid())) == 2
    plain = opened("slow", wait=0)
    for split in SPLITS:
        assert torch.equal(flat(slow.sample(split, range(17))), flat(plain.sample(split, range(17))))


def test_fast_functions_are_not() -> None:
    family = opened("line")
    family.use(2)
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        family.sample("train", range(2))
        time.sleep(0.05)
    assert family._processes is None


def test_killed_processes_are_done_without(slow: Any) -> None:
    expected = flat(slow.sample("train", range(12)))
    one, other = processes_of(os.getpid())
    os.kill(one, signal.SIGKILL)
    assert torch.equal(flat(slow.sample("train", range(12))), expected)
    assert processes_of(os.getpid()) == [other]
    os.kill(other, signal.SIGKILL)
    assert torch.equal(flat(slow.sample("train", range(12))), expected)
    assert processes_of(os.getpid()) == []


def test_errors_in_processes_are_the_same() -> None:
    family = in_processes("slow_and_wrong", wait=0.02)
    try:
        said = []
        for sample in (opened("slow_and_wrong", wait=0.0).sample, family.sample):
            with pytest.raises(
                DataError, match=r"task \d+ of the test split: it raised ValueError: negative \(.*"
            ) as e:
                sample("test", range(12))
            # Another test of this process may have loaded the file from its own copy.
            said.append(re.sub(r"\(/\S*/users_slow", "(users_slow", str(e.value)))
        assert said[0] == said[1]
        assert family.sample("train", range(4)).ids.tolist() == [0, 1, 2, 3]  # and they go on
    finally:
        family.close()
    assert processes_of(os.getpid()) == []


def test_tasks_that_differ_between_processes_are_refused() -> None:
    with pytest.raises(DataError, match=r"task 0 of the train split is another one in a new process.*hash\(\)"):
        in_processes("hashes", wait=0.02)


def test_processes_end_with_their_worker() -> None:
    """However it ends."""
    code = f"""
import sys
sys.path[:0] = {[str(Path(__file__).parent), str(Path(users_slow.__file__).parent)]!r}
import os, test_functions
family = test_functions.in_processes("slow")
print(*test_functions.processes_of(os.getpid()), flush=True)
family.sample("train", range(10_000))
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    ids = [int(each) for each in process.stdout.readline().split()]
    assert len(ids) == 2
    process.kill()
    process.wait()
    assert poll(lambda: [each for each in ids if is_running(each)], lambda left: not left, 30) == []


def is_running(process: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
