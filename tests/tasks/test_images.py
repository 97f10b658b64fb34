"""The episode sampler, on small stores whose pixels say which image they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from task_helpers import flat

from distmeta.data.store import EpisodeStore, write_store
from distmeta.tasks import images as images_module
from distmeta.tasks.base import Episode
from distmeta.tasks.images import EpisodeSampler, SplitClasses, pixel_orders

CPU = torch.device("cpu")


def _store(tmp_path, shape=(6, 6), counts=(7, 4, 9, 5, 30)) -> EpisodeStore:
    """Random images; the number of images differs between classes."""
    names = [f"c{index}" for index, count in enumerate(counts) for _ in range(count)]
    pixels = np.random.default_rng(1).integers(0, 256, (len(names), *shape), dtype=np.uint8)
    write_store(tmp_path / "s.arrow", pixels, names, ["all"] * len(names))
    return EpisodeStore.open(tmp_path / "s.arrow")


def _sampler(store: EpisodeStore, turns=range(4), ways=4) -> EpisodeSampler:
    classes = SplitClasses.of(np.arange(len(store.classes)), turns)
    return EpisodeSampler(store, {"train": classes}, {"train": Episode(1, 3, 5, ways)}, CPU)


@pytest.mark.parametrize("shape", [(6, 6), (6, 6, 3)])
def test_orders_are_rot90(shape):
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    for turn, order in enumerate(pixel_orders(shape)):
        turned = np.rot90(image, turn).reshape(6, 6, -1).transpose(2, 0, 1)
        assert np.array_equal(image.reshape(-1)[order], turned)


@pytest.mark.parametrize("shape", [(6, 6), (6, 6, 3), (4, 6)])
def test_every_image_of_a_way_is_of_one_class_and_one_rotation(tmp_path, shape):
    store = _store(tmp_path, shape)
    turns = range(4) if shape[0] == shape[1] else (0,)
    batch = _sampler(store, turns).sample("train", range(30))
    named = {}
    for index in range(len(store.classes)):
        rows = store.images[store.first[index] : store.first[index] + store.counts[index]]
        for turn in turns:
            for row in rows:
                turned = np.rot90(row, turn).reshape(*shape[:2], -1).transpose(2, 0, 1)
                named[(torch.from_numpy(turned.copy()).float() / 255).numpy().tobytes()] = (index, turn)
    for task in range(30):
        ways = []
        for way in range(4):
            members = [batch.support["x"][task, way], *batch.query["x"][task, 3 * way : 3 * way + 3]]
            found = {named[member.numpy().tobytes()] for member in members}
            assert len(found) == 1
            assert len({member.numpy().tobytes() for member in members}) == 4
            ways += found
        assert len(set(ways)) == 4


def test_all_classes_rotations_and_images_come_up(tmp_path):
    store = _store(tmp_path)
    rows, turns = _sampler(store)._draw("train", range(500))
    assert set(rows.reshape(-1).tolist()) == set(range(len(store.images)))
    assert set(turns.reshape(-1).tolist()) == {0, 1, 2, 3}


def test_a_store_too_large_to_hold_gives_identical_tensors(tmp_path, monkeypatch):
    store = _store(tmp_path, (6, 6, 3))
    held = _sampler(store)
    monkeypatch.setattr(images_module, "HELD_BYTES", store.images.nbytes - 1)
    mapped = _sampler(store)
    assert held._held is not None
    assert mapped._held is None
    assert torch.equal(flat(held.sample("train", range(20))), flat(mapped.sample("train", range(20))))


def test_a_held_store_shares_the_mapped_pages_on_the_cpu(tmp_path):
    store = _store(tmp_path)
    held = _sampler(store)._held
    assert held is not None
    assert held.data_ptr() == store.images.ctypes.data
