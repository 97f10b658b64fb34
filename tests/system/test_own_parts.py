"""A task family, a loss, an estimator and an outer step that nobody knew of when the package was written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from integration_helpers import assert_same, parameters, train, untimed
from users_parts import own_parts_settings

import distmeta
from distmeta.errors import ConfigError, TrustError
from distmeta.runs.evaluate import evaluate

SETTINGS = {**own_parts_settings(), "engine": {"compile": "none"}}  # nothing of a user's own is kept recorded


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run in this process."""
    folder = tmp_path_factory.mktemp("own") / "run"
    train(folder, SETTINGS)
    return folder


def test_they_train(alone: Path) -> None:
    result = json.loads((alone / "result.json").read_text())
    measured = result["meta_test"]
    assert {"loss", "accuracy", "confidence"} <= measured.keys()
    assert measured["accuracy"]["mean"] > 0.8 > measured["before_adaptation"]["mean"]
    assert result["best_validation"]["metric"] == "accuracy"
    lines = [json.loads(line) for line in (alone / "metrics.jsonl").read_text().splitlines()]
    assert [line["outer/taken"] for line in lines if line["step"] in (10, 20)] == [10, 20]
    assert evaluate(alone, trust_code=True) == measured


def test_they_are_used_as_trained(alone: Path) -> None:
    learner = distmeta.load(alone, trust_code=True)
    tokens = torch.tensor([[0, 5, 6, 7], [1, 5, 6, 7], [2, 5, 6, 7]])
    given = {"tokens": tokens, "positions": torch.arange(4).expand(3, 4)}
    outputs = learner.adapt(given, torch.tensor([0, 1, 2])).predict(given)
    assert outputs.argmax(1).tolist() == [0, 1, 2]
    with pytest.raises(ConfigError, match=r"x_support should hold the tensors tokens, positions by name"):
        learner.adapt(tokens, torch.tensor([0, 1, 2]))
    with pytest.raises(ConfigError, match=r"x_support\['tokens'\] holds torch.float32 numbers, .* torch.int64"):
        learner.adapt({**given, "tokens": tokens.float()}, torch.tensor([0, 1, 2]))


@pytest.mark.usefixtures("ray_cluster")
def test_same_bits_on_workers(alone: Path, tmp_path: Path) -> None:
    train(tmp_path, SETTINGS, "cluster.workers=2")
    assert_same(parameters(tmp_path), parameters(alone))
    assert untimed(tmp_path) == untimed(alone)


def test_they_resume(alone: Path, tmp_path: Path) -> None:
    steps = distmeta.train(distmeta.load_config(SETTINGS), tmp_path)
    for record in steps:
        if record.step == 12:
            break
    steps.close()
    train(tmp_path, SETTINGS, resume=True)
    assert_same(parameters(tmp_path), parameters(alone))


def test_a_run_of_theirs_runs_nothing_unasked(alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # which has none of the code
    with pytest.raises(TrustError, match=r"tasks.kind = module:users_tokens.Tokens"):
        evaluate(alone)


@pytest.mark.parametrize(
    ("key", "kind", "message"),
    [
        ("tasks.kind", "module:users_parts.make", "cannot|no settings|Options"),
        (
            "tasks.kind",
            "module:users_tokens.Nothing",
            "users_tokens has no Nothing; it should be a class with the methods",
        ),
        ("tasks.objective", "module:users_parts:Smoothed.loss", "expected a class with the methods"),
        ("algorithm.estimator", "module:nowhere.Estimator", "cannot import nowhere"),
        ("outer.name", "module:users_parts.Smoothed", "no settings; give it Options, a subclass of .*OuterOptions"),
        ("tasks.objective", "smoothed", "tasks.objective: expected one of cross_entropy, squared_error"),
    ],
)
def test_what_is_none_is_refused_by_name(key: str, kind: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        distmeta.load_config(SETTINGS, [f"{key}={kind}"])
    assert key in str(error.value)
