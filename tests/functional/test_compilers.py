"""Which compiler is chosen, by what really compiles, and where its library lies."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from distmeta.functional.kernels import build, native
from distmeta.functional.kernels.build import Unavailable
from distmeta.functional.kernels.geometry import Geometry

GXX = shutil.which("g++")
SMALL = """
#define NAMED(NAME) extern "C" int vector_bytes_##NAME() { return 32; }
#define NAMED_BY(NAME) NAMED(NAME)
NAMED_BY(REAL)
"""
LOOK = """
import sys
from pathlib import Path
from distmeta.functional.kernels import build
build.SOURCE = Path(sys.argv[1])
print(build.load().vector_bytes)
"""
needs_gxx = pytest.mark.skipif(GXX is None, reason="there is no g++ here")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, no CXX, and kernels that are quickly compiled."""
    monkeypatch.delenv("CXX", raising=False)
    (tmp_path / "small.cpp").write_text(SMALL)
    monkeypatch.setattr(build, "SOURCE", tmp_path / "small.cpp")
    monkeypatch.setenv("DISTMETA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "kernels"


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}")
    path.chmod(0o755)
    return path


def failing(path: Path, says: str) -> Path:
    return script(path, f'[ "$1" = --version ] && echo "strange 1.0" && exit 0\necho "{says}" >&2\nexit 1\n')


def test_without_a_compiler_the_reason_is_said(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert build.unavailable() == "no C++ compiler is found (tried g++, c++, clang++; CXX names another)"


@pytest.mark.parametrize("cxx", ["/nowhere/c++", "nowhere", "/etc/passwd", "nowhere -O2", "'g++"])
def test_a_compiler_that_is_not_there_is_named(cache: Path, monkeypatch: pytest.MonkeyPatch, cxx: str) -> None:
    monkeypatch.setenv("CXX", cxx)
    assert build.unavailable() == f"no C++ compiler is found (tried {cxx.split()[0]}, which CXX names)"


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ('[ "$1" = --version ] && echo "strange 1.0" && exit 0\necho "out of ideas" >&2\nexit 1\n', "out of ideas"),
        ('[ "$1" = --version ] && echo "strange 1.0"\nexit 0\n', "has written no library"),
        ("exit 0\n", "does not say its version"),
        ("exit 3\n", "non-zero exit status 3"),
        (
            'echo "strange 1.0"\nwhile [ $# -gt 1 ]; do [ "$1" = -o ] && echo junk > "$2"; shift; done\n',
            "cannot be loaded",
        ),
    ],
)
def test_a_compiler_that_does_not_work_is_quoted(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, problem: str
) -> None:
    compiler = script(tmp_path / "cxx", body)
    monkeypatch.setenv("CXX", str(compiler))
    said = build.unavailable() or ""
    assert str(compiler) in said
    assert problem in said
    with pytest.raises(Unavailable, match=problem):
        build.load()


@needs_gxx
def test_the_first_that_really_compiles_is_chosen(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where clang++ is there without its OpenMP library."""
    failing(tmp_path / "bin" / "g++", "cannot find -lomp")
    (tmp_path / "bin" / "c++").symlink_to(str(GXX))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    assert build.unavailable() is None
    assert build.find_compiler().command == ("c++",)
    assert build.program() == "c++"


def test_where_none_compiles_all_are_quoted(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in build.COMPILERS:
        failing(tmp_path / "bin" / name, f"{name} is ill")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/bin:/usr/bin")
    assert build.unavailable() == "; ".join(f"{name} failed: {name} is ill" for name in build.COMPILERS)


@needs_gxx
def test_a_compiler_with_arguments(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = script(tmp_path / "launch er", 'exec "$@"\n')
    monkeypatch.setenv("CXX", f"'{launcher}' g++ -DUNUSED=1")
    assert build.unavailable() is None
    found = build.find_compiler()
    assert found.command == (str(launcher), "g++", "-DUNUSED=1")
    assert found.version.endswith(" -DUNUSED=1")
    # Inductor takes one program.
    said = subprocess.run([build.program(), "--version"], capture_output=True, text=True, check=True).stdout
    assert said.startswith("g++")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("clang++") is None, reason="there is no clang++ here")
def test_clang_computes_what_torch_computes_or_says_why_not() -> None:
    program = """
import torch
from torch.nn import functional as F
from distmeta.functional.kernels import build
from distmeta.functional.kernels import native
from distmeta.functional.kernels.geometry import Geometry
torch.manual_seed(0)
reason = build.unavailable()
if reason is None:
    shape = Geometry((3, 3), (1, 1), (1, 1), (1, 1))
    x, dy, w = torch.randn(2, 3, 9, 8, 32), torch.randn(2, 3, 9, 8, 48), torch.randn(2, 3, 3, 32, 48)
    y = native.OPERATORS.conv(x, w, shape.encode())
    dx = native.OPERATORS.conv_input(dy, w, shape.encode(), [9, 8])
    for t in range(2):
        xt = x[t].permute(0, 3, 1, 2).double().requires_grad_()
        yt = F.conv2d(xt, w[t].permute(3, 2, 0, 1).double(), padding=1)
        (dxt,) = torch.autograd.grad(yt, xt, dy[t].permute(0, 3, 1, 2).double())
        torch.testing.assert_close(y[t].permute(0, 3, 1, 2), yt.float(), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(dx[t].permute(0, 3, 1, 2), dxt.float(), rtol=1e-4, atol=1e-4)
print(reason or "right")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={**os.environ, "CXX": "clang++"}
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "right" or done.stdout.startswith("clang++ failed: ")


@needs_gxx
def test_a_damaged_library_is_compiled_again(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Loading a truncated one would end the process."""
    assert build.load().vector_bytes == 32
    (library,) = cache.glob("*.so")
    content = library.read_bytes()
    middle = len(content) // 2
    changed = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    for damaged in (content[:middle], b"", changed, content[:-1]):
        library.unlink()  # not written over, since this process has it loaded
        library.write_bytes(damaged)
        build._load.cache_clear()
        caplog.clear()
        assert build.load().vector_bytes == 32
        assert "are damaged: compiling them again" in caplog.text
        assert library.stat().st_size == len(content)


@needs_gxx
def test_processes_that_compile_at_once(cache: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", LOOK, str(tmp_path / "small.cpp")]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [each.communicate()[0] for each in both] == ["32\n", "32\n"]
    assert [each.returncode for each in both] == [0, 0]
    assert len(list(cache.glob("*.so"))) == 1
    assert list(cache.glob(".partial-*")) == []


@needs_gxx
def test_a_cache_that_cannot_be_written_is_a_reason(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DISTMETA_CACHE", str(tmp_path / "file" / "cache"))
    assert "file/cache/kernels: Not a directory" in (build.unavailable() or "")
    assert build.find_compiler().version  # which a run that asks for Inductor still needs


def test_the_outcome_holds_for_the_process(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counter = tmp_path / "count"
    body = f'echo x >> {counter}\n[ "$1" = --version ] && echo "strange 1.0" && exit 0\nexit 1\n'
    monkeypatch.setenv("CXX", str(script(tmp_path / "cxx", body)))
    for _ in range(3):
        assert build.unavailable()
    # Its version, and the kernels of two types, of which the second may be called off as the first one fails.
    assert len(counter.read_text().splitlines()) in (2, 3)


def test_transposing_is_exact() -> None:
    """What differs between compilers in the kernels' text: a gradient by the input reads its filter transposed."""
    if build.unavailable():
        pytest.skip(str(build.unavailable()))
    shape = Geometry((1, 1), (1, 1), (0, 0), (1, 1))
    for dtype in (torch.float32, torch.float64):
        lanes = build.load().vector_bytes // dtype.itemsize
        w = torch.randn(1, 1, 1, 3 * lanes, 2 * lanes, dtype=dtype)
        dy = torch.eye(2 * lanes, dtype=dtype).view(1, 1, 1, 2 * lanes, 2 * lanes)
        dx = native.OPERATORS.conv_input(dy, w, shape.encode(), [1, 2 * lanes])
        assert torch.equal(dx[0, 0, 0], w[0, 0, 0].T)
