from __future__ import annotations

import numpy as np

from distmeta.data.store import EpisodeStore
from distmeta.storage.cache import cache_dir
from distmeta.tasks.glyphs import Glyphs
from distmeta.tasks.strokes import draw


def _store() -> tuple[EpisodeStore, dict[str, np.ndarray]]:
    store, splits = Glyphs._open(Glyphs.Options(kind="glyphs"))
    return store, {split: classes.characters for split, classes in splits.items()}


def test_the_data_set():
    store, splits = _store()
    assert store.path.parent == cache_dir()
    assert {split: len(classes) for split, classes in splits.items()} == {
        "train": 1000,
        "validation": 200,
        "test": 200,
    }
    assert len(set(np.concatenate(list(splits.values())).tolist())) == 1400
    assert (store.counts == 20).all()
    assert len(np.unique(store.images.reshape(len(store.images), -1), axis=0)) == len(store.images)
    # A promise: the data set is fixed, and a change of the generator needs a new version.
    assert store.content_hash.startswith("8c7d74c145da72aa")


def test_drawings_do_not_depend_on_what_is_drawn_beside_them():
    together = draw([3, 900, 1399], 4)
    assert together.shape == (3, 4, 28, 28)
    assert np.array_equal(draw([900], 2)[0], together[1, :2])
    store, _ = _store()
    assert np.array_equal(store.images[900 * 20 : 900 * 20 + 4], together[1])
