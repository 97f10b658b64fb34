"""Text from outside: what is beyond the bounds is refused at once, with the place."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distmeta.config.text import DEEPEST, LONGEST_TEXT, parse_value, parse_yaml, plain, read_text
from distmeta.core.quoting import shown
from distmeta.errors import ConfigError
from distmeta.loading import load_config

SINUSOID = {"tasks": {"kind": "sinusoid"}, "model": {"kind": "mlp"}, "algorithm": {"name": "maml"}}
BOMB = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("a: " + "[" * 3000 + "]" * 3000, f"nested more than {DEEPEST} deep", id="lists in lists"),
        pytest.param("a: " + "{x: " * 3000 + "}" * 3000, f"nested more than {DEEPEST} deep", id="mappings in mappings"),
        pytest.param("a: &a [*a]", "a part of itself", id="a list in itself"),
        pytest.param("a: &a {x: {y: *a}}", "a part of itself", id="a mapping in itself"),
        pytest.param("a: &a {<<: *a}", "a part of itself", id="a mapping merged with itself"),
        pytest.param(BOMB, "more than 100,000 values", id="aliases of aliases"),
        pytest.param(f"a: {'9' * 5000}", "a value of the kind int", id="too many digits"),
        pytest.param("a: !!int", "a value of the kind int", id="empty int"),
        pytest.param("a: !!float x", "a value of the kind float", id="no float"),
        pytest.param("a: !!bool 7", "a value of the kind bool", id="no bool"),
        pytest.param("a: !!timestamp x", "tag:yaml.org,2002:timestamp", id="dates"),
        pytest.param("a: !!set {x}", "tag:yaml.org,2002:set", id="sets"),
        pytest.param("a: !!binary eA==", "tag:yaml.org,2002:binary", id="bytes"),
        pytest.param("a: !!python/object/apply:os.getcwd []", "os.getcwd", id="python"),
        pytest.param("? [1]\n: 2", "unhashable key", id="a list as a key"),
        pytest.param("a: \0", "special characters are not allowed", id="null byte"),
        pytest.param("a: 1\n--- \nb: 2", "but found another document", id="two documents"),
        pytest.param("- 1", "expected 'key: value' lines, got list", id="a list"),
        pytest.param("", "expected 'key: value' lines, got NoneType", id="nothing"),
    ],
)
def test_yaml_is_bounded(text: str, words: str) -> None:
    began = time.monotonic()
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "file.yaml")
    assert words in str(caught.value)
    assert str(caught.value).startswith("file.yaml ")
    assert len(str(caught.value)) < 1000
    assert time.monotonic() - began < 5


def test_what_yaml_takes() -> None:
    assert parse_value("{a: &x [1, 2e3, .inf, true, null], b: *x, c: {<<: {d: 1}, e: 0x10}}") == {
        "a": [1, 2000.0, float("inf"), True, None],
        "b": [1, 2000.0, float("inf"), True, None],
        "c": {"d": 1, "e": 16},
    }
    assert parse_value("2024-01-31") == "2024-01-31"
    assert parse_value("=") == "="


def test_files(tmp_path: Path) -> None:
    file = tmp_path / "file.yaml"
    file.write_bytes(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n")
    assert parse_yaml(read_text(file, "configuration"), "file") == {"a": 1, "b": 2}
    file.write_text("a: 1", encoding="utf-16")
    with pytest.raises(ConfigError, match=r"cannot read the configuration .*not a text file in UTF-8"):
        read_text(file, "configuration")
    file.write_bytes(b"#" * (LONGEST_TEXT + 1))
    with pytest.raises(ConfigError, match="longer than 1,048,576 bytes"):
        read_text(file, "configuration")
    with pytest.raises(ConfigError, match="longer than"):
        read_text("/dev/zero", "configuration")
    with pytest.raises(ConfigError, match="Is a directory"):
        read_text(tmp_path, "configuration")
    with pytest.raises(ConfigError, match="null"):
        read_text("a\0b", "configuration")


def nested(depth: int) -> Any:
    return {"a": nested(depth - 1)} if depth else 1


LOOP: dict[str, Any] = {}
LOOP["a"] = [LOOP]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        pytest.param({"model": {"kind": "mlp", "x": {1, 2}}}, "model.x: expected text, a number", id="a set"),
        pytest.param({"a": b"x"}, "a: expected text, a number, .* got bytes", id="bytes"),
        pytest.param({"a": [1, 10**400]}, r"a\.1: expected a whole number from", id="no 64 bits"),
        pytest.param({"a": "x\0"}, "a: expected text without null bytes", id="null byte"),
        pytest.param({"a": "\ud800"}, "a: expected text without null bytes and surrogates", id="surrogate"),
        pytest.param({"a": {None: 1}}, r"a\.None: there is no such setting", id="a key of None"),
        pytest.param({"\udcff": 1}, "there is no such setting: names hold no", id="a key of no text"),
        pytest.param({"a": nested(900)}, "at most 32 deep", id="deep"),
        pytest.param(LOOP, "at most 32 deep", id="a part of itself"),
        pytest.param({"a": [0] * 200_000}, "at most 100,000 values", id="many"),
    ],
)
def test_mappings_are_bounded(values: dict[Any, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        plain(values)
    with pytest.raises(ConfigError, match=words):
        load_config({**SINUSOID, **values})


def test_numbers_of_numpy_are_numbers() -> None:
    config = load_config({**SINUSOID, "run": {"steps": np.int64(7)}, "outer": {"lr": np.float64(0.5)}})
    assert (config.run.steps, config.outer.lr) == (7, 0.5)
    assert type(config.run.steps) is int


def test_an_override_cannot_make_what_a_file_cannot() -> None:
    with pytest.raises(ConfigError, match="at most 32 deep"):
        load_config(SINUSOID, [".".join("a" * 5000) + "=1"])
    for override in ("model=&a [*a]", "run.steps=" + "9" * 5000, "run.steps=!!int", "run=2001-99-99"):
        with pytest.raises(ConfigError, match=r"override|expected a section"):
            load_config(SINUSOID, [override])


def test_equal_configurations_are_equal() -> None:
    assert load_config(SINUSOID) == load_config(SINUSOID)


def test_a_message_is_short_whatever_is_wrong() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config({**SINUSOID, **{f"key{number}": "x" * 10_000 for number in range(1000)}})
    assert "and 980 more" in str(caught.value)
    assert len(str(caught.value)) < 10_000
    assert shown("x" * 300).endswith("... (302 characters)")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("run.meta_batch=1000000000000", "run.meta_batch: .*less than or equal to 4194304"),
        ("run.steps=2000000000000", "run.steps: .*less than 1099511627776"),
        ("run.threads=1000000", "run.threads: .*less than or equal to 1024"),
        ("evaluation.tasks=1000000000000", "evaluation.tasks: .*less than or equal to 4194304"),
    ],
)
def test_numbers_that_nothing_can_count_to(override: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_config(SINUSOID, [override])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param(
            "run: {steps: 1}\nseed: 1\nrun: {steps: 2}\n", "'run' is given twice, in lines 1 and 3", id="section"
        ),
        pytest.param(
            "run:\n  steps: 1\n  keep: 1\n  'steps': 2\n", "'steps' is given twice, in lines 2 and 4", id="quoted"
        ),
        pytest.param("a:\n- {b: {c: 1, d: 2, c: 1}}\n", "'c' is given twice, in line 2", id="deep-in-flow-form"),
        pytest.param("a: &x {b: 1, b: 2}\nc: *x\n", "'b' is given twice, in line 1", id="anchored"),
        pytest.param("a: {? k : 1, k: 2}\n", "'k' is given twice", id="explicit-key"),
    ],
)
def test_a_key_given_twice(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=rf"a\.yaml is not valid YAML: {words}"):
        parse_yaml(text, "a.yaml")


def test_a_key_that_replaces_a_merged_one() -> None:
    text = "base: &base {steps: 1, keep: 1}\none: &one {<<: *base, steps: 2}\ntwo: {<<: *one, keep: 3}\n"
    values = parse_yaml(text, "a.yaml")
    assert (values["one"], values["two"]) == ({"steps": 2, "keep": 1}, {"steps": 2, "keep": 3})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("010", "010"),  # eight, to YAML 1.1
        ("1:30", "1:30"),  # ninety
        ("0x10", 16),
        ("1_000", "1_000"),
        ("0b1", "0b1"),
        ("-7", -7),
        ("+0", 0),
        (".5", 0.5),
        ("1.", 1.0),
        ("1e3", 1000.0),
        ("1.5e-3", 0.0015),
        (".inf", math.inf),
        ("1:30.5", "1:30.5"),
    ],
)
def test_numbers_are_what_people_mean(text: str, value: Any) -> None:
    found = parse_value(text)
    assert (found, type(found)) == (value, type(value))
