"""One run, meta-tested with several numbers of shots: one table, one JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from integration_helpers import SINUSOID, train
from typer.testing import CliRunner

import distmeta
from distmeta.cli.main import app
from distmeta.errors import ConfigError

SHORT = ["run.steps=1", "run.validate_every=0", "evaluation.tasks=6", "engine.compile=none", "engine.layers=general"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shots") / "run"
    train(folder, SINUSOID, *SHORT)
    return folder


def test_each_is_what_it_is_by_itself(run: Path) -> None:
    seen: list[tuple[int, int]] = []
    found = distmeta.evaluate(run, shots=[2, 7], progress=lambda done, total: seen.append((done, total)))
    assert [each["shots"] for each in found["by_shots"]] == [2, 7]
    for each in found["by_shots"]:
        alone = distmeta.evaluate(run, [f"evaluation.shots={each['shots']}"])
        assert {name: value for name, value in each.items() if name != "shots"} == alone
    assert found["by_shots"][0]["mse"] != found["by_shots"][1]["mse"]
    assert seen == sorted(seen)
    assert seen[-1] == (12, 12)


def test_the_command_shows_a_row_each(run: Path) -> None:
    shots = ["--shots", "2", "--shots", "7"]
    done = CliRunner().invoke(app, ["evaluate", str(run), *shots], env={"COLUMNS": "160"})
    assert done.exit_code == 0, done.output
    assert [line.split()[1] for line in done.output.splitlines() if " ± " in line and line[:1] == "│"] == ["2", "7"]
    assert "mean squared error ↓" in done.output
    done = CliRunner().invoke(app, ["evaluate", str(run), *shots, "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert [each["shots"] for each in found["by_shots"]] == [2, 7]
    assert found["by_shots"][1]["mse"]["tasks"] == 6


def test_wrong_numbers_are_refused(run: Path) -> None:
    with pytest.raises(ConfigError, match="give each number once"):
        distmeta.evaluate(run, shots=[1, 1])
    with pytest.raises(ConfigError, match=r"evaluation\.shots: .*got 0"):
        distmeta.evaluate(run, shots=[0])
    assert CliRunner().invoke(app, ["evaluate", str(run), "--shots", "0"]).exit_code == 2
