"""``distmeta data partition``: embeddings of images, their clusters, and runs on these."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from image_families import STORE, write_dots
from torch import nn
from typer.testing import CliRunner

import distmeta
from distmeta.cli.main import app
from distmeta.data.clustering import partitions_of, whitened
from distmeta.data.partitions import Partitions
from distmeta.errors import ConfigError
from distmeta.loading import load_config
from distmeta.programs.engine.assembly import Assembly
from distmeta.runs.embedding import Embedding, embed
from distmeta.runs.inference import MetaLearner
from distmeta.runs.partitioning import check_inputs, images_of

SMALL = ["--clusters", "6", "--partitions", "3"]


def _command(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["data", "partition", *arguments])


def _config(folder: Path, **tasks: Any) -> dict[str, Any]:
    source = {"kind": "module:image_families.Dots", "folder": str(folder)}
    given = {"kind": "unlabelled", "source": source, "ways": 3, "queries": 2, "augment": {"shift": 3}, **tasks}
    return {
        "tasks": given,
        "model": {"kind": "mlp", "hidden": [8]},
        "algorithm": {"name": "maml"},
        "run": {"steps": 2, "meta_batch": 4},
        "engine": {"compile": "none", "layers": "general"},
        "evaluation": {"tasks": 4, "validation_tasks": 4},
    }


def _write(path: Path, config: dict[str, Any]) -> str:
    path.write_text(yaml.safe_dump(config))
    return str(path)


def _untrained(settings: dict[str, Any]) -> MetaLearner:
    config = load_config(settings)
    return MetaLearner(config, Assembly(config).initial_meta())


@pytest.fixture
def dots(tmp_path: Path) -> Path:
    """A folder with the store of 48 training images."""
    write_dots(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run that was trained with labels."""
    folder = tmp_path_factory.mktemp("trained")
    write_dots(folder)
    settings = _config(folder)
    settings["tasks"] = {**settings["tasks"]["source"], "ways": 3, "shots": 1, "queries": 2}
    for _ in distmeta.train(load_config(settings), folder / "run"):
        pass
    return str(folder / "run")


@pytest.mark.parametrize("embedding", ["pixels", "run"])
def test_a_file_is_made_of_pixels_or_features(dots: Path, trained: str, embedding: str) -> None:
    config = _write(dots / "config.yaml", _config(dots))
    given = trained if embedding == "run" else embedding
    found = {}
    for name, *more in (("one",), ("two",), ("other", "--seed", "1")):
        result = _command(config, "--embedding", given, *SMALL, "--out", str(dots / name), *more)
        assert result.exit_code == 0, result.output
        assert result.stdout == f"{dots / name}\n"
        assert ("was trained with labels (tasks.kind" in result.stderr) == (embedding == "run")
        found[name] = (dots / name).read_bytes()
    assert found["one"] == found["two"] != found["other"]  # as settings say, byte for byte
    read = Partitions.open(dots / "one")
    assert read.labels.shape == (3, 48)
    assert all(len(set(labels.tolist())) == 6 for labels in read.labels)
    assert read.made_of["clusters"] == "6"
    assert embedding in read.made_of


def test_progress_is_shown_line_by_line(dots: Path) -> None:
    config = _write(dots / "config.yaml", _config(dots))
    result = _command(config, *SMALL, "--out", str(dots / "one"))
    assert "48 of 48 images" in result.stderr
    assert "3 of 3 partitions" in result.stderr


def test_a_configuration_makes_the_partitions_that_it_uses(dots: Path) -> None:
    """The file that ``tasks.partition`` names, from the very settings that use it; then it is trained on."""
    settings = _config(dots, method="cactus", partition=str(dots / "own.partition"), queries=3)
    config = _write(dots / "config.yaml", settings)
    result = _command(config, *SMALL)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{dots / 'own.partition'}\n"
    for _ in distmeta.train(load_config(settings), dots / "cactus"):
        pass
    assert _command(config, *SMALL, "--seed", "9").exit_code == 0
    with pytest.raises(distmeta.DistmetaError, match=r"data: partition has changed"):
        list(distmeta.train(load_config(settings, ["run.steps=3"]), dots / "cactus", resume=True))
    (dots / "own.partition").unlink()
    (dots / STORE).unlink()  # a trained network needs neither
    learner = distmeta.load(dots / "cactus")
    assert learner.adapt(torch.rand(3, 1, 28, 28), torch.arange(3)).predict(torch.rand(5, 1, 28, 28)).shape == (5, 3)


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        ({"tasks": {"kind": "sinusoid"}}, [], r"tasks.kind = 'sinusoid': only images can be partitioned"),
        ({}, ["--clusters", "49"], "--clusters = 49: there are 48 images; ask for at most as many clusters"),
        ({}, ["--clusters", "1"], "--clusters = 1, --partitions = 100: expected at least 2 and 1"),
        ({}, ["--embedding", "nowhere"], "nowhere"),
        ({}, ["--out", "s3://bucket/file"], "the file of --out s3://bucket/file is a URI"),
    ],
)
def test_what_cannot_be_partitioned(dots: Path, changes: Any, arguments: list[str], message: str) -> None:
    settings = {**_config(dots), **changes}
    given = arguments if "--out" in arguments else [*arguments, "--out", str(dots / "out")]
    result = _command(_write(dots / "config.yaml", settings), *given)
    assert result.exit_code != 0
    assert message in result.stderr.replace("\n", " ")
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (dots / "out").exists()


def test_where_the_file_goes_is_asked_for(dots: Path) -> None:
    result = _command(_write(dots / "config.yaml", _config(dots)), *SMALL)
    assert "--out: expected a file to write" in result.stderr


def test_without_scikit_learn(dots: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    result = _command(_write(dots / "config.yaml", _config(dots)), *SMALL, "--out", str(dots / "out"))
    assert "pip install distmeta[unlabelled]" in result.stderr


def test_a_network_of_other_images_is_refused(dots: Path) -> None:
    sinusoid = {"tasks": {"kind": "sinusoid"}, "model": {"kind": "mlp"}, "algorithm": {"name": "maml"}}
    images = images_of(load_config(_config(dots)))
    with pytest.raises(ConfigError, match=r"'run': its network takes examples of shape \(1,\), and the images are"):
        check_inputs(_untrained(sinusoid), images, "run")


class OwnNet(nn.Module):
    """A network of a user's own, whose output layer is not called head, with dropout."""

    def __init__(self, outputs: int = 3) -> None:
        super().__init__()
        self.out = nn.Linear(8, outputs)
        self.first = nn.Linear(784, 8)
        self.norm = nn.BatchNorm1d(8)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.dropout(torch.tanh(self.norm(self.first(x.flatten(1))))))


def make_net(input_shape: Any, outputs: int) -> nn.Module:
    return OwnNet(outputs)


@pytest.mark.parametrize("model", [{"kind": "conv4", "filters": 4}, {"kind": "module:test_partitioning.make_net"}])
def test_features_are_what_the_output_layer_gets(dots: Path, model: dict[str, Any], monkeypatch: Any) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent)
    learner = _untrained({**_config(dots), "model": model})
    x = torch.rand(16, 1, 28, 28)
    found = Embedding(learner)(x)
    assert torch.equal(found, Embedding(learner)(x))  # dropout is off
    module = learner.parts.build()
    module.load_state_dict(learner.parts.module_state(learner.meta))
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.eval()
    head = getattr(module, "head", None) or module.out
    kept: list[torch.Tensor] = []
    head.register_forward_pre_hook(lambda _, given: kept.append(given[0].detach()))
    module(x)
    torch.testing.assert_close(found, kept[0], rtol=1e-5, atol=1e-6)


def test_prototypes_have_their_outputs_for_features(dots: Path) -> None:
    learner = _untrained({**_config(dots), "algorithm": {"name": "protonet"}})
    x = torch.rand(16, 1, 28, 28)
    module = learner.parts.build()
    torch.testing.assert_close(Embedding(learner)(x), module(x).detach(), rtol=1e-5, atol=1e-6)


def test_images_come_back_in_their_order() -> None:
    values = torch.rand(1300, 2)
    seen: list[int] = []

    def fetch(places: np.ndarray) -> torch.Tensor:
        seen.append(len(places))
        return values[torch.from_numpy(places)]

    assert torch.equal(torch.from_numpy(embed(lambda x: 2 * x, fetch, 1300)), 2 * values)
    assert seen == [434, 433, 433]


def test_whitened_components_are_uncorrelated() -> None:
    generator = np.random.default_rng(0)
    pixels = (generator.normal(size=(500, 6)) @ generator.normal(size=(6, 12))).astype(np.float32)
    white = whitened(pixels, 64)
    assert white.shape == (500, 6)  # no more have variance
    np.testing.assert_allclose(white.T @ white / 500, np.eye(6), atol=1e-3)
    assert whitened(pixels, 2).shape == (500, 2)


def test_clusters_hold_what_is_alike() -> None:
    generator = np.random.default_rng(0)
    kinds = np.arange(300) % 6
    points = (20 * generator.normal(size=(6, 8))[kinds] + generator.normal(size=(300, 8))).astype(np.float32)
    for labels in partitions_of(points, 12, 4):
        assert len(set(labels.tolist())) == 12
        assert all(len(set(kinds[labels == cluster].tolist())) == 1 for cluster in range(12))


def test_partitions_differ_and_do_not_depend_on_how_many_there_are() -> None:
    points = np.random.default_rng(0).normal(size=(200, 5)).astype(np.float32)
    three = partitions_of(points, 10, 3)
    assert np.array_equal(partitions_of(points, 10, 2), three[:2])
    assert not np.array_equal(three[0], three[1])


def test_settings_of_the_images_alone_matter(dots: Path) -> None:
    """A supervised configuration of the same images makes partitions for them as well."""
    settings = _config(dots)
    labelled = {**settings, "tasks": {**settings["tasks"]["source"], "ways": 3, "shots": 1, "queries": 2}}
    for name, values in (("a", settings), ("b", labelled)):
        result = _command(_write(dots / "config.yaml", values), *SMALL, "--out", str(dots / name))
        assert result.exit_code == 0, result.output
    assert (dots / "a").read_bytes() == (dots / "b").read_bytes()
