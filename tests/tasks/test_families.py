"""What holds for every family of the table."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from task_helpers import NEEDED, episodes, flat

from distmeta.config.sections import ClusterOptions, EvaluationOptions, RunOptions
from distmeta.core.philox import Purpose, uniform, words
from distmeta.core.records import SPLITS
from distmeta.errors import ConfigError
from distmeta.objectives import OBJECTIVES
from distmeta.programs import PROGRAMS
from distmeta.tasks import TASKS, open_family, prepare_family, task_options
from distmeta.tasks.base import Episode

IDS = [0, 7, 2**40 + 3]


def test_the_table_says_what_a_family_is():
    for kind, family in TASKS.items():
        assert task_options({"kind": kind}) is family.Options
        options = family.Options(kind=kind, **NEEDED.get(kind, {}))
        assert options.objective in OBJECTIVES
        if family.spec(options).program == "supervised":
            assert family.spec(options).outputs == (getattr(options, "ways", None) or 1)
        assert family.spec(options).program in PROGRAMS
    with pytest.raises(ValueError, match=r"tasks.kind.*did you mean 'glyphs'"):
        task_options({"kind": "glyph"})


def test_shapes_and_types(open_any):
    family = open_any(shots=2, queries=3)
    batch = family.sample("train", IDS)
    assert batch.ids.dtype == torch.int64
    assert batch.ids.tolist() == IDS
    options = open_any.options
    classes = OBJECTIVES[options.objective].classes
    ways = 5 if classes else 1
    shape = family.spec(options).inputs.shape
    for data, examples in ((batch.support, 2), (batch.query, 3)):
        assert set(data) == {"x", "y"}
        assert data["x"].shape == (3, ways * examples, *shape)
        assert data["x"].dtype == torch.float32
        assert data["x"].is_contiguous()
        if classes:
            assert data["y"].dtype == torch.int64
            assert data["y"].tolist() == [[way for way in range(5) for _ in range(examples)]] * 3
        else:
            assert data["y"].shape == data["x"].shape
            assert data["y"].dtype == torch.float32


def test_a_task_is_its_id(open_any):
    family, again = open_any(), open_any()
    together = flat(family.sample("train", range(10, 18)))
    assert torch.equal(together, flat(again.sample("train", range(10, 18))))
    for position in (0, 5):
        alone = flat(family.sample("train", [10 + position]))
        assert torch.equal(alone[0], together[position])
    assert len(torch.unique(together, dim=0)) == 8


def test_splits_hold_different_tasks(open_any):
    family = open_any()
    rows = torch.cat([flat(family.sample(split, range(4))) for split in SPLITS])
    assert len(torch.unique(rows, dim=0)) == 12


def test_the_run_seed_changes_training_alone(open_any):
    one, two = open_any(seed=1), open_any(seed=2)
    assert not torch.equal(flat(one.sample("train", IDS)), flat(two.sample("train", IDS)))
    for split in ("validation", "test"):
        assert torch.equal(flat(one.sample(split, IDS)), flat(two.sample(split, IDS)))
    other = open_any(seed=1, held_out=3)
    assert torch.equal(flat(one.sample("train", IDS)), flat(other.sample("train", IDS)))
    for split in ("validation", "test"):
        assert not torch.equal(flat(one.sample(split, IDS)), flat(other.sample(split, IDS)))


@pytest.mark.parametrize(("kind", "ways"), [("sinusoid", None), ("glyphs", 20)])
def test_a_configured_family_has_the_episodes_of_its_sections(kind, ways):
    sizes = {"shots": 3, "queries": 2, **({"ways": ways} if ways else {})}
    evaluation = EvaluationOptions(**{**sizes, "shots": 1}, seed=8)
    config = SimpleNamespace(
        tasks=task_options({"kind": kind})(kind=kind, **sizes),
        seed=4,
        evaluation=evaluation,
        cluster=ClusterOptions(),
        run=RunOptions(),
    )
    prepare_family(config)
    family = open_family(config, torch.device("cpu"))
    by_hand = {"train": Episode(3, 2, 4, ways), "test": Episode(1, 2, 8, ways)}
    expected = TASKS[kind](config.tasks, by_hand, torch.device("cpu"))
    for split in by_hand:
        assert torch.equal(flat(family.sample(split, IDS)), flat(expected.sample(split, IDS)))


def test_support_and_query_share_no_image(open_images):
    batch = open_images(shots=5, queries=15).sample("train", range(4))
    for task in range(4):
        images = torch.cat([batch.support["x"][task], batch.query["x"][task]]).flatten(1)
        assert len(torch.unique(images, dim=0)) == 100


def test_images_are_sparse_strokes_on_black(open_images):
    x = open_images().sample("train", range(50)).query["x"]
    assert x.min() == 0
    assert x.max() == 1
    assert 0.04 < x.mean() < 0.2
    assert (x > 0.5).float().mean() < 0.25
    border = torch.cat([x[..., 0, :], x[..., -1, :], x[..., :, 0], x[..., :, -1]], -1)
    assert border.mean() < x.mean() / 3


def test_nearest_neighbours_in_pixels_know_something_but_not_all(open_images):
    batch = open_images().sample("test", range(100))
    distance = torch.cdist(batch.query["x"].flatten(2), batch.support["x"].flatten(2))
    accuracy = (distance.argmin(-1) == batch.query["y"]).float().mean()
    assert 0.35 < accuracy < 0.85


def test_too_many_ways_or_images_are_refused(open_images):
    with pytest.raises(ConfigError, match=r"tasks\.ways = 5000: the train split has [\d,]+ classes"):
        open_images(ways=5000)
    with pytest.raises(ConfigError, match=r"tasks\.shots \+ tasks\.queries = 6 \+ 15 = 21: .* has 20 images"):
        open_images(shots=6)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_held_out_episodes_name_their_own_section(split):
    sizes = {**episodes(), split: episodes(ways=201)[split]}
    with pytest.raises(ConfigError, match=rf"evaluation\.ways = 201 .* the {split} split has 200 classes"):
        TASKS["glyphs"].prepare(TASKS["glyphs"].Options(kind="glyphs"), sizes)


def test_sinusoid_values_recomputed_by_hand():
    family = TASKS["sinusoid"](
        TASKS["sinusoid"].Options(kind="sinusoid"), episodes(None, 4, 6, seed=9), torch.device("cpu")
    )
    batch = family.sample("train", IDS)
    for position, task in enumerate(IDS):
        first, second = uniform(words(9, "train", [task], Purpose.PARAMETERS, 2))[0]
        amplitude, phase = 0.1 + 4.9 * first, math.pi * second
        inputs = -5 + 10 * uniform(words(9, "train", [task], Purpose.INPUTS, 10))[0]
        x = torch.cat([batch.support["x"], batch.query["x"]], 1)[position, :, 0].numpy()
        y = torch.cat([batch.support["y"], batch.query["y"]], 1)[position, :, 0].numpy()
        np.testing.assert_allclose(x, inputs, rtol=1e-6)
        np.testing.assert_allclose(y, amplitude * np.sin(inputs - phase), rtol=1e-5, atol=1e-6)


def test_sinusoids_fill_their_ranges():
    family = TASKS["sinusoid"](TASKS["sinusoid"].Options(kind="sinusoid"), episodes(None, 100, 1), torch.device("cpu"))
    batch = family.sample("train", range(2000))
    x, y = batch.support["x"], batch.support["y"]
    assert -5 <= x.min() < -4.99
    assert 4.99 < x.max() <= 5
    tops = y.abs().amax((1, 2))
    assert tops.max() <= 5
    assert tops.max() > 4.95
    assert tops.min() < 0.15
    assert 2.4 < tops.mean() < 2.7
