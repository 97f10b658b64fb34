"""Numbers that are valid and too large for any machine, and code of the user's that ends the process."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import typer
from fuzz_checkpoints import SMALL, small_config
from typer.testing import CliRunner

import distmeta
from distmeta.cli.common import errors
from distmeta.cli.main import app
from distmeta.core.requests import Answer
from distmeta.errors import ConfigError
from distmeta.loading import load_config
from distmeta.outer.learner import Learner
from distmeta.outer.options import GradientOptions

GLYPHS = {"tasks": {"kind": "glyphs"}, "model": {"kind": "conv4"}, "algorithm": {"name": "maml"}}


@pytest.mark.parametrize(
    "hidden", ["[1000000000000]", "[9223372036854775807]", "[18446744073709551615]", "[4000000, 4000000]"]
)
def test_networks_that_no_memory_holds(hidden: str, tmp_path: Path) -> None:
    """torch has an error of its own for each: no memory, a size that overflows, a number of no 64 bits."""
    with pytest.raises(ConfigError, match=r"model.kind = mlp: a network with hidden = .* cannot be made here"):
        list(distmeta.train(small_config("algorithm.name=maml", f"model.hidden={hidden}"), tmp_path / "run"))


@pytest.mark.parametrize("key", ["tasks.shots", "tasks.queries", "evaluation.shots", "evaluation.queries"])
def test_more_examples_than_can_be_drawn(key: str) -> None:
    for base in (SMALL, GLYPHS):
        with pytest.raises(ConfigError, match=f"{key}: input should be less than or equal to 4194304"):
            load_config(base, [f"{key}=1000000000000"])


@pytest.mark.parametrize("bound", [1e308, 3.5e38])
def test_a_bound_beyond_float32_bounds_nothing(bound: float) -> None:
    learner = Learner(GradientOptions(optimizer="sgd", lr=1.0, clip_value=bound), 1, {"model/w": torch.zeros(2)})
    answer = Answer({"gradient": torch.tensor([3e38, -1.0])}, {}, 1)
    learner.apply(lambda request: answer)
    assert torch.equal(learner.vector, torch.tensor([-3e38, 1.0]))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("raise SystemExit(0)", "cannot import ends: SystemExit: 0"),
        ("import sys\ndef make():\n    sys.exit()", "the factory raised SystemExit"),
    ],
)
def test_a_module_that_ends_the_process(
    source: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script that parses its arguments as it is imported, say; the run has not succeeded."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "ends", raising=False)
    Path("ends.py").write_text(source)
    config = small_config("model={kind: 'module:ends.make'}", "algorithm.name=maml")
    with pytest.raises(ConfigError, match=words):
        list(distmeta.train(config, tmp_path / "run"))


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't allocate memory: 7 TB"), RuntimeError("a bug")])
def test_a_lack_of_memory_is_told(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises((typer.Exit, RuntimeError)) as caught, errors():
        raise error
    said = capsys.readouterr().err
    if str(error) == "a bug":
        assert caught.value is error
    else:
        assert isinstance(caught.value, typer.Exit)
        assert said.startswith("error: there is not enough memory: ")
        assert said.count("\n") == 1


@pytest.mark.parametrize("seconds", ["nan", "inf", "0", "-1"])
def test_seconds_that_never_end(seconds: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["plan", str(tmp_path / "none.yaml"), "--seconds", seconds])
    assert done.exit_code == 2
    assert "--seconds = " in done.stderr


def test_a_data_set_that_cannot_be_built(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["data", "build", "cifar", "--source", str(tmp_path), "--out", str(tmp_path)])
    assert done.exit_code == 2
    assert "omniglot" in done.stderr
