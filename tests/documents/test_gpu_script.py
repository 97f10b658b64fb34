"""The script of the GPU: what it reads off its parts, and that none of them ends it."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def gpu() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module("gpu")


@pytest.fixture(scope="module")
def busy(gpu: ModuleType) -> ModuleType:
    return importlib.import_module("busy")


def test_outcomes_of_one_process_and_of_several(gpu: ModuleType) -> None:
    output = """collecting ... collected 4 items
tests/gpu/a.py::test_x[a-b] PASSED [ 25%]
tests/gpu/a.py::test_y FAILED [ 50%]
tests/gpu/a.py::test_z SKIPPED (about CUDA alone) [ 75%]
tests/gpu/a.py::test_stopped_in_the_middle \n"""
    assert gpu.tests(output, {}) == {"outcomes": "1 failed, 1 passed, 1 skipped", "failed: test_y": "see the log"}
    output = """[gw1] [ 25%] PASSED tests/gpu/a.py::test_x[a-b] \ntests/gpu/a.py::test_y
[gw0] [ 50%] ERROR tests/gpu/a.py::test_y
FAILED tests/gpu/a.py::test_y - assert 1 == 2
SKIPPED [1] tests/gpu/b.py:3: about CUDA alone\n"""
    assert gpu.tests(output, {}) == {"outcomes": "1 error, 1 passed", "failed: test_y": "see the log"}
    assert gpu.tests("", {}) == {"outcomes": "none ran"}


def test_time_at_work_is_counted_once(busy: ModuleType) -> None:
    trace = {
        "traceEvents": [
            {"cat": "kernel", "ts": 0, "dur": 10},
            {"cat": "gpu_memcpy", "ts": 5, "dur": 10},
            {"cat": "kernel", "ts": 6, "dur": 1},
            {"cat": "gpu_memset", "ts": 100, "dur": 5},
            {"cat": "cpu_op", "ts": 0, "dur": 500},
            {"cat": "gpu_user_annotation", "ts": 0, "dur": 500},
            {"name": "process_name"},
        ]
    }
    assert busy.at_work(trace) == pytest.approx(20e-6)


def test_a_part_that_fails_or_takes_too_long_is_a_row(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "GRACE", 1.0)
    nothing = lambda output, figures: {"said": output.strip()}  # noqa: E731
    failing = gpu.Part(["-c", "print('the reason'); raise SystemExit(3)"], 60, nothing)
    rows = {row["figure"]: row["value"] for row in gpu.run("failing.py", failing, tmp_path, "cpu")}
    assert rows["state"].startswith("failed, exit code 3, ")
    assert rows["last words"] == rows["said"] == "the reason"
    program = "import subprocess, sys, time\n" + (
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print(child.pid, flush=True); time.sleep(60)"
    )
    began = time.monotonic()
    rows = {r["figure"]: r["value"] for r in gpu.run("slow.py", gpu.Part(["-c", program], 2, nothing), tmp_path, "cpu")}
    assert time.monotonic() - began < 30
    assert rows["state"].startswith("stopped after 2 s")
    for _ in range(100):
        if not running(int(rows["said"].splitlines()[0])):
            return
        time.sleep(0.1)
    pytest.fail("a process that the part had started has outlived it")


def running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{process}/stat")
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"


def test_what_is_missing_is_one_message(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(gpu.NEEDED, "no_such_module", "its-package")
    said = gpu.missing("cpu")
    assert "lacks its-package: install" in said
    assert "Ray is not needed" in said


def test_nothing_that_runs_there_imports_ray() -> None:
    """In a process of its own, in which Ray cannot be imported, as on a machine without it."""
    program = (
        "import sys; sys.modules['ray'] = None\n"
        "import tempfile, distmeta, peers, memory, busy, gpu\n"
        "from distmeta.loading import load_config\n"
        "settings = {'tasks': {'kind': 'sinusoid'}, 'model': {'kind': 'mlp', 'hidden': [4]}, "
        "'algorithm': {'name': 'maml'}}\n"
        "config = load_config(settings, ['run.steps=1', 'evaluation.tasks=2', 'cluster.workers=0'])\n"
        "place = tempfile.mkdtemp()\n"
        "list(distmeta.train(config, place)); distmeta.evaluate(place); distmeta.load(place)\n"
    )
    path = os.pathsep.join([str(BENCHMARKS), str(BENCHMARKS.parent)])
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.returncode == 0, done.stderr
