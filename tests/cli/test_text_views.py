"""Tasks of texts, as ``distmeta data show`` shows them."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from distmeta.cli.main import app
from distmeta.cli.text_views import text_tables
from distmeta.tasks.base import Episode
from distmeta.tasks.options import TextOptions
from distmeta.tasks.texts import Text

SIZES = {"train": Episode(shots=2, queries=3, seed=0, ways=2), "test": Episode(shots=1, queries=4, seed=0, ways=2)}


def test_the_command_shows_texts(tmp_path: Path) -> None:
    path = tmp_path / "texts.csv"
    path.write_text("\n".join(["text,label", *(f"pay bill {n % 9},label {n % 9}" for n in range(45))]))
    config = tmp_path / "texts.yaml"
    sizes = "ways: 2, shots: 1, queries: 2, splits: {train: 0.4, validation: 0.3, test: 0.3}"
    config.write_text(
        f"tasks: {{kind: text, root: {path}, {sizes}}}\nmodel: {{kind: bag}}\nalgorithm: {{name: protonet}}\n"
    )
    done = CliRunner().invoke(app, ["data", "show", str(config), "--split", "test", "--tasks", "1"])
    assert done.exit_code == 0, done.output
    assert "test task 0" in done.output
    assert "pay·bill" in done.output


@pytest.mark.parametrize("tokenizer", ["words", "ngrams", "bpe"])
def test_texts_labels_and_tokens_are_shown(tokenizer: str, tmp_path: Path) -> None:
    path = tmp_path / "texts.csv"
    lines = [f"[b]shared own{label} {number},topic {label}" for label in range(8) for number in range(5)]
    path.write_text("\n".join(["text,label", *lines]))
    options = TextOptions(kind="text", root=str(path), tokenizer=tokenizer, length=40, ngrams=(4, 5))
    family = Text(options.with_fitted(Text.fit(options, SIZES)), SIZES, torch.device("cpu"))
    out = StringIO()
    for table in text_tables(family, "test", [3, 4]):
        Console(file=out, width=400).print(table)
    text = out.getvalue()
    assert "test task 3" in text
    assert "test task 4" in text
    assert text.count("support") == 2 * 2
    assert text.count("query") == 2 * 2 * 2
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if "│" in line]
    label = ""
    for known, _, shown, tokens in rows:
        label = known.partition(": topic ")[2] or label
        assert shown.startswith(f"[b]shared own{label} ")
        pieces = {"words": "[·b·]·shared·[UNK]", "ngrams": "shar", "bpe": "shared"}
        assert pieces[tokenizer] in tokens
