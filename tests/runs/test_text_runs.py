"""Runs on texts: the same bits on any number of workers, resumed, and a learner that takes texts."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from integration_helpers import assert_same, drain, parameters, train, train_until

import distmeta
from distmeta.errors import ChangedError, ConfigError

STEPS = 4


def texts(folder: Path) -> Path:
    path = folder / "texts.csv"
    lines = [f"{'filler ' * (n % 3)}word{n % 5} of class{n % 15},class{n % 15}" for n in range(15 * 6)]
    path.write_text("\n".join(["text,label", *lines]))
    return path


def base(path: Path) -> dict[str, Any]:
    return {
        "tasks": {
            "kind": "text",
            "root": str(path),
            "ways": 2,
            "shots": 1,
            "queries": 2,
            "length": 6,
            "buckets": 20,
            "splits": {"train": 0.6, "validation": 0.2, "test": 0.2},
        },
        "model": {"kind": "bag", "features": 8, "scale": 3.0, "dropout": 0.3},
        "algorithm": {"name": "protonet"},
        "run": {"steps": STEPS, "meta_batch": 6, "tasks_per_shard": 2, "checkpoint_every": 2, "validate_every": 2},
        "evaluation": {"tasks": 6, "validation_tasks": 4},
        "engine": {"compile": "none"},
    }


@pytest.fixture(scope="module", name="first")
def _first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Texts and a run on them in this process."""
    folder = tmp_path_factory.mktemp("text_runs")
    path = texts(folder)
    train(folder / "0", base(path))
    return path, folder / "0"


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_same_bits(workers: int, first: tuple[Path, Path], tmp_path: Path) -> None:
    path, alone = first
    train(tmp_path, base(path), f"cluster.workers={workers}")
    assert_same(parameters(tmp_path, STEPS), parameters(alone, STEPS))
    one, other = (json.loads((folder / "result.json").read_text()) for folder in (alone, tmp_path))
    assert one["meta_test"] == other["meta_test"]


def test_a_transformer_adapts_by_gradient_descent_and_is_resumed(first: tuple[Path, Path], tmp_path: Path) -> None:
    model = "model={kind: transformer, width: 8, heads: 2, depth: 1, dropout: 0.1}"
    own = [model, "algorithm={name: maml, inner_lr: 0.1, inner_steps: 2}"]
    train(tmp_path / "whole", base(first[0]), *own)
    train_until(3, tmp_path / "parted", base(first[0]), *own)
    train(tmp_path / "parted", base(first[0]), *own, resume=True)
    assert_same(parameters(tmp_path / "parted", STEPS), parameters(tmp_path / "whole", STEPS))


def test_a_learner_takes_texts_without_the_data(first: tuple[Path, Path], tmp_path: Path) -> None:
    path, run = first
    hidden = path.rename(tmp_path / "elsewhere.csv")
    try:
        learner = distmeta.load(run)
    finally:
        hidden.rename(path)
    support, labels = ["word1 of class3", "filler word2 of class4", "word0 of class3"], torch.tensor([0, 1, 0])
    model = learner.adapt(support, labels)
    outputs = model.predict(["word4 of class4", "a zebra", "word3 of class3"])
    assert outputs.shape == (3, 2)
    assert outputs[2, 0] > outputs[2, 1]
    assert outputs[0, 1] > outputs[0, 0]
    encoded = {name: value.clone() for name, value in learner.inputs(support, "x").items()}
    again = pickle.loads(pickle.dumps(learner)).adapt(encoded, labels)
    assert torch.equal(again.predict(["word4 of class4"]), model.predict(["word4 of class4"]))
    with pytest.raises(ConfigError, match="expected a list of texts, got one text"):
        model.predict("word4 of class4")
    with pytest.raises(
        ConfigError, match=r"x_support\['tokens'\] holds numbers from 0 to 999, but the model knows 0 to"
    ):
        learner.adapt({**encoded, "tokens": torch.full_like(encoded["tokens"], 999).tril()}, labels)


def test_changed_texts_are_refused_by_name(tmp_path: Path) -> None:
    path = texts(tmp_path)
    train_until(2, tmp_path / "run", base(path))
    path.write_text(path.read_text().replace("filler word2", "filler word9", 1))
    with pytest.raises(ChangedError, match="data: text has changed"):
        train(tmp_path / "run", base(path), resume=True)
    drain(distmeta.train(distmeta.load_config(base(path)), tmp_path / "run", resume=True, accept_changes=True))
