"""Configurations and overrides that nobody would write: each is taken or refused with a message."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml
from fuzz_helpers import (
    config_texts,
    config_trees,
    damaged,
    fuzz,
    is_plain,
    mutated,
    places,
    plain_values,
    refusal,
    values,
)
from hypothesis import strategies as st

from distmeta.config.schema import dump_config
from distmeta.config.text import parse_yaml
from distmeta.core.plan import Plan
from distmeta.errors import ConfigError
from distmeta.loading import load_config
from distmeta.runs.plan_file import with_engine

SECTIONS = ("tasks", "model", "algorithm", "run", "outer")


def comes_back(config: Any) -> None:
    """A configuration is the same after it was written and read."""
    text = dump_config(config)
    again = load_config(parse_yaml(text, "dump"))
    assert again == config
    assert dump_config(again) == text


@fuzz(100, 2500, tree=mutated(config_trees()))
def test_changed_configurations(tree: Any) -> None:
    loaded = []
    error = refusal(lambda: loaded.append(load_config(tree)))
    assert error is None or isinstance(error, ConfigError)
    if loaded:
        comes_back(loaded[0])


@fuzz(40, 1000, tree=st.dictionaries(st.sampled_from(["tasks", "model", "algorithm", "run"]), values(), max_size=4))
def test_sections_of_anything(tree: Any) -> None:
    refusal(lambda: load_config(tree))


FRAGMENTS = [
    *("[" * 10, "{" * 10, "]", "}", "- ", ": ", "? ", "&a ", "*a", "<<: ", "!!set ", "!!binary ", "!!omap ", "!!int "),
    *("!!timestamp ", "!!float ", "!!python/object/apply:os.system ", "!!null ", "!!bool ", "!!map ", "!!seq ", "|\n"),
    *("---\n", "...\n", "%YAML 9.9\n", "# ", "'", '"', "\\x", "\t", "\r\n", "\ufeff", "\u2028", "2001-99-99", "0x"),
    *("1:99:99", ".inf", "-.inf", ".nan", "1e999", "0b", "0o", "=", "~", "&a [*a]", "&b {x: *b}", "9" * 5000),
    *("2001-01-01", "\n  ", "\n", "a: 1\na: 2\n", "0x" + "f" * 5000, '"\\ud800"', '"\\0"', "_", "1_", "0_", "+", "-"),
]


@st.composite
def texts(draw: st.DrawFn, originals: list[str]) -> str:
    """The text of a configuration with pieces of YAML put in anywhere."""
    text = draw(st.sampled_from(originals))
    for _ in range(draw(st.integers(1, 4))):
        where = draw(st.integers(0, len(text)))
        end = where + draw(st.sampled_from([0, 0, 1, 5, 20]))
        text = text[:where] + draw(st.sampled_from(FRAGMENTS)) + text[end:]
    return text


@fuzz(100, 2500, text=texts(list(config_texts().values())))
def test_text_with_pieces_of_yaml_in_it(text: str) -> None:
    refusal(lambda: load_config(parse_yaml(text, "file")))


@fuzz(60, 1500, data=damaged(st.sampled_from([text.encode() for text in config_texts().values()])))
def test_damaged_files(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "config.yaml")
        file.write_bytes(data)
        refusal(lambda: load_config(file))


KEYS = sorted({".".join(map(str, path)) for tree in config_trees() for path in places(tree)})


def overrides() -> st.SearchStrategy[str]:
    key = st.sampled_from([*KEYS, "", ".", "a", "a.b.c", "run.", ".run", "run..steps", "run.steps.x", "model.hidden.0"])
    value = st.sampled_from([*FRAGMENTS, "", "1", "[1, 2]", "{kind: step}", "null", "module:a.b"])
    equals = st.sampled_from(["=", "=", "=", "==", "", " = "])
    return st.builds("{}{}{}".format, key, equals, value | st.text(max_size=10)) | st.text(max_size=12)


@fuzz(100, 2500, tree=st.sampled_from(config_trees()), given=st.lists(overrides(), min_size=1, max_size=3))
def test_overrides(tree: Any, given: list[str]) -> None:
    loaded = []
    refusal(lambda: loaded.append(load_config(tree, given)))
    if loaded:
        comes_back(loaded[0])


@fuzz(40, 1000, text=texts(list(config_texts().values())), chunk=st.none() | st.integers(1, 9))
def test_a_plan_is_put_into_any_text_or_refused(text: str, chunk: int | None) -> None:
    """Every other setting of the file is as it was."""
    plan, written = Plan(chunk=chunk, layers="products"), []
    if refusal(lambda: written.append(with_engine(text, plan))) is None:
        assert parse_yaml(written[0], "file") == {**parse_yaml(text, "file"), "engine": plan.settings()}


# What is valid is taken, and comes back -----------------------------------------------------------------------------

counts = st.integers(1, 40)
rates = st.floats(1e-6, 1.0)


def some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A section with any of these settings."""
    return st.fixed_dictionaries({}, optional=fields)


@st.composite
def valid_configurations(draw: st.DrawFn) -> dict[str, Any]:
    images = draw(st.booleans())
    ways = draw(st.integers(2, 20))
    kind = draw(st.sampled_from(["glyphs", "omniglot"])) if images else "sinusoid"
    tasks = {"kind": kind, **draw(some(shots=counts, queries=counts)), **({"ways": ways} if images else {})}
    mlp = st.fixed_dictionaries({"kind": st.just("mlp")}, optional={"hidden": st.lists(counts, min_size=1, max_size=3)})
    user = st.fixed_dictionaries(
        {"kind": st.just("module:not.imported")}, optional={"width": plain_values().filter(is_plain)}
    )
    conv4 = st.fixed_dictionaries({"kind": st.just("conv4")}, optional={"filters": counts})
    model = draw(mlp | user | conv4 if images else mlp | user)
    name = draw(st.sampled_from(["maml", "fomaml", "reptile", "anil"]))
    algorithm = {"name": name, **draw(some(inner_lr=rates, inner_steps=counts))}
    shard, shards = draw(counts), draw(counts)
    run = {"meta_batch": shard * shards, "tasks_per_shard": shard, **draw(some(steps=counts, keep=counts))}
    schedule = st.sampled_from(["constant", "linear", "cosine"]) | st.fixed_dictionaries(
        {"kind": st.just("step"), "every": counts, "factor": rates}
    )
    outer = draw(some(lr=rates, clip_norm=rates | st.none(), schedule=schedule, weight_decay=rates))
    return {"tasks": tasks, "model": model, "algorithm": algorithm, "run": run, "outer": outer, "seed": draw(counts)}


@fuzz(60, 1000, tree=valid_configurations())
def test_valid_configurations_are_taken_and_come_back(tree: Any) -> None:
    """Modules that they name are not imported."""
    config = load_config(tree)
    comes_back(config)
    assert "not" not in sys.modules


@fuzz(40, 600, tree=valid_configurations())
def test_overrides_say_the_same_as_a_file(tree: Any) -> None:
    items = [(f"{section}.{key}", value) for section in SECTIONS for key, value in tree[section].items()]
    given = [f"{key}={yaml.safe_dump(value, default_flow_style=True)}" for key, value in items]
    assert load_config(None, [f"seed={tree['seed']}", *given]) == load_config(tree)
