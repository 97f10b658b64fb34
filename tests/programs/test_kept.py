"""Recordings and compiled code in the cache: made once, loaded with the same bits, never trusted when damaged."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch._inductor.runtime.cache_dir_utils import default_cache_dir

from distmeta.core.plan import Plan
from distmeta.errors import ConfigError
from distmeta.functional.kernels import build
from distmeta.loading import load_config
from distmeta.programs.engine import kept as cache
from distmeta.programs.engine.compiling import RECORDING, is_recorded, specialise
from distmeta.programs.engine.kept import kept, origin
from distmeta.programs.engine.recording import Recording
from distmeta.programs.supervised import SupervisedProgram
from distmeta.storage.cache import cache_dir

CPU = torch.device("cpu")
CONV: dict[str, Any] = {
    "tasks": {"kind": "glyphs", "ways": 3, "shots": 1, "queries": 1},
    "model": {"kind": "conv4", "filters": 8},
    "algorithm": {"name": "maml", "inner_lr": 0.1, "inner_steps": 1},
    "run": {"meta_batch": 2, "tasks_per_shard": 2, "device": "cpu"},
}
QUICK: dict[str, Any] = {  # to record; where layers do not matter
    **CONV,
    "tasks": {"kind": "sinusoid"},
    "model": {"kind": "mlp", "hidden": [4]},
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of each test's own, with the session's kernels and data in it."""
    for name in ("kernels", "tasks"):
        if (cache_dir() / name).exists():
            (tmp_path / "cache").mkdir(exist_ok=True)
            (tmp_path / "cache" / name).symlink_to(cache_dir() / name)
    monkeypatch.setenv("DISTMETA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / cache.FOLDER


def compiled(folder: Path) -> set[Path]:
    """Libraries that torch's compiler has made."""
    return set((folder.parent / "inductor").rglob("*.so"))


def files(folder: Path) -> list[str]:
    return sorted(file.name.partition("-")[0] for file in folder.glob("*") if file.suffix != ".lock")


def text(parts: Any, make: Any) -> str:
    return kept("text", parts, make, str.encode, bytes.decode)


def never(*_: Any, **__: Any) -> Any:
    raise AssertionError("it is made again")


def test_it_is_made_once(folder: Path) -> None:
    assert text([1, "a"], lambda: "first") == "first"
    assert text([1, "a"], never) == "first"
    assert text([1, "b"], lambda: "second") == "second"
    assert files(folder) == ["text", "text"]


def test_several_processes_make_it_once(folder: Path, tmp_path: Path) -> None:
    code = """
        import sys, time, uuid
        from pathlib import Path
        from distmeta.programs.engine.kept import kept

        def make():
            Path(sys.argv[1], uuid.uuid4().hex).touch()
            time.sleep(0.5)
            return "made"

        assert kept("text", [], make, str.encode, bytes.decode) == "made"
    """
    made = tmp_path / "made"
    made.mkdir()
    command = [sys.executable, "-c", textwrap.dedent(code), str(made)]
    processes = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait(120) for process in processes] == [0, 0]
    assert len(list(made.iterdir())) == 1


@pytest.mark.parametrize("damage", [b"", b"x" * 100, None], ids=["empty", "other", "one-bit"])
def test_what_is_damaged_is_made_again(damage: bytes | None, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    text([], lambda: "whole")
    (file,) = [file for file in folder.iterdir() if file.suffix != ".lock"]
    content = file.read_bytes()
    file.write_bytes(bytes([content[0] ^ 1, *content[1:]]) if damage is None else damage)
    assert text([], lambda: "again") == "again"
    assert "is damaged: it is made again" in caplog.text
    assert text([], never) == "again"


def test_a_folder_that_others_may_write_to_is_not_loaded_from(folder: Path) -> None:
    text([], lambda: "planted")
    folder.chmod(0o777)
    assert text([], lambda: "own") == "own"
    folder.chmod(0o755)
    assert text([], never) == "planted"


def test_a_cache_that_cannot_be_used_is_done_without(folder: Path) -> None:
    folder.parent.mkdir(exist_ok=True)
    folder.write_text("a file in its place")
    assert text([], lambda: "made") == "made"
    assert text([], lambda: "made again") == "made again"


def test_failures_are_passed_on_and_not_kept(folder: Path) -> None:
    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            text([], lambda: (_ for _ in ()).throw(ValueError("no")))
    assert text([], lambda: "made") == "made"


def test_what_was_not_used_for_longest_goes_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        text([number], lambda number=number: str(number) * 1000)
        for file in folder.iterdir():
            os.utime(file, times=(os.stat(file).st_atime, os.stat(file).st_mtime - 10))
    text([0], never)  # used again
    monkeypatch.setattr(cache, "LARGEST", 3500)
    text([4], lambda: "4" * 1000)
    text([0], never), text([4], never), text([3], never)
    assert text([1], lambda: "made again") == "made again"


def test_user_code_has_no_known_origin() -> None:
    assert origin(load_config(CONV)) == origin(load_config(CONV, ["seed=1", "run.steps=7", "outer.lr=0.5"]))
    assert origin(load_config(CONV)) != origin(load_config(CONV, ["algorithm.inner_lr=0.2"]))
    assert origin(load_config(CONV, ["model={kind: 'module:a.b'}"])) is None


def gradient(plan: Plan, *overrides: str, base: dict[str, Any] = CONV) -> torch.Tensor:
    program = SupervisedProgram(load_config(base, overrides), CPU)
    program.follow(plan)
    return program.sample_gradient(2)


@pytest.mark.parametrize("compile_", ["graph", pytest.param("inductor", marks=pytest.mark.slow)])
def test_what_is_loaded_has_the_same_bits(compile_: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layers: Any = "general" if build.unavailable() else "native"
    if compile_ == "inductor" and build.unavailable():
        pytest.skip(str(build.unavailable()))
    plan = Plan(layers=layers, compile=compile_)
    # Torch's compiler writes its own choice of a folder there, on many an occasion.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", default_cache_dir())
    made = gradient(plan)
    assert files(folder) == ([RECORDING] if compile_ == "graph" else ["inductor", RECORDING])
    machine_code = compiled(folder)
    assert bool(machine_code) == (compile_ == "inductor")
    monkeypatch.setattr(Recording, "of", never)
    assert torch.equal(gradient(plan), made)
    assert torch.equal(gradient(plan, "seed=0"), made)
    assert compiled(folder) == machine_code, "it was compiled again"
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == default_cache_dir()
    with pytest.raises(AssertionError, match="made again"):
        gradient(plan, "algorithm.inner_lr=0.3")


@pytest.mark.slow
@pytest.mark.skipif(bool(build.unavailable()), reason=str(build.unavailable()))
@pytest.mark.parametrize("size", [0, 1000])
def test_libraries_that_a_killed_compiler_left_are_made_again(size: int, folder: Path, tmp_path: Path) -> None:
    """In processes of their own: one that has loaded a library does not read it again."""
    code = f"""
        import os, sys, torch
        from distmeta.core.plan import Plan
        from distmeta.loading import load_config
        from distmeta.programs.supervised import SupervisedProgram
        os.environ.pop("TORCHINDUCTOR_CACHE_DIR", None)
        program = SupervisedProgram(load_config({QUICK!r}), torch.device("cpu"))
        program.follow(Plan(compile="inductor"))
        torch.save(program.sample_gradient(2), sys.argv[1])
    """

    def compute(name: str) -> torch.Tensor:
        command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / name)]
        subprocess.run(command, check=True, timeout=300)
        return cast(torch.Tensor, torch.load(tmp_path / name))

    first = compute("first")
    for library in compiled(folder):
        os.truncate(library, size)
    for file in folder.glob("inductor-*"):  # what was compiled is not kept whole either
        file.unlink()
    assert torch.equal(compute("second"), first)
    assert any(library.stat().st_size > 1000 for library in compiled(folder))


def test_another_process_loads_it(folder: Path, tmp_path: Path) -> None:
    """Without recording, so that nothing of what records and compiles is imported."""
    made = gradient(Plan(compile="graph"), base=QUICK)
    code = f"""
        import sys, torch
        from distmeta.loading import load_config
        from distmeta.core.plan import Plan
        from distmeta.programs.engine.recording import Recording
        from distmeta.programs.supervised import SupervisedProgram
        Recording.of = lambda *_: 1 / 0
        program = SupervisedProgram(load_config({QUICK!r}), torch.device("cpu"))
        program.follow(Plan(compile="graph"))
        torch.save(program.sample_gradient(2), sys.argv[1])
        assert "torch._dynamo" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "loaded")], check=True, timeout=120)
    assert torch.equal(torch.load(tmp_path / "loaded"), made)


def test_a_plan_that_works_is_tried_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = SupervisedProgram(load_config(QUICK), CPU).probe()
    assert first.compile != "none"
    assert "plan" in files(folder)
    monkeypatch.setattr(SupervisedProgram, "sample_gradient", never)
    assert SupervisedProgram(load_config(QUICK, ["seed=3"]), CPU).probe() == first
    with pytest.raises(ConfigError, match="it is made again"):  # whatever is wrong is the model's fault here
        SupervisedProgram(load_config(QUICK, ["algorithm.inner_steps=2"]), CPU).probe()


def test_constants_are_kept_and_decide(folder: Path) -> None:
    def scaled(by: float) -> Any:
        constant = torch.full((3,), by)
        return lambda tree: {"y": tree["x"] * constant, "z": [tree["x"].sum()]}

    tree = {"x": torch.arange(3.0)}
    arguments = (tree,)
    assert not is_recorded("twice", arguments)
    made = specialise(scaled(2.0), arguments, "graph", "twice")
    assert is_recorded("twice", arguments)
    loaded = specialise(never, arguments, "graph", "twice")
    for function in (made, loaded):
        result = function({"x": torch.ones(3)})
        assert torch.equal(result["y"], torch.full((3,), 2.0))
        assert result["z"][0] == 3.0


def test_code_that_is_planted_in_a_recording_does_not_run(folder: Path, tmp_path: Path) -> None:
    """Of whoever cannot write to the folder; the hash alone would let anybody's file pass."""
    canary = tmp_path / "canary"

    class Planted:
        def __reduce__(self) -> Any:
            return (Path.touch, (canary,))

    arguments = (torch.ones(2),)
    specialise(torch.neg, arguments, "graph", "planted")
    (file,) = [file for file in folder.iterdir() if file.suffix != ".lock"]
    file.write_bytes(pickle.dumps(Planted()))
    function = specialise(torch.neg, arguments, "graph", "planted")
    assert torch.equal(function(torch.ones(2)), -torch.ones(2))
    assert not canary.exists()
