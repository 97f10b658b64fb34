"""Tasks without labels, on small stores of random images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from image_families import DotOptions, Dots, write_dots
from PIL import Image
from task_helpers import episodes, flat

from distmeta.config.schema import dump_config
from distmeta.config.text import parse_yaml
from distmeta.core.records import SPLITS
from distmeta.data.partitions import Partitions, write_partitions
from distmeta.errors import ConfigError, DataError
from distmeta.loading import load_config
from distmeta.tasks.augmentation import augment
from distmeta.tasks.options import UnlabelledOptions
from distmeta.tasks.unlabelled import Unlabelled

CPU = torch.device("cpu")
AUGMENT = {"rotation": 20, "shift": 3, "scale": 0.2}
IDS = [0, 7, 2**40 + 3]


def _options(folder: Path, **settings: Any) -> UnlabelledOptions:
    source = {"kind": "module:image_families.Dots", "folder": str(folder), **settings.pop("source", {})}
    given = {"augment": AUGMENT, "ways": 4, "shots": 1, "queries": 3, **settings}
    return UnlabelledOptions(kind="unlabelled", source=source, **given)


def _open(folder: Path, **settings: Any) -> Unlabelled:
    options = _options(folder, **settings)
    return Unlabelled(options, episodes(options.ways, options.shots, options.queries, seed=3), CPU)


def _numbers(x: torch.Tensor, images: np.ndarray) -> np.ndarray:
    """Which of the images each of ``x`` (..., 1, 28, 28) is; -1 for none of them."""
    known = {image.tobytes(): number for number, image in enumerate(images)}
    flat = (x.reshape(-1, 28, 28) * 255).round().to(torch.uint8).numpy()
    return np.array([known.get(image.tobytes(), -1) for image in flat]).reshape(x.shape[:-3])


def test_a_class_is_one_image_and_its_copies(tmp_path):
    images = write_dots(tmp_path)
    family = _open(tmp_path, shots=3, queries=2)
    batch = family.sample("train", IDS)
    support = batch.support["x"].view(3, 4, 3, 1, 28, 28)
    numbers = _numbers(support, images)
    assert (numbers[:, :, 0] >= 0).all()
    assert (numbers[:, :, 0] < 48).all()
    assert all(len(set(row)) == 4 for row in numbers[:, :, 0].tolist())
    assert (numbers[:, :, 1:] == -1).all()
    assert batch.support["y"].tolist() == [[0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]] * 3
    originals = support[:, :, :1]
    for part, data, count in (("support", batch.support, 3), ("query", batch.query, 2)):
        repeated = originals.expand(-1, -1, count, -1, -1, -1).reshape(3, 4 * count, 1, 28, 28)
        changed = augment(repeated, family._augment, seed=3, split="train", ids=IDS, part=part)
        copies = torch.ones(4 * count, dtype=torch.bool)
        if part == "support":
            copies[::3] = False
        assert torch.equal(data["x"][:, copies], changed[:, copies])


def test_training_tasks_know_nothing_of_classes(tmp_path):
    """The same images in other classes make the same training tasks, bit by bit."""
    write_dots(tmp_path / "a", classes=8, examples=6)
    write_dots(tmp_path / "b", classes=3, examples=16)
    one, two = (_open(tmp_path / name).sample("train", range(20)) for name in "ab")
    assert torch.equal(flat(one), flat(two))
    # They do differ where classes are drawn from.
    first, second = (
        Dots(
            DotOptions(kind="dots", folder=str(tmp_path / name), ways=3, shots=1, queries=3), episodes(3, 1, 3), CPU
        ).sample("train", range(20))
        for name in "ab"
    )
    assert not torch.equal(flat(first), flat(second))


def test_every_training_image_is_drawn_as_often(tmp_path):
    images = write_dots(tmp_path)
    x = _open(tmp_path, augment={"flip": 1}, queries=1).sample("train", range(1200)).support["x"]
    numbers, counts = np.unique(_numbers(x, images), return_counts=True)
    assert numbers.tolist() == list(range(48))
    assert abs(counts / 100 - 1).max() < 0.4  # a standard deviation is 0.1


def test_rotations_are_images_too(tmp_path):
    images = write_dots(tmp_path)
    x = _open(tmp_path, source={"turns": 4}).sample("train", range(400)).support["x"]
    turned = np.concatenate([np.rot90(images[:48], turn, axes=(1, 2)) for turn in range(4)])
    numbers = _numbers(x, turned)
    assert (numbers >= 0).all()
    assert len(set(numbers.ravel().tolist())) == 192


def _partition(folder: Path, labels: Any, options: UnlabelledOptions, name: str = "own") -> str:
    pool = Dots(options.source, {}, CPU).pool("train")
    path = folder / f"{name}.partition"
    write_partitions(path, np.array(labels, np.int32), {"images": pool.digest})
    return str(path)


def _clusters(tmp_path: Path) -> tuple[np.ndarray, np.ndarray, Unlabelled]:
    """Two partitions of 48 images, into 12 clusters of 4, and into 5 of 8 with 8 single images; tasks of them."""
    images = write_dots(tmp_path)
    mixed = np.random.default_rng(0).permutation(48)
    labels = [mixed % 12, np.where(mixed < 40, mixed // 8, mixed - 35)]
    path = _partition(tmp_path, labels, _options(tmp_path))
    family = _open(tmp_path, method="cactus", partition=path, augment={})
    return np.array(labels), images, family


def test_a_class_is_a_cluster_of_one_partition(tmp_path):
    labels, images, family = _clusters(tmp_path)
    batch = family.sample("train", range(300))
    parts = [batch.support["x"].view(300, 4, 1, 1, 28, 28), batch.query["x"].view(300, 4, 3, 1, 28, 28)]
    numbers = _numbers(torch.cat(parts, 2), images)
    assert (numbers >= 0).all()
    fits = []
    for task in numbers:
        assert len(set(task.ravel())) == 16
        in_both = [[set(own[row]) for row in task] for own in labels]
        fits.append([all(len(each) == 1 for each in of) for of in in_both])
        assert sum(fits[-1]) >= 1
        chosen = in_both[fits[-1].index(True)]
        assert len(set.union(*chosen)) == 4
    assert 100 < sum(first for first, _ in fits) < 200  # each partition about as often
    second = numbers[[of == [False, True] for of in fits]]
    assert (labels[1][second] < 5).all()  # clusters of one image have too few


def test_members_of_clusters_are_changed_where_that_is_asked_for(tmp_path):
    _, _, plain = _clusters(tmp_path)
    path = str(tmp_path / "own.partition")
    changed = _open(tmp_path, method="cactus", partition=path, augment={"flip": 0.5})
    before, after = (family.sample("train", range(50)) for family in (plain, changed))
    for name in ("support", "query"):
        old, new = getattr(before, name)["x"], getattr(after, name)["x"]
        mirrored = (new == old.flip(-1)).flatten(2).all(2)
        assert ((new == old).flatten(2).all(2) | mirrored).all()
        assert 0.3 < mirrored.float().mean() < 0.7


@pytest.mark.parametrize("method", ["umtra", "cactus"])
def test_a_task_is_its_id(tmp_path, method):
    images = write_dots(tmp_path)
    given: dict[str, Any] = {"method": method}
    if method == "cactus":
        given["partition"] = _partition(tmp_path, [np.arange(len(images) - 72) % 6], _options(tmp_path))
    family = _open(tmp_path, **given)
    together = flat(family.sample("train", range(10, 18)))
    assert torch.equal(together, flat(_open(tmp_path, **given).sample("train", range(10, 18))))
    for position in (0, 5):
        assert torch.equal(flat(family.sample("train", [10 + position]))[0], together[position])
    assert len(torch.unique(together, dim=0)) == 8


def test_validation_and_test_are_those_of_the_source(tmp_path):
    write_dots(tmp_path)
    options = _options(tmp_path)
    sizes = episodes(4, 1, 3, seed=3)
    family, labelled = Unlabelled(options, sizes, CPU), Dots(options.source, sizes, CPU)
    for split in SPLITS[1:]:
        assert torch.equal(flat(family.sample(split, IDS)), flat(labelled.sample(split, IDS)))
    assert not torch.equal(flat(family.sample("train", IDS)), flat(labelled.sample("train", IDS)))


def test_workers_elsewhere_have_images_and_partitions(tmp_path):
    _clusters(tmp_path / "here")
    options = _options(tmp_path / "here", method="cactus", partition=str(tmp_path / "here" / "own.partition"))
    (tmp_path / "there").mkdir()
    for name, path in Unlabelled.holdings(options).items():
        (tmp_path / "there" / name).write_bytes(path.read_bytes())
    moved = Unlabelled.moved(options, tmp_path / "there")
    for path in Unlabelled.holdings(moved).values():
        assert path.parent == tmp_path / "there"
    sizes = episodes(4, 1, 3)
    here, there = (Unlabelled(each, sizes, CPU).sample("train", IDS) for each in (options, moved))
    assert torch.equal(flat(here), flat(there))
    contents = Unlabelled.contents(options)
    assert contents == Unlabelled.contents(moved)
    assert contents["partition"] == Partitions.open(tmp_path / "here" / "own.partition").content_hash
    assert len(contents) == 2


def test_images_of_ones_own_need_no_classes(tmp_path):
    """Training images in one folder; those for validation and test have classes."""
    generator = np.random.default_rng(0)
    counts = {
        "train/all": 20,
        **{f"{split}/{name}": 5 for split in ("validation", "test") for name in (f"{split}-{n}" for n in range(3))},
    }
    for place, count in counts.items():
        (tmp_path / place).mkdir(parents=True)
        for number in range(count):
            pixels = generator.integers(0, 256, (12, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / place / f"{number}.png")
    source = {"kind": "images", "root": str(tmp_path), "size": 12}
    augment = {"flip": 0.5, "shift": 2, "grey": 0.2, "hue": 0.1}
    options = UnlabelledOptions(kind="unlabelled", source=source, augment=augment, ways=3, queries=2)
    sizes = episodes(3, 1, 2)
    Unlabelled.prepare(options, sizes)
    family = Unlabelled(options, sizes, CPU)
    for split in SPLITS:
        assert family.sample(split, range(5)).query["x"].shape == (5, 6, 3, 12, 12)
    assert Unlabelled.spec(options).inputs.shape == (3, 12, 12)


def _config(**tasks: Any) -> dict[str, Any]:
    source = tasks.pop("source", {"kind": "glyphs"})
    given = {"kind": "unlabelled", "source": source, "augment": AUGMENT, **tasks}
    return {"tasks": given, "model": {"kind": "conv4", "filters": 4}, "algorithm": {"name": "maml"}}


def test_what_is_written_down_is_read_again():
    config = load_config(_config(source={"kind": "omniglot", "rotations": False}, ways=7))
    written = parse_yaml(dump_config(config), "written")
    assert load_config(written) == config
    assert "ways" not in written["tasks"]["source"]
    assert (
        load_config(written, ["tasks.ways=3", "evaluation.ways=3", "tasks.source.split=alphabets"]).tasks.source.ways
        == 3
    )


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ({"source": {"kind": "sinusoid"}}, r"tasks\.source\.kind = 'sinusoid': expected a family of images"),
        ({"source": {"kind": "unlabelled"}}, r"tasks\.source\.kind = 'unlabelled': expected a family of images"),
        ({"source": {"kind": "glyph"}}, r"tasks\.source\.kind: expected one of .*did you mean 'glyphs'"),
        ({"source": {}}, r"tasks\.source\.kind: this setting is required"),
        ({"source": "glyphs"}, r"tasks\.source: expected a section with settings of its own, got 'glyphs'"),
        ({"source": {"kind": "glyphs", "ways": 3}}, r"tasks\.source\.ways: set tasks\.ways instead"),
        ({"source": {"kind": "omniglot", "split": "x"}}, r"tasks\.source\.split: input should be .*got 'x'"),
        ({"augment": {}}, r"tasks\.augment: method umtra needs it"),
        ({"augment": {"rotation": 5, "rotation_probability": 0}}, r"tasks\.augment: method umtra needs it"),
        ({"augment": {"shift": -1}}, r"tasks\.augment\.shift: input should be greater than or equal to 0, got -1"),
        ({"augment": {"turn": 1}}, r"tasks\.augment\.turn: there is no such setting"),
        ({"method": "cactus"}, r"tasks\.partition: tasks\.method = cactus needs it.*'distmeta data partition'"),
        ({"method": "cactus", "partition": "s3://a/b"}, r"tasks\.partition: expected a file on this machine"),
        ({"partition": "file"}, r"tasks\.partition is for tasks\.method = cactus"),
        ({"method": "umtr"}, r"tasks\.method: input should be 'umtra' or 'cactus', got 'umtr'"),
    ],
)
def test_settings_that_make_no_sense(tasks, message):
    with pytest.raises(ConfigError, match=message) as raised:
        load_config(_config(**tasks))
    assert len(str(raised.value).splitlines()) == 2


def test_augmentation_and_ways_that_the_images_do_not_allow(tmp_path):
    write_dots(tmp_path)
    with pytest.raises(ConfigError, match=r"tasks\.augment\.shift = 28: expected less than 28"):
        _open(tmp_path, augment={"shift": 28})
    with pytest.raises(ConfigError, match=r"tasks\.augment\.hue = 0\.2: images of 1 channel have no colour"):
        _open(tmp_path, augment={"hue": 0.2})
    options = _options(tmp_path, ways=49)
    with pytest.raises(ConfigError, match=r"tasks\.ways = 49: there are 48 training images"):
        Unlabelled.prepare(options, {"train": episodes(49)["train"]})
    with pytest.raises(ConfigError, match=r"evaluation\.ways = 7 .* validation split has 6 classes"):
        Unlabelled.prepare(options, episodes(7))


def test_partitions_that_do_not_fit(tmp_path):
    _clusters(tmp_path)
    path = str(tmp_path / "own.partition")
    given: dict[str, Any] = {"method": "cactus", "partition": path}
    with pytest.raises(ConfigError, match=r"tasks\.ways = 6: only 5 of 13 clusters of partition 1 .* = 4 images"):
        _open(tmp_path, ways=6, **given)
    with pytest.raises(ConfigError, match=r"only 0 of 13 clusters of partition 0 .* tasks\.queries = 5 images"):
        _open(tmp_path, queries=4, **given)
    with pytest.raises(DataError, match=r"own\.partition is of other images: it has 48 .* are 192 with"):
        _open(tmp_path, source={"turns": 4}, **given)
    write_dots(tmp_path / "other", seed=1)
    with pytest.raises(DataError, match=r"tasks\.partition = .*own\.partition is of other images: it has 48 .* are 48"):
        _open(tmp_path / "other", **given)
    with pytest.raises(DataError, match=r"cannot read the partitions .*none: No such file.*correct tasks\.partition"):
        _open(tmp_path, method="cactus", partition=str(tmp_path / "none"))


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "changed label", "changed source", "another format"])
def test_damaged_partitions(tmp_path, damage):
    _clusters(tmp_path)
    path = tmp_path / "own.partition"
    data = path.read_bytes()
    changes = {
        "empty": b"",
        "cut": data[: len(data) // 2],
        "text": b"not a partition",
        "changed label": data[:-1] + bytes([data[-1] ^ 1]),
        "changed source": data.replace(b"images", b"imagez", 1),
        "another format": data.replace(b"distmeta.partitions.1", b"distmeta.partitions.2"),
    }
    path.write_bytes(changes[damage])
    with pytest.raises(DataError, match=r"own\.partition is damaged.*make it again with 'distmeta data partition'"):
        Partitions.open(path)
