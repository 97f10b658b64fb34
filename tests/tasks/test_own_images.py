"""Image families over the user's own files, from the files to tasks."""

from __future__ import annotations

import shutil
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from image_files import COUNTS, class_folders, contents, encoded, picture, split_folders
from task_helpers import episodes, flat

import distmeta
from distmeta.core.records import SPLITS
from distmeta.errors import ConfigError, DataError
from distmeta.tasks import TASKS
from distmeta.tasks.own_images import OwnImages

CPU = torch.device("cpu")
FRACTIONS = {"train": 0.5, "validation": 0.25, "test": 0.25}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return split_folders(tmp_path_factory.mktemp("own") / "data", images=6)


def options(root: Path | str, **settings: Any) -> Any:
    return OwnImages.Options(kind="images", root=str(root), ways=3, queries=3, **settings)


def opened(root: Path | str, **settings: Any) -> OwnImages:
    return OwnImages(options(root, **settings), episodes(ways=3, queries=3), CPU)


def test_tasks_are_of_the_images_of_their_split(folders: Path) -> None:
    family = opened(folders)
    of_split, first = {}, 0
    for split, classes in COUNTS.items():
        numbers = range(first, first + 6 * classes)
        of_split[split] = {np.asarray(picture(number)).transpose(2, 0, 1).tobytes() for number in numbers}
        first += 6 * classes
    for split in SPLITS:
        batch = family.sample(split, range(20))
        images = torch.cat([batch.support["x"], batch.query["x"]], 1).flatten(0, 1)
        seen = {(image * 255).round().to(torch.uint8).numpy().tobytes() for image in images}
        assert seen <= of_split[split]
        assert len(seen) > len(of_split[split]) * 0.8


def packed(folder: Path, target: Path, inside: str = "") -> Path:
    files = contents(folder)
    if target.suffix == ".zip":
        with zipfile.ZipFile(target, "w") as archive:
            for name, data in files.items():
                archive.writestr(f"{inside}{name}", data)
        return target
    with tarfile.open(target, "w:" + target.suffix.removeprefix(".").removeprefix("tar")) as archive:
        for name in files:
            archive.add(folder / name, f"{inside}{name}")
    return target


@pytest.mark.parametrize(
    ("name", "inside"),
    [("a.zip", ""), ("a.zip", "some/data/"), ("a.tar", "./"), ("a.tar.gz", "data/"), ("a.tar.xz", "")],
)
def test_archives_give_the_tasks_of_folders(folders: Path, tmp_path: Path, name: str, inside: str) -> None:
    archive = packed(folders, tmp_path / name, inside)
    assert torch.equal(flat(opened(archive).sample("test", range(8))), flat(opened(folders).sample("test", range(8))))
    assert opened_hash(archive) == opened_hash(folders)


def opened_hash(root: Path | str, **settings: Any) -> str:
    return OwnImages.contents(options(root, **settings))["images"]


def test_an_archive_for_each_split(folders: Path, tmp_path: Path) -> None:
    for split, name in (("train", "train"), ("validation", "val"), ("test", "test")):
        packed(folders / split, tmp_path / f"{name}.zip")
    assert opened_hash(tmp_path) == opened_hash(folders)


def test_a_list_for_each_split_beside_images(folders: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for split, name in (("train", "train"), ("validation", "val"), ("test", "test")):
        lines = ["filename,label"]
        for path, data in contents(folders / split).items():
            flat_name = path.replace("/", "_")
            (tmp_path / "images" / flat_name).write_bytes(data)
            lines.append(f"{flat_name},{path.split('/')[0]}")
        (tmp_path / f"{name}.csv").write_text("\n".join(lines) + "\n")
    assert opened_hash(tmp_path) == opened_hash(folders)


def test_one_list_with_a_column_of_splits(folders: Path, tmp_path: Path) -> None:
    lines = ["label,part,filename"]
    for path, data in contents(folders).items():
        split, label, name = path.split("/")
        (tmp_path / f"{label}-{name}").write_bytes(data)
        lines.append(f"{label},{split},{label}-{name}")
    (tmp_path / "all.csv").write_text("\ufeff" + "\r\n".join(lines))
    assert opened_hash(tmp_path / "all.csv", splits={"column": "part"}) == opened_hash(folders)
    # Without the column, splits are given otherwise.
    by_fractions = opened(tmp_path / "all.csv", splits=FRACTIONS)
    assert by_fractions.sample("train", [0]).support["x"].shape == (1, 3, 3, 20, 20)


def test_splits_by_lists_and_fractions(folders: Path, tmp_path: Path) -> None:
    plain = class_folders(tmp_path / "plain", {f"c{number}": 5 for number in range(12)})
    names = {"train": ["c0", "c1", "c2"], "validation": ["c3", "c4", "c5"], "test": ["c6", "c7", "c8"]}
    _, by_names = OwnImages._open(options(plain, splits=names))
    assert {split: classes.characters.size for split, classes in by_names.items()} == dict.fromkeys(SPLITS, 3)
    (tmp_path / "train.txt").write_text("c0\nc1\nc2\n")
    _, by_file = OwnImages._open(options(plain, splits={**names, "train": str(tmp_path / "train.txt")}))
    assert by_file["train"].characters.tolist() == by_names["train"].characters.tolist()
    _, by_fractions = OwnImages._open(options(plain, splits=FRACTIONS))
    assert [len(by_fractions[split]) for split in SPLITS] == [6, 3, 3]
    with pytest.raises(ConfigError, match=r"tasks\.splits\.train: .*plain has no class 'C0'"):
        opened(plain, splits={**names, "train": ["C0", "c1", "c2"]})


def test_classes_of_several_folders_are_joined_where_splits_are_given(tmp_path: Path) -> None:
    for split in ("train", "val"):
        class_folders(tmp_path / split, {f"c{number}": 3 for number in range(12)}, first=40 if split == "val" else 0)
    store, _ = OwnImages._open(options(tmp_path, splits=FRACTIONS))
    assert store.counts.tolist() == [6] * 12
    with pytest.raises(DataError, match=r"the class 'c0' stands in train and in validation; a class belongs to one"):
        opened(tmp_path)


def test_size_and_channels(folders: Path) -> None:
    family = opened(folders, size=[10, 14], channels=1)
    assert family.spec(options(folders, size=[10, 14], channels=1)).inputs.shape == (1, 10, 14)
    batch = family.sample("train", range(3))
    assert batch.query["x"].shape == (3, 9, 1, 10, 14)
    store = OwnImages.store(options(folders, size=[10, 14], channels=1))
    first = np.asarray(picture(13 * 6).convert("L").resize((14, 10), 1))  # 1 is Lanczos
    assert np.array_equal(store.images[store.first[store.classes.index("test-00")]], first)
    assert OwnImages.spec(options(folders)).inputs.shape == (3, 20, 20)  # from the data


def test_training_classes_are_turned_and_augmented(folders: Path) -> None:
    turned = opened(folders, rotations=True)
    assert len(turned._sampler._splits["train"]) == 4 * COUNTS["train"]
    assert len(turned._sampler._splits["test"]) == COUNTS["test"]
    plain, changed = opened(folders), opened(folders, augment={"flip": 1})
    for part in ("support", "query"):
        one, other = (getattr(family.sample("train", range(4)), part)["x"] for family in (plain, changed))
        assert torch.equal(one.flip(-1), other)
    assert torch.equal(flat(plain.sample("test", range(4))), flat(changed.sample("test", range(4))))
    with pytest.raises(ConfigError, match=r"tasks\.augment\.hue = 0\.2: images of 1 channel"):
        OwnImages.prepare(options(folders, channels=1, augment={"hue": 0.2}), episodes(ways=3, queries=3))


def test_a_worker_elsewhere_gets_the_store(folders: Path, tmp_path: Path) -> None:
    settings = options(folders, size=16)
    holdings = OwnImages.holdings(settings)
    for name, path in holdings.items():
        (tmp_path / name).write_bytes(path.read_bytes())
    moved = OwnImages.moved(settings, tmp_path)
    assert moved.root == str(tmp_path / "images.arrow")
    here, there = (OwnImages(each, episodes(ways=3, queries=3), CPU) for each in (settings, moved))
    assert torch.equal(flat(here.sample("validation", range(5))), flat(there.sample("validation", range(5))))
    assert OwnImages.contents(moved) == OwnImages.contents(settings)
    with pytest.raises(ConfigError, match=r"tasks\.size = 20 and tasks\.channels = 3: the images of .* are 16 x 16"):
        OwnImages.store(options(moved.root, size=20))


def test_a_changed_file_is_another_data_set(tmp_path: Path) -> None:
    root = split_folders(tmp_path / "data", images=4)
    before = opened_hash(root)
    assert opened_hash(root) == before
    (root / "train" / "train-00" / "000.png").write_bytes(encoded(999))
    assert opened_hash(root) != before


def test_too_few_images_name_the_class(folders: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tasks\.shots \+ tasks\.queries = 4 \+ 3 = 7: the class .* has 6 images"):
        OwnImages.prepare(options(folders), episodes(ways=3, shots=4, queries=3))
    class_folders(tmp_path, {"a": 5, "b": 1, "c": 5, "d": 5, "e": 5, "f": 5})
    names = {"train": ["a", "b"], "validation": ["c", "d"], "test": ["e", "f"]}
    with pytest.raises(ConfigError, match=r"the class 'b' of the train split has 1 image; .* or leave such"):
        OwnImages.prepare(options(tmp_path, splits=names), episodes(ways=2, queries=1))


def test_too_few_classes_say_what_to_do(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "data", {f"c{number}": 5 for number in range(8)})
    few = options(root, splits={"train": 0.5, "validation": 0.125, "test": 0.375})
    with pytest.raises(ConfigError, match=r"the validation split has 1 class; a task needs .* by a larger fraction"):
        OwnImages.prepare(few, episodes(ways=2, queries=3))
    with pytest.raises(ConfigError, match=r"the test split has 3 classes; use 2 to 3 ways, or give the split more"):
        OwnImages.prepare(few, {"test": episodes(ways=4, queries=3)["test"]})
    halves = options(root, splits={"train": 0.25, "validation": 0.25, "test": 0.5})
    with pytest.raises(ConfigError, match=r"the train split has 2 classes; use 2 ways, or give the split more classes"):
        OwnImages.prepare(halves, episodes(ways=4, queries=3))


def test_splits_that_are_missing(folders: Path, tmp_path: Path) -> None:
    class_folders(tmp_path / "plain", {"train": 3, "cat": 3})  # a class may be called train
    with pytest.raises(ConfigError, match=r"tasks\.splits is not set, and .*plain has no folders train, validation"):
        opened(tmp_path / "plain")
    class_folders(tmp_path / "two" / "train", {"a": 3})
    class_folders(tmp_path / "two" / "test", {"b": 3})
    with pytest.raises(DataError, match="two has no class for the validation split"):
        opened(tmp_path / "two")


@pytest.mark.parametrize("kind", ["cifar_fs", "mini_imagenet", "tiered_imagenet", "cub"])
def test_published_families_look_in_the_shared_folder(
    kind: str, made_up_images: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    family = TASKS[kind]
    monkeypatch.setenv("DISTMETA_DATA", str(made_up_images))
    found = family.contents(family.Options(kind=kind, size=20))
    assert found == family.contents(family.Options(kind=kind, size=20, root=str(made_up_images / kind)))
    monkeypatch.setenv("DISTMETA_DATA", str(tmp_path))
    with pytest.raises(DataError, match=rf"DISTMETA_DATA = .* holds no {kind}: expected "):
        family.prepare(family.Options(kind=kind), episodes())
    monkeypatch.delenv("DISTMETA_DATA")
    with pytest.raises(DataError, match=r"tasks\.root is not set, and neither is DISTMETA_DATA"):
        family.prepare(family.Options(kind=kind), episodes())


def test_the_split_of_cub_goes_by_order(made_up_images: Path) -> None:
    cub = TASKS["cub"]
    store, splits = cub._open(cub.Options(kind="cub", size=20, root=str(made_up_images)))
    numbers = {split: [int(store.classes[at][:3]) - 1 for at in found.characters] for split, found in splits.items()}
    assert numbers["train"] == [n for n in range(24) if n % 2 == 0]
    assert numbers["validation"] == [n for n in range(24) if n % 4 == 1]
    assert numbers["test"] == [n for n in range(24) if n % 4 == 3]


def test_a_trained_model_knows_the_size_without_the_data(folders: Path, tmp_path: Path) -> None:
    """Where the settings do not say it, it was found as the run began."""
    root = tmp_path / "data"
    shutil.copytree(folders, root)
    config = {
        "name": "own",
        "tasks": {"kind": "images", "root": str(root), "ways": 3, "queries": 2},
        "model": {"kind": "conv4", "filters": 4},
        "algorithm": {"name": "protonet"},
        "run": {"steps": 1, "meta_batch": 2, "device": "cpu"},
        "evaluation": {"tasks": 2},
    }
    for _ in distmeta.train(distmeta.load_config(config), str(tmp_path / "run")):
        pass
    shutil.rmtree(root)
    learner = distmeta.load(str(tmp_path / "run"))
    model = learner.adapt(torch.rand(3, 3, 20, 20), torch.arange(3))
    assert model.predict(torch.rand(4, 3, 20, 20)).shape == (4, 3)
