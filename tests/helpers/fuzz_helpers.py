"""What fuzz tests share: how many cases, values that nobody expects, and damage done to what is valid.

A test of generated cases runs twice: a few cases by default, thousands among the slow tests. Cases are the same on
every machine and in every run, so that a failure is everybody's failure.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import yaml
from hypothesis import strategies as st

from distmeta.config.text import plain
from distmeta.errors import DistmetaError

CONFIGS = Path(__file__).parents[2] / "configs"
LONGEST_MESSAGE = 20_000
"""Characters of an error message beyond which it is no message for people any more."""

Check = Callable[..., None]


def fuzz(quick: int, long: int, **strategies: st.SearchStrategy[Any]) -> Callable[[Check], Check]:
    """Makes a check of one generated case a test of ``quick`` cases and a slow one of ``long``."""

    def decorate(check: Check) -> Check:
        @pytest.mark.parametrize("cases", [pytest.param(quick, id="quick"), _slow(long)])
        def test(cases: int) -> None:
            settings = hypothesis.settings(
                max_examples=cases,
                derandomize=True,
                deadline=None,
                database=None,
                suppress_health_check=list(hypothesis.HealthCheck),
            )
            settings(hypothesis.given(**strategies)(check))()

        functools.update_wrapper(test, check, assigned=("__module__", "__name__", "__qualname__", "__doc__"))
        del test.__wrapped__  # pytest would take its arguments for fixtures
        return test

    return decorate


def _slow(cases: int) -> Any:
    return pytest.param(cases, id="long", marks=[pytest.mark.slow, pytest.mark.timeout(1800)])


def refusal(call: Callable[[], Any]) -> DistmetaError | None:
    """How a call was refused, ``None`` where it was not; whatever else it raises is a bug and fails the test."""
    refused = None
    try:
        call()
    except DistmetaError as error:
        refused = error
    assert refused is None or 0 < len(str(refused)) < LONGEST_MESSAGE
    return refused


# Values -------------------------------------------------------------------------------------------------------------

STRANGE: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 3, 7, 2**31, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**30, 10**400),
    *(0.0, -0.0, 0.5, 1e-320, 1e30, 1e308, float("inf"), float("-inf"), float("nan")),
    *("", " ", ".", "..", "a.b", "all", "auto", "*", "[", "\0", "a\0b", "\n", "\ud800", "\u202e", "é", "x" * 5000),
    *("1", "1e3", "null", "../../x", "/", "://", "s3://", "module:", "module:os.system", "module:a.b:c", b"bytes"),
    *([], {}, [[]], [None], {"kind": None}, {None: 1}, {1: 2}, {"": ""}, {"kind": "step"}, (1, 2), {"a"}),
]


def values() -> st.SearchStrategy[Any]:
    """A value of any type, extremes among them."""
    leaves = st.one_of(
        st.sampled_from(STRANGE),
        st.builds(lambda: 10**5000),
        st.integers(-3, 20),
        st.integers(),
        st.floats(),
        st.text(max_size=8),
    )
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=6,
    )


def plain_values() -> st.SearchStrategy[Any]:
    """What JSON holds."""
    leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=6,
    )


def is_plain(value: Any) -> bool:
    """Whether a configuration may hold it."""
    return refusal(lambda: plain({"x": value})) is None


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in nested mappings and lists."""
    found = [path] if path else []
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        found += places(value, (*path, key))
    return found


@st.composite
def mutated(draw: st.DrawFn, trees: list[Any], new: st.SearchStrategy[Any] | None = None, most: int = 3) -> Any:
    """One of these trees after a few changes: values replaced, keys dropped, renamed, added, subtrees exchanged."""
    new = values() if new is None else new
    tree = copy.deepcopy(draw(st.sampled_from(trees)))
    for _ in range(draw(st.integers(0, most))):
        there = places(tree)
        if not there:
            break
        path = draw(st.sampled_from(there))
        parent, key = _at(tree, path[:-1]), path[-1]
        change = draw(st.sampled_from(["replace", "replace", "replace", "drop", "rename", "add", "exchange", "wrap"]))
        if change == "replace":
            parent[key] = copy.deepcopy(draw(new))
        elif change == "drop":
            del parent[key]
        elif change == "rename" and isinstance(parent, dict):
            parent[draw(st.sampled_from(["x", "kind", "", 1, None, "a.b"]))] = parent.pop(key)
        elif change == "add" and isinstance(parent, dict):
            name = draw(st.sampled_from(["new", "kind", "name", "ways", "steps", "chunk", 7]))
            parent[name] = copy.deepcopy(draw(new))
        elif change == "wrap":
            parent[key] = [parent[key]]
        elif change == "exchange":
            other = draw(st.sampled_from(there))
            parent[key] = copy.deepcopy(_at(tree, other))
    return tree


def _at(tree: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


@st.composite
def damaged(draw: st.DrawFn, originals: st.SearchStrategy[bytes], most: int = 3) -> bytes:
    """These bytes after a few accidents: flipped, cut, zeroed, repeated, exchanged, extended."""
    data = bytearray(draw(originals))
    for _ in range(draw(st.integers(1, most))):
        if not data:
            break
        where = draw(st.integers(0, len(data) - 1))
        size = draw(st.integers(1, 64))
        kind = draw(st.sampled_from(["flip", "byte", "cut", "zero", "ones", "drop", "repeat", "splice", "extend"]))
        if kind == "flip":
            data[where] ^= 1 << draw(st.integers(0, 7))
        elif kind == "byte":
            data[where] = draw(st.integers(0, 255))
        elif kind == "cut":
            del data[where:]
        elif kind in ("zero", "ones"):
            end = min(where + size, len(data))
            data[where:end] = (b"\0" if kind == "zero" else b"\xff") * (end - where)
        elif kind == "drop":
            del data[where : where + size]
        elif kind == "repeat":
            data[where:where] = data[where : where + size]
        elif kind == "splice":
            data[where : where + size] = draw(st.binary(max_size=size))
        else:
            data += draw(st.binary(min_size=1, max_size=64))
    return bytes(data)


# Files that are valid -----------------------------------------------------------------------------------------------


@functools.cache
def config_texts() -> dict[str, str]:
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(CONFIGS.glob("*.yaml"))}


@functools.cache
def sweep_texts() -> dict[str, str]:
    return {path.name: path.read_text(encoding="utf-8") for path in sorted((CONFIGS / "sweeps").glob("*.yaml"))}


def config_trees() -> list[dict[str, Any]]:
    return [yaml.safe_load(text) for text in config_texts().values()]
