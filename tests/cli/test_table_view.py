"""Tasks of a table in a terminal."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from distmeta.cli.main import app
from distmeta.cli.table_view import MOST_COLUMNS, table_tasks
from distmeta.tasks.base import Episode
from distmeta.tasks.table import Table


def shown(options: Table.Options, ways: int | None = None) -> str:
    family = Table(options, {"train": Episode(2, 1, 0, ways)}, torch.device("cpu"))
    out = io.StringIO()
    console = Console(file=out, width=200)
    for each in table_tasks(family, "train", [0, 1]):
        console.print(each)
    return out.getvalue()


def test_rows_are_shown_as_they_stand_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTMETA_CACHE", str(tmp_path / "cache"))
    wide = [f"f{number}" for number in range(12)]
    lines = [
        f"s[{t}],{'wet' if t % 2 else 'dry'},{','.join(['1.5'] * 12)},{t + 0.25},{'ab'[r % 2]}"
        for t in range(20)
        for r in range(6)
    ]
    (tmp_path / "t.csv").write_text("\n".join([f"site,kind,{','.join(wide)},y,label", *lines]))
    given = {"kind": "table", "path": str(tmp_path / "t.csv"), "task": "site", "features": ["kind", "f*"]}
    text = shown(Table.Options(**given, target="y"))
    assert text.count("support") == 4
    assert text.count("query") == 2
    assert text.count("train task") == 2
    assert f"{13 - MOST_COLUMNS} more features" in text
    site = int(text.partition("s[")[2].partition("]")[0])
    assert f"{site}.25" in text
    assert ("wet" if site % 2 else "dry") in text
    text = shown(Table.Options(**given, target="label", objective="cross_entropy", ways=2), 2)
    assert "a (0)" in text or "a (1)" in text
    assert text.count("support") == 8


def test_the_command_shows_tasks_and_says_how_many_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISTMETA_CACHE", str(tmp_path / "cache"))
    lines = [f"m{task},{row},{task + row}" for task in range(30) for row in range(3 if task % 3 else 8)]
    (tmp_path / "t.csv").write_text("\n".join(["machine,x,y", *lines]))
    config = tmp_path / "own.yaml"
    config.write_text(
        f"tasks: {{kind: table, path: {tmp_path / 't.csv'}, task: machine, target: y, shots: 3, queries: 4}}\n"
        "model: {kind: mlp}\nalgorithm: {name: maml}\n"
    )
    result = CliRunner().invoke(app, ["data", "show", str(config), "--tasks", "1", "--split", "test"])
    assert result.exit_code == 0, result.output
    assert "test task 0: m" in result.stdout
    assert result.stdout.count("support") == 3
    assert result.stdout.count("query") == 4
    assert "test tasks have too few rows for an episode and are left out" in " ".join(result.output.split())
    check = CliRunner().invoke(app, ["data", "check", str(config)])
    assert "table: " in check.stdout
