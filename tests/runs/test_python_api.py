"""distmeta as a library: load, adapt, predict; what a run leaves of the process it ran in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from integration_helpers import GLYPHS, SINUSOID, configure, drain, train
from torch import Tensor

import distmeta
from distmeta.config.schema import Config
from distmeta.errors import ConfigError
from distmeta.runs.inference import MetaLearner
from distmeta.tasks import open_family

Task = tuple[dict[str, Tensor], dict[str, Tensor]]


def unseen_tasks(config: Config, count: int) -> Iterator[Task]:
    """Support and query set of the first meta-test tasks."""
    batch = open_family(config, torch.device("cpu")).sample("test", range(count))
    for place in range(count):
        yield (
            {name: value[place] for name, value in batch.support.items()},
            {name: value[place] for name, value in batch.query.items()},
        )


def accuracy(outputs: Tensor, labels: Tensor) -> float:
    return float((outputs.argmax(1) == labels).float().mean())


@pytest.fixture(scope="module")
def protonet(tmp_path_factory: pytest.TempPathFactory) -> MetaLearner:
    folder = tmp_path_factory.mktemp("protonet")
    tasks = {"kind": "glyphs", "ways": 5, "shots": 5, "queries": 5}
    run = {"steps": 40, "meta_batch": 4}
    base = {**GLYPHS, "tasks": tasks, "run": run, "algorithm": {"name": "protonet"}}
    train(folder, base, "outer.lr=0.01", "model.filters=16", "engine.compile=none")
    return distmeta.load(folder)


@pytest.mark.parametrize("statistics", ["support", "query"])
def test_protonet_learns_glyphs(statistics: Any, protonet: MetaLearner) -> None:
    shares = []
    for support, query in unseen_tasks(protonet.config, 20):
        model = protonet.adapt(support["x"], support["y"])
        outputs = model.predict(query["x"], statistics)
        assert outputs.shape == (25, 5)
        assert not outputs.requires_grad
        shares.append(accuracy(outputs, query["y"]))
    assert sum(shares) / len(shares) > 0.6  # chance is 0.2


def test_protonet_takes_other_ways_and_shots(protonet: MetaLearner) -> None:
    support, query = next(unseen_tasks(protonet.config, 1))
    few = support["y"] < 3
    outputs = protonet.adapt(support["x"][few][::2], support["y"][few][::2]).predict(query["x"])
    assert outputs.shape == (25, 3)


def test_predictions_are_those_of_the_meta_test(reference: Callable[[str], Any]) -> None:
    """One task at a time gives the figures that the engine measured over mapped tasks."""
    expected = reference("glyphs")
    learner = distmeta.load(expected.folder)
    found: dict[str, list[float]] = {"query": [], "support": []}
    for support, query in unseen_tasks(learner.config, 10):
        model = learner.adapt(support["x"], support["y"])
        for statistics in ("query", "support"):
            found[statistics].append(accuracy(model.predict(query["x"], statistics), query["y"]))
    measured = expected.result["meta_test"]
    assert sum(found["query"]) / 10 == pytest.approx(measured["accuracy"]["mean"], abs=1e-6)
    assert sum(found["support"]) / 10 == pytest.approx(measured["accuracy_inductive"]["mean"], abs=1e-6)


def test_sinusoid(reference: Callable[[str], Any]) -> None:
    expected = reference("sinusoid")
    learner = distmeta.load(expected.folder / expected.result["checkpoint"])
    errors = []
    for support, query in unseen_tasks(learner.config, 10):
        errors.append(
            [
                float((learner.adapt(support["x"], support["y"], n).predict(query["x"]) - query["y"]).square().mean())
                for n in (0, 1)
            ]
        )
    before, after = (sum(column) / 10 for column in zip(*errors, strict=True))
    assert before == pytest.approx(expected.result["meta_test"]["before_adaptation"]["mean"], rel=1e-5)
    assert after == pytest.approx(expected.result["meta_test"]["mse"]["mean"], rel=1e-5)
    assert after < before


def test_numpy_support_set(reference: Callable[[str], Any]) -> None:
    """Double precision, as NumPy gives it."""
    learner = distmeta.load(reference("sinusoid").folder)
    x = torch.linspace(-1, 1, 5, dtype=torch.float64).reshape(5, 1).numpy()
    outputs = learner.adapt(x, x).predict(x)
    assert outputs.shape == (5, 1)
    assert outputs.dtype == torch.float32


IMAGES = torch.zeros(3, 1, 28, 28)
LABELS = torch.arange(3)


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        pytest.param(IMAGES, LABELS[:2], "3 inputs and 2 targets", id="lengths"),
        pytest.param(IMAGES[:0], LABELS[:0], "0 inputs", id="empty"),
        pytest.param(IMAGES, torch.tensor([0, 1, 3]), "class 3.*3 ways", id="label-beyond-the-ways"),
        pytest.param(IMAGES, torch.tensor([0, -1, 1]), "y_support", id="negative-label"),
        pytest.param(IMAGES, LABELS.float(), "float32", id="labels-that-are-no-integers"),
        pytest.param(IMAGES, torch.eye(3, dtype=torch.int64), r"\(3, 3\)", id="one-hot-labels"),
        pytest.param(torch.zeros(3, 784), LABELS, "784", id="inputs-of-another-shape"),
    ],
)
def test_bad_support_set(x: Tensor, y: Tensor, words: str, reference: Callable[[str], Any]) -> None:
    with pytest.raises(ConfigError, match=words):
        distmeta.load(reference("glyphs").folder).adapt(x, y)


@pytest.mark.parametrize(
    ("x", "y"),
    [
        pytest.param(torch.zeros(5, 2), torch.zeros(5, 1), id="inputs-of-another-width"),
        pytest.param(torch.zeros(5, 1), torch.zeros(5), id="targets-without-a-dimension"),
        pytest.param(torch.zeros(5, 1), torch.zeros(5, 3), id="targets-of-another-width"),
    ],
)
def test_bad_support_set_of_a_regression(x: Tensor, y: Tensor, reference: Callable[[str], Any]) -> None:
    with pytest.raises(ConfigError):
        distmeta.load(reference("sinusoid").folder).adapt(x, y)


def test_bad_labels_of_protonet(protonet: MetaLearner) -> None:
    with pytest.raises(ConfigError, match="no example of class 1"):
        protonet.adapt(IMAGES, torch.tensor([0, 2, 2]))


# The process that it ran in ---------------------------------------------------------------------------------------


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_threads_are_given_back(tmp_path: Path) -> None:
    steps = distmeta.train(configure(SINUSOID, "run.steps=3"), tmp_path)
    next(steps)
    assert torch.get_num_threads() == 1
    drain(steps)
    assert torch.get_num_threads() == 2
    distmeta.evaluate(tmp_path)
    assert torch.get_num_threads() == 2
    steps = distmeta.train(configure(SINUSOID, "run.steps=3"), tmp_path / "other")
    next(steps)
    steps.close()
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_threads_are_given_back_after_a_failed_start(tmp_path: Path) -> None:
    broken = configure(SINUSOID, "model={kind: 'module:integration_models.RaisesOnTasks'}")
    with pytest.raises(distmeta.DistmetaError, match="LookupError: the user's own complaint"):
        next(distmeta.train(broken, tmp_path))
    assert torch.get_num_threads() == 2


def test_random_numbers_of_the_process_are_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    train(tmp_path, SINUSOID, "run.steps=2")
    assert torch.equal(torch.rand(4), expected)
