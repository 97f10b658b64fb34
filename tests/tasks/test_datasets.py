"""Episodes from map-style data sets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from task_helpers import episodes, flat
from torch.utils.data import Dataset, TensorDataset

from distmeta.core.records import SPLITS
from distmeta.data.store import EpisodeStore, write_store
from distmeta.errors import ConfigError, DataError
from distmeta.tasks import from_dataset
from distmeta.tasks.images import EpisodeSampler, SplitClasses

CPU = torch.device("cpu")
CLASSES, EACH = 20, 6
LABELS = np.arange(CLASSES).repeat(EACH)
PIXELS = np.random.default_rng(0).integers(0, 255, size=(CLASSES * EACH, 5, 4), dtype=np.uint8)
IMAGES = torch.from_numpy(PIXELS).float()[:, None] / 255
HALVES = {"train": 0.5, "validation": 0.25, "test": 0.25}
SIZES = {"ways": 3, "shots": 2, "queries": 3}


class Birds(Dataset[Any]):
    """As those of torchvision."""

    classes = [f"bird {number}" for number in range(CLASSES)]  # noqa: RUF012

    def __init__(self, change: Callable[[int, Any], Any] = lambda index, item: item, **attributes: Any) -> None:
        self._change = change
        vars(self).update(attributes)

    def __len__(self) -> int:
        return len(IMAGES)

    def __getitem__(self, index: int) -> Any:
        return self._change(index, (IMAGES[index], int(LABELS[index])))


def family(source: Any, splits: Any = HALVES, labels: Any = None, **sizes: int) -> Any:
    made = from_dataset(source, splits=splits, labels=labels)
    chosen = {**SIZES, **sizes}
    return made, made.Options(kind="module:mine.birds", **chosen), episodes(**chosen)


def opened(source: Any, splits: Any = HALVES, labels: Any = None, **sizes: int) -> Any:
    made, options, wanted = family(source, splits, labels, **sizes)
    return made(options, wanted, CPU)


def prepare(source: Any, **arguments: Any) -> None:
    made, options, wanted = family(source, **arguments)
    made.prepare(options, wanted)


def names_of(*numbers: int) -> list[str]:
    return [f"bird {number}" for number in numbers]


def test_episodes_are_those_of_the_image_families(tmp_path: Path) -> None:
    names = sorted(names_of(*range(CLASSES)))
    order = [names.index(f"bird {label}") for label in LABELS]  # the store sorts its classes
    write_store(tmp_path / "birds.arrow", PIXELS, [names[at] for at in order], [""] * len(order))
    store = EpisodeStore.open(tmp_path / "birds.arrow")
    chosen = {"train": range(10), "validation": range(10, 15), "test": range(15, 20)}
    sampler = EpisodeSampler(
        store, {split: SplitClasses.of(np.array(each)) for split, each in chosen.items()}, episodes(**SIZES), CPU
    )
    by_name = {split: [names[at] for at in each] for split, each in chosen.items()}
    ordered = sorted(range(len(LABELS)), key=lambda at: (order[at], at))
    items = TensorDataset(IMAGES[ordered], torch.tensor(sorted(order)))
    found = opened(items, by_name, labels=[names[at] for at in sorted(order)])
    for split in SPLITS:
        assert torch.equal(flat(found.sample(split, [0, 3, 2**40])), flat(sampler.sample(split, [0, 3, 2**40])))


@pytest.mark.parametrize(
    ("source", "labels"),
    [
        (lambda: Birds(targets=LABELS.tolist()), None),
        (lambda: Birds(labels=torch.from_numpy(LABELS)), None),
        (Birds(), None),
        (Birds(lambda _, item: {"image": item[0], "label": torch.tensor(item[1])}), None),
        (Birds(lambda _, item: item[0]), LABELS),
        (Birds(), lambda birds: [birds[index][1] for index in range(len(birds))]),
    ],
)
def test_labels_are_found(source: Any, labels: Any) -> None:
    by_name = {"train": names_of(1, 2, 3, 4), "validation": names_of(5, 6, 7), "test": names_of(8, 9, 10)}
    batch = opened(source, by_name, labels).sample("train", range(30))
    (images,) = (value for name, value in batch.query.items() if name != "y")
    seen = {LABELS[(image == IMAGES).flatten(1).all(1).nonzero()[0, 0]] for image in images.flatten(0, 1)}
    assert seen == {1, 2, 3, 4}
    assert batch.query["y"].tolist() == [[0, 0, 0, 1, 1, 1, 2, 2, 2]] * 30


def test_inputs_by_name() -> None:
    two = Birds(lambda _, item: ({"left": item[0], "right": item[0].flatten()[:2].long()}, item[1]))
    made, options, _ = family(two)
    spec = made.spec(options)
    assert {name: (each.shape, each.dtype) for name, each in spec.inputs.items()} == {
        "left": ((1, 5, 4), "float32"),
        "right": ((2,), "int64"),
    }
    assert spec.outputs == 3


def test_a_data_set_is_opened_when_it_is_needed() -> None:
    def fail() -> Any:
        raise AssertionError

    made = from_dataset(fail, splits=HALVES)
    assert made.__module__ == __name__
    assert made.Options(kind="module:mine.birds").shots == 1


def test_contents_are_hashed() -> None:
    digests = set()
    for attributes in ({}, {"targets": (LABELS[::-1]).tolist()}, {"data": PIXELS}, {"data": PIXELS + 1}):
        made, options, _ = family(Birds(**attributes))
        again, _, _ = family(Birds(**attributes))
        assert made.contents(options) == again.contents(options)
        digests |= set(made.contents(options).values())
    assert len(digests) == 4


def test_faults_are_named() -> None:
    def broken(index: int, item: Any) -> Any:
        raise OSError("truncated")

    wrong: list[tuple[Any, dict[str, Any], str]] = [
        (iter([]), {}, "expected a map-style data set, with len.. and items by index, but it is a list_iterator"),
        (Birds(lambda _, item: item[0]), {}, "item 0 of the data set has no label"),
        (Birds(), {"labels": LABELS[:-1]}, "has 120 items and 119 labels"),
        (Birds(), {"labels": np.zeros((120, 2))}, r"labels of the data set are float64 of shape \(120, 2\)"),
        (Birds(targets=LABELS), {"splits": {**HALVES, "test": 0.5}}, "splits: .*expected 1"),
        (Birds(targets=LABELS), {"splits": {"column": "split"}}, "splits: a data set has no columns"),
        (
            Birds(targets=LABELS),
            {"splits": {"train": names_of(1, 2, 3), "validation": ["owl"], "test": names_of(5)}},
            "has no class 'owl'",
        ),
        (Birds(targets=LABELS), {"ways": 6}, r"evaluation.ways = 6.* the validation split has 5 classes"),
        (Birds(targets=np.minimum(np.arange(120), 30)), {}, r"the class '.*' of the .* split has 1 item"),
        (
            Birds(lambda _, item: (item[0].flatten()[: 5 + item[1]], item[1])),
            {},
            r"item \d+ of the data set has the sha",
        ),
        (
            Birds(lambda _, item: (Image.new("L", (5, 4)), item[1])),
            {},
            r"item \d+ of the data set is Image; .*transform",
        ),
        (Birds(broken, targets=LABELS), {}, r"item \d+ of the data set cannot be read: it raised OSError: truncated"),
        (Birds(lambda _, item: (item[0] / 0, item[1])), {}, r"item \d+ of the data set holds numbers that are not fin"),
    ]
    for source, arguments, message in wrong:
        with pytest.raises((DataError, ConfigError), match=message) as error:
            prepare(source, **arguments)
        assert "\n" not in str(error.value)


def test_a_class_opens_its_data_set() -> None:
    assert opened(Birds).sample("train", [0]).support["x"].shape == (1, 6, 1, 5, 4)


ONE_HOT = np.eye(CLASSES)[LABELS]


@pytest.mark.parametrize(
    ("source", "arguments", "message"),
    [
        (Birds(), {"labels": ONE_HOT}, r"shape \(120, 20\): .*labels=one_hot\.argmax\(1\)"),
        (Birds(targets=ONE_HOT), {}, r"shape \(120, 20\): .*labels=one_hot\.argmax\(1\)"),
        (
            Birds(lambda _, item: (item[0], torch.eye(CLASSES)[item[1]])),
            {},
            r"label of item 0 of the data set has the shape \(20,\).*labels=one_hot\.argmax\(1\)",
        ),
        (
            Birds(lambda _, item: (item[0], [0, 1, 0])),
            {},
            r"label of item 0 of the data set has the shape \(3,\): expected one whole number or name",
        ),
        ([], {}, "the data set has no items; expected some of each class"),
        (TensorDataset(torch.zeros(0, 2), torch.zeros(0)), {}, "the data set has no items"),
        (Birds(), {"labels": np.ma.masked_equal(LABELS, 3)}, "labels of the data set are masked, the first at 18"),
        (
            Birds(targets=LABELS),
            {"splits": {"train": ["bird 1"], "validation": ["owl"], "test": ["bird 2"]}},
            r"from_dataset: splits\.validation: the data set has no class 'owl'",
        ),
        (
            Birds(targets=LABELS % 2),
            {"splits": {"train": 0.9, "validation": 0.05, "test": 0.05}},
            r"from_dataset: splits\.\w+ = 0\.05 of the 2 classes",
        ),
        (Birds(targets=LABELS), {"ways": 6}, "such as by a larger fraction under from_dataset: splits"),
    ],
)
def test_faults_are_those_of_the_arguments(source: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((DataError, ConfigError), match=message) as error:
        prepare(source, **arguments)
    assert "tasks.splits" not in str(error.value)


def test_labels_of_one_number_in_an_array() -> None:
    items = Birds(lambda _, item: (item[0], np.array([item[1]])))
    assert opened(items).sample("train", [0]).support["y"].shape == (1, 6)


def test_random_transforms_are_refused() -> None:
    with pytest.raises(DataError, match=r"called twice, it gave two different tasks: it uses global random numbers"):
        prepare(Birds(lambda _, item: (item[0] + torch.rand(()), item[1])))
