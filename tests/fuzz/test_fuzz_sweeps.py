"""Sweep files that nobody would write: each is taken or refused with a message."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import yaml
from fuzz_helpers import CONFIGS, damaged, fuzz, mutated, refusal, sweep_texts, values
from hypothesis import strategies as st
from test_fuzz_config import texts

from distmeta.config.text import parse_yaml
from distmeta.errors import ConfigError
from distmeta.sweeps.sweep import check_same_sweep, dump_sweep, load_sweep

SINUSOID = {"tasks": {"kind": "sinusoid"}, "model": {"kind": "mlp"}, "algorithm": {"name": "maml"}}
BASE = {**SINUSOID, "run": {"steps": 20, "validate_every": 5}}


def sweeps() -> list[dict[str, Any]]:
    """The sweep files with the configurations that they name, and small ones of every kind."""
    own = [{"base": BASE, **each} for each in SMALL]
    files = [yaml.safe_load(text) for text in sweep_texts().values()]
    return [*own, *own, *({**each, "base": str(CONFIGS / "sweeps" / each["base"])} for each in files)]


SMALL: list[dict[str, Any]] = [
    {"space": {"outer.lr": {"loguniform": [1e-4, 1e-2]}}, "trials": 3, "scheduler": {"kind": "asha", "grace": 5}},
    {"space": {"model.hidden": {"choice": [[4], [8, 8]]}, "outer.clip_norm": {"uniform": [1, 2]}}, "trials": 2},
    {"space": {"algorithm.inner_steps": {"randint": [1, 3]}}, "searcher": "optuna", "trials": 2, "repeats": 2},
    {"space": {"outer.lr": {"grid": [0.1, 0.2]}, "algorithm.inner_lr": {"choice": [0.1]}}, "searcher": "grid"},
    {
        "space": {
            "outer.optimizer": {"choice": ["sgd", "adam"]},
            "outer.momentum": {"uniform": [0.1, 0.9], "when": {"outer.optimizer": "sgd"}},
        },
        "first": [{"outer.optimizer": "adam"}, {"outer.optimizer": "sgd", "outer.momentum": 0.5}],
        "trials": 3,
        "scheduler": {"kind": "median"},
        "metric": "mse",
        "mode": "min",
    },
    {
        "space": {"outer.lr": {"loguniform": [1e-4, 1e-2]}},
        "scheduler": {"kind": "pbt", "interval": 5, "quantile": 0.25},
        "trials": 4,
        "settings": {"outer.lr_meta": 0.1},
        "resources": {"workers": 1, "cpus": 0.5},
    },
    {"space": {"outer.lr": {"grid": [0.1]}}, "scheduler": {"kind": "hyperband", "reduction": 2}, "concurrency": 2},
]


def taken_or_refused(source: Any, overrides: tuple[str, ...] = ()) -> None:
    found = []
    error = refusal(lambda: found.append(load_sweep(source, overrides)))
    assert error is None or isinstance(error, ConfigError)
    for sweep in found:
        text = dump_sweep(sweep)
        again = load_sweep(parse_yaml(text, "dump"))
        assert dump_sweep(again) == text
        assert again.points == sweep.points
        check_same_sweep(text, dump_sweep(again))
        for values_of_trial in (sweep.points or ())[:2]:
            sweep.trial_config(values_of_trial, sweep.seeds[0])


@fuzz(50, 1200, tree=mutated(sweeps()))
def test_changed_sweeps(tree: Any) -> None:
    taken_or_refused(tree)


def domains() -> st.SearchStrategy[Any]:
    kinds = st.sampled_from(["loguniform", "uniform", "randint", "choice", "grid", "when"])
    number = st.sampled_from([0, -1, 1, 2, 0.5, 1e-300, 1e308, -1e308, float("inf"), 2**62, -(2**62), True, "1"])
    pairs = st.lists(number, min_size=2, max_size=2) | st.lists(values(), max_size=4)
    whens = st.dictionaries(st.sampled_from(["outer.lr", "x", "", "outer.optimizer"]), values(), max_size=2)
    return st.dictionaries(kinds, pairs | whens | values(), min_size=1, max_size=2)


KEYS = ["outer.lr", "outer", "outer.optimizer", "model.hidden", "model.hidden.0", "", ".", "run.steps", "seed", "a.b"]
KEYS += ["algorithm.name", "algorithm.inner_steps", "tasks.kind", "engine.chunk", "outer.clip_norm", "outer.schedule"]


@fuzz(
    40,
    1000,
    space=st.dictionaries(st.sampled_from(KEYS), domains(), min_size=1, max_size=3),
    scheduler=values() | st.fixed_dictionaries({"kind": st.sampled_from(["asha", "pbt", "median", "hyperband"])}),
    searcher=st.sampled_from(["random", "grid", "optuna"]),
    trials=st.none() | st.integers(1, 5),
)
def test_spaces_of_anything(space: Any, scheduler: Any, searcher: str, trials: int | None) -> None:
    taken_or_refused({"base": BASE, "space": space, "searcher": searcher, "trials": trials})
    taken_or_refused({"base": BASE, "space": space, "scheduler": scheduler})


@fuzz(30, 800, text=texts(list(sweep_texts().values())))
def test_sweep_text_with_pieces_of_yaml_in_it(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "sweep.yaml")
        file.write_text(text.replace("base: ../", f"base: {CONFIGS}/"), encoding="utf-8", errors="replace")
        taken_or_refused(file)


@fuzz(20, 300, data=damaged(st.sampled_from([yaml.safe_dump({"base": BASE, **each}).encode() for each in SMALL])))
def test_damaged_sweep_files(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "sweep.yaml")
        file.write_bytes(data)
        taken_or_refused(file)


PLACES = ["space.outer.lr.uniform", "space.outer.lr", "space", "space.", "settings.run.steps", "settings", "trials"]
PLACES += ["scheduler", "scheduler.grace", "first.0", "base", "base.run.steps", "run.steps", "resources.cpus", "x.y"]


@fuzz(
    20,
    400,
    tree=st.sampled_from(sweeps()),
    given=st.lists(
        st.builds(
            "{}={}".format, st.sampled_from(PLACES), st.sampled_from(["1", "-1", "[1, 2]", "{a: 1}", "null", "x", ""])
        ),
        min_size=1,
        max_size=2,
    ),
)
def test_sweep_overrides(tree: Any, given: list[str]) -> None:
    taken_or_refused(tree, tuple(given))
