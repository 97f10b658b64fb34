"""Tasks that users give as files: read as in training, and what is wrong with them is named."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import distmeta
from distmeta.errors import ConfigError, DataError
from distmeta.loading import load_config
from distmeta.runs.inference import MetaLearner
from distmeta.runs.predictions import predict_files

SHORT = {"steps": 2, "meta_batch": 2, "tasks_per_shard": 2, "checkpoint_every": 2}
COLOURS = {"red": (200, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 200)}


def trained(folder: Path, **settings: Any) -> Path:
    values = {"run": SHORT, "evaluation": {"tasks": 2, "validation_tasks": 2}, "cluster": {"workers": 0}, "name": "a"}
    for _ in distmeta.train(load_config({**values, **settings}), str(folder)):
        pass
    return folder


def picture(colour: tuple[int, int, int], seed: int) -> bytes:
    noise = np.random.default_rng(seed).integers(-15, 15, (20, 24, 3))
    stream = io.BytesIO()
    Image.fromarray((np.asarray(colour) + noise).clip(0, 255).astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def write(path: Path, content: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> MetaLearner:
    folder = tmp_path_factory.mktemp("images")
    for split in ("train", "val", "test"):
        for name, colour in COLOURS.items():
            for number in range(4):
                write(folder / "data" / split / f"{split}-{name}" / f"{number}.png", picture(colour, number))
    tasks = {"kind": "images", "root": str(folder / "data"), "size": 16, "ways": 3, "shots": 1, "queries": 1}
    model = {"kind": "conv4", "filters": 4}
    return distmeta.load(trained(folder / "run", tasks=tasks, model=model, algorithm={"name": "protonet"}))


def of_tasks(folder: Path, tasks: int, labelled: bool, one: bool = False) -> Path:
    for task in range(tasks):
        for at, (name, colour) in enumerate(COLOURS.items()):
            for number in range(2):
                below = folder if one else folder / f"task-{task}"
                below = below / name if labelled else below
                write(below / f"{name}-{number}.png", picture(colour, 100 * task + 10 * at + number))
    return folder


def rows(file: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(file).to_pylist()
    return found


def test_images_of_one_task_and_of_many(images: MetaLearner, tmp_path: Path) -> None:
    support, query = of_tasks(tmp_path / "s", 5, True), of_tasks(tmp_path / "q", 5, True)
    found = predict_files(images, str(support), str(query), tmp_path / "many.parquet")
    many = rows(tmp_path / "many.parquet")
    assert found["tasks"] == 5
    assert found["accuracy"] == {"mean": 1.0, "ci95": 0.0, "tasks": 5}
    assert [row["task"] for row in many] == [f"task-{t}" for t in range(5) for _ in range(6)]
    assert all(row["prediction"] == row["target"] for row in many)
    assert many[0]["classes"] == ["blue", "green", "red"]
    assert sum(many[0]["probabilities"]) == pytest.approx(1)
    one = predict_files(images, str(support / "task-3"), str(query / "task-3"), tmp_path / "one.parquet")
    assert one["accuracy"]["ci95"] is None
    mine = [row for row in many if row["task"] == "task-3"]
    assert [row["probabilities"] for row in rows(tmp_path / "one.parquet")] == [row["probabilities"] for row in mine]


def test_unlabelled_images_archives_and_lists(images: MetaLearner, tmp_path: Path) -> None:
    support = of_tasks(tmp_path / "s", 2, True)
    plain = predict_files(images, str(support), str(of_tasks(tmp_path / "q", 2, False)), tmp_path / "a.parquet")
    assert "accuracy" not in plain
    assert "target" not in rows(tmp_path / "a.parquet")[0]
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
        for file in sorted(support.rglob("*.png")):
            archive.write(file, file.relative_to(support))
    listed = [["task", "filename", "label"]]
    for file in sorted(support.rglob("*.png")):
        task, label, name = file.relative_to(support).parts
        listed.append([task, f"{task}/{label}/{name}", label])
    with (support / "list.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(listed)
    for other in (tmp_path / "s.zip", support / "list.csv"):
        predict_files(images, str(other), str(tmp_path / "q"), tmp_path / "b.parquet")
        assert rows(tmp_path / "b.parquet") == rows(tmp_path / "a.parquet")
    single = of_tasks(tmp_path / "one", 1, True, one=True)
    flat = of_tasks(tmp_path / "flat", 1, False, one=True)
    assert predict_files(images, str(single), str(flat), tmp_path / "c.parquet")["queries"] == 6


def test_images_are_read_as_in_training(images: MetaLearner) -> None:
    from distmeta.tasks import TASKS, fit_family, open_family

    config = fit_family(images.config)
    family = open_family(config, torch.device("cpu"))
    seen = family.sample("test", [0]).support["x"][0]
    root = Path(str(getattr(config.tasks, "root", "")))
    files = [TASKS["images"].picture(config.tasks, each.read_bytes()) for each in sorted(root.glob("test/*/*.png"))]
    assert all(any(torch.equal(image, file) for file in files) for image in seen)


def table(folder: Path, name: str, tasks: range, count: int, target: bool = True, suffix: str = ".csv") -> Path:
    lines = ["user,colour,x,y" if target else "user,colour,x"]
    for task in tasks:
        for row in range(count):
            x = round(np.sin(task * 7.0 + row), 3)
            end = f",{2 * task * x + 1}" if target else ""
            lines.append(f"{task:03d},{'red' if row % 2 else 'blue'},{x}{end}")
    write(folder / f"{name}{suffix}", "\n".join(lines))
    return folder / f"{name}{suffix}"


@pytest.fixture(scope="module")
def rates(tmp_path_factory: pytest.TempPathFactory) -> MetaLearner:
    folder = tmp_path_factory.mktemp("table")
    tasks = {"kind": "table", "path": str(table(folder, "all", range(20), 8)), "task": "user", "target": "y"}
    model = {"kind": "mlp", "hidden": [8]}
    algorithm = {"name": "maml", "inner_lr": 0.01}
    return distmeta.load(
        trained(folder / "run", tasks={**tasks, "shots": 3, "queries": 3}, model=model, algorithm=algorithm)
    )


def test_tables(rates: MetaLearner, tmp_path: Path) -> None:
    support, query = table(tmp_path, "s", range(30, 36), 5), table(tmp_path, "q", range(30, 36), 4)
    found = predict_files(rates, str(support), str(query), tmp_path / "out.parquet")
    assert found["tasks"] == 6
    assert found["queries"] == 24
    assert found["mse"]["tasks"] == 6
    got = rows(tmp_path / "out.parquet")
    assert got[4]["task"] == "031"
    assert got[4]["row"] == "5"
    given = pq.read_table(tmp_path / "out.parquet")
    assert given.column("target").to_pylist()[0] == pytest.approx(2 * 30 * round(np.sin(210.0), 3) + 1)
    x = {"colour": ["blue", "red", "blue", "red", "blue"], "x": [round(np.sin(210.0 + row), 3) for row in range(5)]}
    y = [[60 * value + 1] for value in x["x"]]
    learner: Any = rates
    alone = learner.adapt(x, torch.tensor(y)).predict({name: values[:4] for name, values in x.items()})
    assert [row["prediction"] for row in got[:4]] == pytest.approx(alone[:, 0].tolist(), rel=1e-4)
    without = table(tmp_path, "n", range(31, 33), 4, target=False)
    assert "mse" not in predict_files(rates, str(support), str(without), tmp_path / "n.parquet")
    assert [row["prediction"] for row in rows(tmp_path / "n.parquet")] == [row["prediction"] for row in got[4:12]]


@pytest.fixture(scope="module")
def intents(tmp_path_factory: pytest.TempPathFactory) -> MetaLearner:
    pytest.importorskip("tokenizers")
    folder = tmp_path_factory.mktemp("texts")
    lines = [f"class {label} word{label} number {row},c{label}" for label in range(12) for row in range(6)]
    write(folder / "texts.csv", "\n".join(["text,label", *lines]))
    tasks = {"kind": "text", "root": str(folder / "texts.csv"), "ways": 2, "shots": 1, "queries": 1, "length": 8}
    splits = {"train": 0.5, "validation": 0.25, "test": 0.25}
    model = {"kind": "bag", "features": 8}
    return distmeta.load(
        trained(folder / "run", tasks={**tasks, "splits": splits}, model=model, algorithm={"name": "protonet"})
    )


def test_texts(intents: MetaLearner, tmp_path: Path) -> None:
    write(tmp_path / "s.csv", "task,text,label\n1,word1 number,yes\n1,word2 class,no\n2,word3,a\n2,word4 class,b\n")
    write(tmp_path / "q.csv", "task,text,label\n2,word3,a\n1,word1 number,yes\n1,word2 class,no\n")
    found = predict_files(intents, str(tmp_path / "s.csv"), str(tmp_path / "q.csv"), tmp_path / "out.parquet")
    assert found["accuracy"]["mean"] == 1
    assert [row["prediction"] for row in rows(tmp_path / "out.parquet")] == ["a", "yes", "no"]


def test_arrays(tmp_path: Path) -> None:
    run = trained(
        tmp_path / "run",
        tasks={"kind": "sinusoid"},
        model={"kind": "mlp", "hidden": [8]},
        algorithm={"name": "maml", "inner_lr": 0.01},
    )
    x = np.linspace(-1, 1, 12, dtype=np.float32)[:, None]
    task = np.repeat([0, 1], 6)
    np.savez(tmp_path / "s.npz", x=x, y=2 * x, task=task)
    np.savez(tmp_path / "q.npz", x=x[::-1].copy(), task=task)
    found = predict_files(
        distmeta.load(run), str(tmp_path / "s.npz"), str(tmp_path / "q.npz"), tmp_path / "out.parquet"
    )
    assert found == {"tasks": 2, "queries": 12}
    np.savez(tmp_path / "bad.npz", z=x)
    with pytest.raises(DataError, match="has no array 'x'"):
        predict_files(distmeta.load(run), str(tmp_path / "bad.npz"), str(tmp_path / "q.npz"), tmp_path / "o.parquet")


Spoil = Callable[[Path, Path], object]
WRONG: dict[str, tuple[Spoil, str]] = {
    "a damaged image": (
        lambda s, q: write(q / "task-1" / "red" / "red-0.png", b"no"),
        r"'task-1/red/red-0.png' cannot be read",
    ),
    "a task without a support set": (lambda s, q: shutil.rmtree(s / "task-1"), "task 'task-1' has no support set"),
    "a class that the support set has not": (
        lambda s, q: shutil.rmtree(s / "task-1" / "red"),
        "task 'task-1' has the class 'red', which its support set has not",
    ),
    "other depths": (lambda s, q: write(s / "stray.png", picture((0, 0, 0), 0)), "folders of different depths"),
    "no image": (lambda s, q: [shutil.move(each, f"{each}.txt") for each in q.rglob("*.png")], "holds no images"),
    "no folder": (lambda s, q: shutil.rmtree(q), "there is no"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_images_are_named(what: str, images: MetaLearner, tmp_path: Path) -> None:
    support, query = of_tasks(tmp_path / "s", 2, True), of_tasks(tmp_path / "q", 2, True)
    spoil, message = WRONG[what]
    spoil(support, query)
    out = tmp_path / "out.parquet"
    with pytest.raises(DataError, match=message):
        predict_files(images, str(support), str(query), out)
    assert not out.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("user,x,y\n001,2,3\n", "no column 'colour'"),
        ("user,colour,x\n001,red,2\n", "no column 'y'"),
        ("user,colour,x,y\n001,red,two,3\n", "'two' is text|x.*not numbers|numbers"),
        ("user,colour,x,y\n001,red,2,\n", "row 1: nothing stands under 'y'"),
        ("user,colour,x,y\n,red,2,3\n", "row 1: nothing stands under 'user'|task"),
        ("", "empty"),
    ],
)
def test_wrong_tables_are_named(content: str, message: str, rates: MetaLearner, tmp_path: Path) -> None:
    write(tmp_path / "s.csv", content)
    query = table(tmp_path, "q", range(1, 2), 2, target=False)
    with pytest.raises((DataError, ConfigError), match=message):
        predict_files(rates, str(tmp_path / "s.csv"), str(query), tmp_path / "out.parquet")


def test_the_command(images: MetaLearner, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    run = next(each for each in tmp_path_factory.getbasetemp().glob("images*/run"))
    support, query = of_tasks(tmp_path / "s", 3, True), of_tasks(tmp_path / "q", 3, True)
    command = [sys.executable, "-m", "distmeta", "adapt", str(run), "--support", str(support), "--query", str(query)]
    done = subprocess.run([*command, "--out", "p.parquet", "--json"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["accuracy"]["mean"] == 1
    assert "3 of 3 tasks" in done.stderr
    done = subprocess.run([*command, "--out", "p.parquet", "--quiet"], cwd=tmp_path, capture_output=True, text=True)
    assert done.stderr == ""
    assert "18 predictions of 3 tasks" in done.stdout
    done = subprocess.run([*command, "--out", "no/p.parquet"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert "error: no/p.parquet: there is no folder no" in done.stderr
