"""``distmeta data build``, ``check`` and ``show``, as people call them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from image_files import split_folders
from PIL import Image
from typer.testing import CliRunner

from distmeta.cli.main import app
from distmeta.data.store import EpisodeStore

CONFIG = """
name: own
tasks: {{kind: images, root: {root}, ways: 3, shots: 1, queries: 2}}
model: {{kind: conv4, filters: 4}}
algorithm: {{name: protonet}}
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return split_folders(tmp_path_factory.mktemp("data") / "own", images=4)


@pytest.fixture
def config(folders: Path, tmp_path: Path) -> Path:
    path = tmp_path / "own.yaml"
    path.write_text(CONFIG.format(root=folders))
    return path


def run(*arguments: str | Path, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["data", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.output


def test_a_store_is_built_checked_and_found_changed(folders: Path, tmp_path: Path) -> None:
    said = run("build", "images", "--source", folders, "--out", tmp_path, "size=[10, 12]", "tasks.channels=1")
    store = tmp_path / "images.arrow"
    assert said.endswith(f"{store}\n")
    assert "built from 76 images" in said
    assert EpisodeStore.open(store).shape == (10, 12)
    said = run("check", store)
    assert "76 grey images of 10 x 12" in " ".join(said.split())
    assert f"whole, as written: {EpisodeStore.open(store).content_hash}" in said
    content = bytearray(store.read_bytes())
    content[content.index(EpisodeStore.open(store).images[5].tobytes()) + 3] ^= 1
    store.write_bytes(content)
    assert "does not match the hash it was written with" in run("check", store, code=1)


def test_bad_requests(folders: Path, tmp_path: Path) -> None:
    def refused(*arguments: str | Path) -> str:
        said = run("build", *arguments, "--out", tmp_path / "out", code=2)
        assert not (tmp_path / "out").exists()
        return said

    assert "did you mean 'images'?" in refused("image", "--source", folders)
    assert "tasks.sizes: there is no such setting; did you mean 'size'?" in refused(
        "images", "--source", folders, "sizes=3"
    )
    assert "the store of omniglot has no settings" in refused("omniglot", "--source", folders, "size=3")
    assert "there is no such store" in run("check", tmp_path / "none.arrow", code=1)


def test_check_counts_the_classes_of_a_configuration(config: Path) -> None:
    said = run("check", config)
    for split, classes in (("train", 7), ("validation", 6), ("test", 6)):
        row = next(line for line in said.splitlines() if f" {split} " in line)
        assert [int(cell) for cell in row.replace("│", " ").split()[1:]] == [classes, 4 * classes, 4, 4]
    assert "images: " in said
    assert "tasks of kind glyphs" not in said


def test_check_of_tasks_that_are_computed(config: Path) -> None:
    config.write_text("tasks: {kind: sinusoid}\nmodel: {kind: mlp}\nalgorithm: {name: maml}\n")
    assert "tasks of kind sinusoid are computed: there is no data to check" in run("check", config)


def test_a_picture_shows_the_images_of_the_tasks(config: Path, tmp_path: Path) -> None:
    from distmeta.loading import load_config
    from distmeta.tasks import open_family

    run("show", config, "--tasks", "2", "--split", "test", "--out", tmp_path / "tasks.png")
    drawn = np.asarray(Image.open(tmp_path / "tasks.png"))
    import torch

    batch = open_family(load_config(config), torch.device("cpu")).sample("test", range(2))
    colours = {tuple(pixel) for pixel in drawn.reshape(-1, 3).tolist()}
    for part in (batch.support, batch.query):
        for image in part["x"].flatten(0, 1):
            corner = (image[:, 0, 0] * 255).round().int().tolist()
            assert tuple(corner) in colours


def test_tasks_in_a_terminal(config: Path) -> None:
    said = run("show", config, "--tasks", "1")
    assert "train task 0: support | query, a class a line" in said
    assert [line[:4] for line in said.splitlines() if line[:4].strip()][1:] == ["  0 ", "  1 ", "  2 "]


def test_tasks_without_images_are_a_table(config: Path, tmp_path: Path) -> None:
    config.write_text("tasks: {kind: sinusoid}\nmodel: {kind: mlp}\nalgorithm: {name: maml}\n")
    said = run("show", config, "--tasks", "2", "--split", "validation")
    assert "validation task 1" in said
    assert said.count("support") == said.count("query") == 20
    assert "a picture is drawn of tasks with images" in run("show", config, "--out", tmp_path / "x.png", code=2)
    assert "expected train, validation or test" in run("show", config, "--split", "tests", code=2)
    assert "expected 1 to 64" in run("show", config, "--tasks", "0", code=2)


def test_tasks_of_several_sizes_are_shown_one_by_one(config: Path, tmp_path: Path) -> None:
    drawn = ["tasks.ways={min: 2, max: 4}", "evaluation.ways=2", "run={meta_batch: 1}", "--tasks", "20"]
    said = run("show", config, *drawn)
    labels = [[line[:4].strip() for line in task.splitlines()[1:]] for task in said.split("train task ")[1:]]
    assert {len([label for label in task if label.isdigit()]) for task in labels} == {2, 3, 4}
    run("show", config, *drawn, "--out", tmp_path / "tasks.png")
    assert (tmp_path / "tasks.png").exists()
