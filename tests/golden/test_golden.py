"""Runs and a sweep that an older version made load, evaluate and go on, to the same bits on the same kind of machine.

They were made by ``distmeta train sinusoid.yaml --run-dir sinusoid``, the same with ``glyphs``, and ``distmeta tune
sweep.yaml --run-dir sweep``, whose driver was killed, in this folder, with distmeta 0.1.0 before its modules had
folders. ``expected.json`` holds what that version made of them in going on. TensorBoard's files were left out.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import distmeta
from distmeta.cli.main import app
from distmeta.loading import load_config
from distmeta.workers.worker import Worker

HERE = Path(__file__).parent
EXPECTED = json.loads((HERE / "expected.json").read_text())
RUNS = {"sinusoid": 12, "glyphs": 8}
"""Meta-steps that a run goes on to."""

CLOSE = 1e-3
"""Relative difference of measurements that other hardware may make in a few steps."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """What is computed in this process has the bits of one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with copies of all."""
    for path in HERE.iterdir():
        if path.is_dir() and path.name != "__pycache__":
            shutil.copytree(path, tmp_path / path.name)
        elif path.suffix in (".yaml", ".py") and not path.name.startswith("test_"):
            shutil.copy(path, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(*arguments: str) -> str:
    """What a command prints, which succeeds."""
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 0, done.output
    return done.output


def same_machine(run: Path) -> bool:
    """Whether a run was made on hardware and with a torch like here."""
    manifest = json.loads(next(run.glob("**/checkpoints/*/manifest.json")).read_text())
    worker = Worker(load_config(manifest["config"], trust_code=True))
    try:
        # That version did not tell who made the processor, which was an Intel Xeon.
        return bool(worker.fingerprint() == {**manifest["fingerprint"], "vendor": "GenuineIntel"})
    finally:
        worker.close()


def check_measured(measured: dict[str, Any], expected: dict[str, Any], bits: bool) -> None:
    """Whether a meta-test measured what is expected."""
    assert measured.keys() == expected.keys()
    means = {name: value["mean"] for name, value in expected.items() if name != "by_step"}
    found = {name: measured[name]["mean"] for name in means}
    assert found == (means if bits else pytest.approx(means, rel=CLOSE))


def few_examples(name: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Support inputs, their targets, and query inputs."""
    if name == "sinusoid":
        x = torch.linspace(-1, 1, 5).unsqueeze(1)
        return x, x.sin(), x + 0.1
    x = torch.linspace(0, 1, 6 * 28 * 28).view(6, 1, 28, 28)
    return x, torch.tensor([0, 0, 1, 1, 2, 2]), x.flip(0)


@pytest.mark.parametrize("name", RUNS)
def test_runs_load_and_evaluate(name: str, here: Path) -> None:
    same = same_machine(here / name)
    x, y, query = few_examples(name)
    outputs = distmeta.load(name).adapt(x, y).predict(query).flatten().tolist()
    expected = EXPECTED[name]["adapted"]
    assert outputs == (expected if same else pytest.approx(expected, rel=CLOSE))
    check_measured(distmeta.evaluate(name), EXPECTED[name]["as it is"], same)


@pytest.mark.parametrize("name", RUNS)
def test_runs_go_on(name: str, here: Path) -> None:
    same, steps = same_machine(here / name), RUNS[name]
    mixed = [] if same else ["cluster.allow_mixed=true"]
    command("train", f"{name}.yaml", f"run.steps={steps}", *mixed, "--run-dir", name, "--resume")
    result = json.loads((here / name / "result.json").read_text())
    assert result["steps"] == steps
    check_measured(result["meta_test"], EXPECTED[name]["resumed"]["meta_test"], same)
    files = (here / name / "checkpoints" / f"step-{steps:08d}").glob("*.safetensors")
    hashes = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    assert hashes.keys() == EXPECTED[name]["resumed"]["sha256"].keys()
    if same:
        assert hashes == EXPECTED[name]["resumed"]["sha256"]


@pytest.mark.slow
def test_the_sweep_goes_on(here: Path) -> None:
    same = same_machine(here / "sweep")
    overrides = [] if same else ["cluster.allow_mixed=true"]
    command("tune", "sweep.yaml", *overrides, "--run-dir", "sweep", "--resume")
    results = json.loads((here / "sweep" / "results.json").read_text())
    expected = EXPECTED["sweep"]
    assert results["best"]["trial"] == expected["best"]
    check_measured(results["best"]["meta_test"], expected["meta_test"], same)
    found = {trial["name"]: (trial["status"], trial["steps"]) for trial in results["trials"]}
    assert found == {name: ("finished", each["steps"]) for name, each in expected["trials"].items()}
    for name, each in expected["trials"].items() if same else ():
        last = here / "sweep" / "trials" / name / "seed-3" / "checkpoints" / "step-00000150" / "params.safetensors"
        assert hashlib.sha256(last.read_bytes()).hexdigest() == each["sha256"], name
    assert "nothing to do" in command("tune", "sweep.yaml", *overrides, "--run-dir", "sweep", "--resume")
