"""Names split into training, validation and test: by fractions, by lists, by files, by a column."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from distmeta.config.problems import describe
from distmeta.config.sections import TaskOptions
from distmeta.config.splits import SplitColumn, SplitFractions, SplitNames, Splits
from distmeta.core.records import SPLITS
from distmeta.data.splits import column_splits, moved_splits, split_contents, split_files, split_names
from distmeta.errors import ConfigError, DataError

NAMES = [f"site-{number}" for number in range(100)]
KNOWN = {"train": [2, 3, 4], "validation": [0], "test": [1]}


class _Options(TaskOptions):
    splits: Splits


def setting(value: Any) -> SplitColumn | SplitNames | SplitFractions:
    return TypeAdapter(Splits).validate_python(value)  # type: ignore[arg-type, no-any-return]


def refused(value: Any) -> str:
    with pytest.raises(ValidationError) as error:
        _Options(kind="any", objective="any", splits=value)
    return " ".join(describe(error.value, "tasks", _Options))


def lists(found: dict[Any, Any]) -> dict[str, list[int]]:
    return {split: indices.tolist() for split, indices in found.items()}


def test_fractions_share_out_all_names_and_only_names_count():
    found = lists(split_names(NAMES, SplitFractions(), "the table"))
    assert {split: len(indices) for split, indices in found.items()} == {"train": 64, "validation": 16, "test": 20}
    assert sorted(at for each in found.values() for at in each) == list(range(100))
    assert all(indices == sorted(indices) for indices in found.values())
    # Where a name stands, and how often, is nothing to it.
    backwards = split_names(NAMES[::-1], SplitFractions(), "the table")
    assert {split: {NAMES[::-1][at] for at in each} for split, each in backwards.items()} == {
        split: {NAMES[at] for at in each} for split, each in found.items()
    }
    other = lists(split_names(NAMES, SplitFractions(seed=1), "the table"))
    assert other != found


def test_fractions_are_the_same_on_every_machine():
    """Known values: Python's own hash, which differs from process to process, must not come in."""
    code = (
        "from distmeta.config.splits import SplitFractions; from distmeta.data.splits import split_names;"
        "print(split_names([f'site-{n}' for n in range(100)], SplitFractions(), 't')['validation'].tolist())"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == str(lists(split_names(NAMES, SplitFractions(), "t"))["validation"])
    assert lists(split_names(["a", "b", "c", "d", "e"], SplitFractions(), "t")) == KNOWN


def test_lists_name_what_belongs_where():
    splits = setting({"train": ["b", "a"], "validation": ["d"], "test": [7]})
    assert lists(split_names(["a", "b", "c", "d", "7"], splits, "t")) == {
        "train": [0, 1],
        "validation": [3],
        "test": [4],
    }


def test_lists_may_be_files(tmp_path, monkeypatch):
    (tmp_path / "train.txt").write_text("\ufeffa\r\n\r\n  b c \n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    splits = setting({"train": "train.txt", "validation": ["d"], "test": (tmp_path / "t.txt").as_uri()})
    (tmp_path / "t.txt").write_text("e")
    assert splits.train == str(tmp_path / "train.txt")
    names = ["e", "d", "b c", "a"]
    assert lists(split_names(names, splits, "t")) == {"train": [2, 3], "validation": [1], "test": [0]}
    assert split_files(splits) == {"split-train.txt": tmp_path / "train.txt"}
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "train.txt").rename(elsewhere / "split-train.txt")
    assert lists(split_names(names, moved_splits(splits, elsewhere), "t"))["train"] == [2, 3]
    before = split_contents(moved_splits(splits, elsewhere))
    assert set(before) == {"splits.train", "splits.test"}
    (tmp_path / "t.txt").write_text("a")
    assert split_contents(moved_splits(splits, elsewhere))["splits.test"] != before["splits.test"]
    with pytest.raises(ConfigError, match=r"'a' stands in train \(.*split-train.txt, line 1\) and in test \(.*line 1"):
        split_names(names, moved_splits(splits, elsewhere), "t")
    with pytest.raises(DataError, match=r"tasks\.splits\.train: cannot read '.*train\.txt'"):
        split_names(names, splits, "t")


def test_a_column_says_it():
    splits = setting({"column": "part"})
    column = column_splits([("a", "train"), ("b", "val"), ("c", "test"), ("a", "train")], splits, "t.csv", "task")
    assert lists(split_names(["c", "b", "a"], splits, "t.csv", "task", column)) == {
        "train": [2],
        "validation": [1],
        "test": [0],
    }
    with pytest.raises(DataError, match=r"t\.csv: the column 'part' has both train and test for the task 'a'"):
        column_splits([("a", "train"), ("a", "test")], splits, "t.csv", "task")
    for value in ("Train", None, 3, float("nan")):
        with pytest.raises(DataError, match=r"t\.csv: the column 'part' has .* for the task 'a'; expected train, val"):
            column_splits([("a", value)], splits, "t.csv", "task")
    with pytest.raises(ConfigError, match=r"tasks\.splits\.column = 'part': none of the 1 task of t\.csv is for val"):
        split_names(["a"], splits, "t.csv", "task", {"a": "train"})


def test_what_fits_no_name_is_refused(tmp_path):
    given = {"validation": ["site-1"], "test": ["site-2"]}
    with pytest.raises(ConfigError, match=r"tasks\.splits\.train: the table has no class 'site-3x'; did you mean"):
        split_names(NAMES, setting({"train": ["site-3x"], **given}), "the table")
    with pytest.raises(ConfigError, match=r"tasks\.splits\.test = 0\.2 of the 2 classes of the table is none"):
        split_names(["a", "b"], SplitFractions(), "the table")
    for content in (b"", b"\n \n"):
        (tmp_path / "names.txt").write_bytes(content)
        with pytest.raises(ConfigError, match=r"tasks\.splits\.train names no class"):
            split_names(NAMES, setting({"train": str(tmp_path / "names.txt"), **given}), "the table")
    (tmp_path / "names.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"names\.txt' is not a text file in UTF-8"):
        split_names(NAMES, setting({"train": str(tmp_path / "names.txt"), **given}), "the table")
    with pytest.raises(DataError, match=r"tasks\.splits\.train: cannot read"):
        split_names(NAMES, setting({"train": str(tmp_path), **given}), "the table")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3, r"tasks\.splits: expected \{column: NAME\}, or for each of train, .*, got 3"),
        ("column", r"tasks\.splits: expected \{column: NAME\}, .*, got 'column'"),
        ({}, r"tasks\.splits\.train: this setting is required"),
        ({"colum": "a"}, r"tasks\.splits\.colum: there is no such setting"),
        ({"column": "a", "seed": 1}, r"tasks\.splits\.seed: there is no such setting"),
        ({"train": ["a"], "validation": ["b"], "test": ["a"]}, r"tasks\.splits: 'a' stands in train and in test"),
        ({"train": ["a", "a"], "validation": ["b"], "test": ["c"]}, r"tasks\.splits: 'a' stands twice in train"),
        (
            {"train": [], "validation": ["b"], "test": ["c"]},
            r"^tasks\.splits\.train: expected a list of names, or a text file with one a line, got \[\]$",
        ),
        (
            {"train": [True], "validation": ["b"], "test": ["c"]},
            r"^tasks\.splits\.train: expected names, got True; put a name in quotes[^:]*$",
        ),
        (
            {"train": [1.5], "validation": ["b"], "test": ["c"]},
            r"^tasks\.splits\.train: expected names, got 1\.5; [^:]*$",
        ),
        ({"train": 0.5, "validation": 0.1, "test": 0.2}, r"tasks\.splits: the fractions .* make 0\.8: expected 1"),
        ({"train": 1, "validation": 0.1, "test": 0.2}, r"^tasks\.splits\.train: input should be less than 1, got 1$"),
        (
            {"train": 0.5, "validation": ["a"], "test": 0.5},
            r"^tasks\.splits\.validation: input should be a valid number",
        ),
    ],
)
def test_settings_that_make_no_split_are_refused(value, message):
    import re

    assert re.search(message, refused(value)), refused(value)


def test_the_setting_survives_being_written():
    for value in ({"column": "a"}, {"seed": 3}, {"train": ["a"], "validation": ["b"], "test": "/f.txt"}):
        options = _Options(kind="any", objective="any", splits=value)
        assert _Options.model_validate(options.model_dump(mode="json")) == options
    assert set(SPLITS) == {"train", "validation", "test"}
