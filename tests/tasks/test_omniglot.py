"""Omniglot, on the real archives and on damaged copies of them."""

from __future__ import annotations

import functools
import hashlib
import http.server
import io
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem
from task_helpers import ARCHIVES, episodes, flat

from distmeta.core.secrets import mask
from distmeta.data import omniglot_source
from distmeta.data.images.fetch import open_store
from distmeta.data.images.files import DataPlace
from distmeta.data.omniglot_build import build_omniglot, open_omniglot
from distmeta.data.omniglot_source import STORE, Folder, fingerprint
from distmeta.data.store import EpisodeStore
from distmeta.errors import DataError
from distmeta.storage.files import Storage
from distmeta.tasks.omniglot import SHUFFLED, Omniglot, by_alphabets, by_characters

CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def store(omniglot, distmeta_cache) -> EpisodeStore:
    return open_omniglot(str(omniglot))


@pytest.fixture
def own_cache(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "own-cache"
    monkeypatch.setenv("DISTMETA_CACHE", str(folder))
    monkeypatch.delenv("DISTMETA_DATA", raising=False)
    return folder


def _built(folder: Path) -> list[str]:
    return [file.name for file in folder.rglob("*") if file.is_file() and file.suffix != ".lock"]


def _open(root: Path | str | None = None, **settings):
    options = Omniglot.Options(kind="omniglot", root=None if root is None else str(root), **settings)
    return Omniglot(options, episodes(), CPU)


def test_the_store_is_complete_and_cached(store, omniglot, distmeta_cache):
    assert store.path.parent == distmeta_cache
    assert len(store.classes) == 1623
    assert (store.counts == 20).all()
    assert list(store.classes) == sorted(store.classes)
    assert len({group for group in store.groups if group.startswith("background/")}) == 30
    assert len({group for group in store.groups if group.startswith("evaluation/")}) == 20
    assert store.classes[0] == "Alphabet_of_the_Magi/character01"
    assert store.groups[0] == "background/Alphabet_of_the_Magi"
    assert {file.name for file in omniglot.iterdir()} & {"omniglot-28.arrow"} == set()
    store.verify()


def test_an_image_is_the_archive_s_own(store, omniglot):
    with zipfile.ZipFile(omniglot / ARCHIVES[0]) as archive:
        names = sorted(name for name in archive.namelist() if "/Greek/character07/" in name and name.endswith("png"))
        original = np.asarray(Image.open(io.BytesIO(archive.read(names[2]))))
    index = store.classes.index("Greek/character07")
    small = store.images[store.first[index] + 2]
    # Strokes are where the original's dark pixels are.
    ink = torch.from_numpy(~original).float()[None, None]
    coarse = torch.nn.functional.interpolate(ink, size=(28, 28), mode="area")[0, 0].numpy()
    assert np.corrcoef(coarse.reshape(-1), small.reshape(-1))[0, 1] > 0.95


def test_the_vinyals_split(store):
    split = by_characters(store, *SHUFFLED["vinyals"])
    assert {name: len(classes) for name, classes in split.items()} == {
        "train": 1100,
        "validation": 100,
        "test": 423,
    }
    assert len(set(np.concatenate(list(split.values())).tolist())) == 1623
    parts = {store.groups[index].split("/")[0] for index in split["train"]}
    assert parts == {"background", "evaluation"}
    # A promise: the split is fixed.
    digest = hashlib.sha256(" ".join(store.classes[index] for index in split["test"]).encode()).hexdigest()
    assert digest.startswith("77b5d1cb3d6528b2")


def test_the_khodadadeh_split(store):
    split, other = (by_characters(store, *SHUFFLED[name]) for name in ("khodadadeh", "vinyals"))
    assert {name: len(classes) for name, classes in split.items()} == {"train": 1200, "validation": 100, "test": 323}
    assert len(set(np.concatenate(list(split.values())).tolist())) == 1623
    assert set(other["train"]) < set(split["train"])
    assert set(split["test"]) < set(other["test"])


def test_the_alphabets_split(store):
    split = by_alphabets(store)
    names = {name: {store.groups[index] for index in classes} for name, classes in split.items()}
    assert {name: len(groups) for name, groups in names.items()} == {"train": 25, "validation": 5, "test": 20}
    assert len(set().union(*names.values())) == 50
    assert {name: len(classes) for name, classes in split.items()} == {
        "train": 796,
        "validation": 168,
        "test": 659,
    }
    assert all(group.startswith("evaluation/") for group in names["test"])
    for group in names["validation"]:
        assert group.removeprefix("background/") in Omniglot.__doc__


@pytest.mark.parametrize("split", ["vinyals", "khodadadeh", "alphabets"])
@pytest.mark.parametrize("rotations", [True, False])
def test_no_character_and_no_image_is_in_two_splits(omniglot, split, rotations):
    options = Omniglot.Options(kind="omniglot", root=str(omniglot), split=split, rotations=rotations)
    store, splits = Omniglot._open(options)
    seen: dict[str, set[int]] = {name: set(classes.characters.tolist()) for name, classes in splits.items()}
    assert sum(map(len, seen.values())) == len(set().union(*seen.values())) == 1623
    for name, classes in splits.items():
        assert len(classes) == len(seen[name]) * (4 if rotations else 1)
        assert len(set(zip(classes.characters.tolist(), classes.rotations.tolist(), strict=True))) == len(classes)
    contents = {
        name: {
            row.tobytes() for index in characters for row in store.images[store.first[index] : store.first[index] + 20]
        }
        for name, characters in seen.items()
    }
    total = len(set().union(*contents.values()))
    assert total == sum(map(len, contents.values()))


def test_rotations_are_drawn_only_where_asked_for(omniglot):
    upright = Omniglot(Omniglot.Options(kind="omniglot", root=str(omniglot), rotations=False), episodes(), CPU)
    store = open_omniglot(str(omniglot))
    originals = {row.tobytes() for row in store.images}

    def share(family) -> float:
        x = family.sample("train", range(20)).query["x"].flatten(0, 1)
        rows = (x * 255).round().to(torch.uint8)[:, 0].numpy()
        return float(np.mean([row.tobytes() in originals for row in rows]))

    assert share(upright) == 1
    assert 0.1 < share(_open(omniglot)) < 0.45


@pytest.mark.slow  # the same store as the session's, built once more; an interrupted build comes as far as its progress
def test_building_for_later_use(omniglot, tmp_path, own_cache, store):
    seen: list[tuple[int, int]] = []
    path = build_omniglot(omniglot, tmp_path / "out", lambda done, total: seen.append((done, total)))
    assert path == tmp_path / "out" / "omniglot-28.arrow"
    assert seen[0] == (20, 32460)
    assert seen[-1] == (32460, 32460)
    assert EpisodeStore.open(path).content_hash == store.content_hash
    family = _open(tmp_path / "out")
    assert not own_cache.exists()
    assert family.sample("train", [0]).support["x"].shape == (1, 5, 1, 28, 28)


@pytest.fixture
def built(store, tmp_path) -> Path:
    """A folder of built data with the store in its subfolder ``omniglot``."""
    (tmp_path / "data" / "omniglot").mkdir(parents=True)
    (tmp_path / "data" / "omniglot" / "omniglot-28.arrow").write_bytes(store.path.read_bytes())
    return tmp_path / "data"


def test_where_data_is_looked_for(built, store, own_cache, monkeypatch):
    expected = flat(_open(built).sample("test", range(3)))
    assert torch.equal(flat(_open(built / "omniglot").sample("test", range(3))), expected)
    assert torch.equal(flat(_open(built.as_uri()).sample("test", range(3))), expected)
    monkeypatch.setenv("DISTMETA_DATA", str(built))
    assert torch.equal(flat(_open().sample("test", range(3))), expected)
    Omniglot.prepare(Omniglot.Options(kind="omniglot"), episodes())
    assert not own_cache.exists()


def test_a_store_on_another_machine_is_fetched_once(built, store, own_cache):
    elsewhere = SubTreeFileSystem(str(built), LocalFileSystem())
    folder = Folder(DataPlace("far://data/omniglot", elsewhere, "omniglot", "folder"), frozenset(["omniglot-28.arrow"]))
    place = folder.place.child(STORE)
    path = open_store(place).path
    assert path.parent == own_cache
    assert EpisodeStore.open(path).content_hash == store.content_hash
    changed = path.stat().st_mtime_ns
    assert open_store(place).path == path
    assert path.stat().st_mtime_ns == changed
    content = (built / "omniglot" / "omniglot-28.arrow").read_bytes()
    (built / "omniglot" / "omniglot-28.arrow").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"far://data/omniglot/omniglot-28\.arrow is damaged or incomplete"):
        open_store(place)
    assert _built(own_cache) == [path.name]


def test_a_root_without_data_is_an_error_and_no_fallback(tmp_path, own_cache, omniglot, monkeypatch):
    monkeypatch.setenv("DISTMETA_DATA", str(omniglot))
    for root in (tmp_path, tmp_path / "none"):
        with pytest.raises(DataError, match=r"holds no Omniglot: expected images_background\.zip and"):
            _open(root)
    with pytest.raises(DataError, match=r"cannot open nosuch://bucket/data.*expected a folder or a URI"):
        _open("nosuch://bucket/data")
    assert not own_cache.exists()


def test_a_store_of_something_else_is_refused(tmp_path, store, own_cache):
    from distmeta.data.store import write_store

    write_store(tmp_path / "omniglot-28.arrow", store.images[:40], ["a"] * 20 + ["b"] * 20, ["x"] * 40)
    with pytest.raises(DataError, match=r"not the complete Omniglot: expected 1,623 characters"):
        _open(tmp_path)


def _rewrite(source: Path, target: Path, drop: tuple[str, ...] = (), **replaced: bytes) -> None:
    """A copy of an archive without some members or with others' content."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for member in old.infolist():
            if not any(name in member.filename for name in drop):
                new.writestr(member, replaced.get(member.filename) or old.read(member))


def _corrupt(target: Path, character: str) -> None:
    """Flip a byte in the data of one member, which its CRC then does not match."""
    with zipfile.ZipFile(target) as archive:
        member = next(m for m in archive.infolist() if character in m.filename and m.filename.endswith("png"))
        start = member.header_offset + 30 + len(member.filename) + member.compress_size // 2
    content = bytearray(target.read_bytes())
    content[start] ^= 255
    target.write_bytes(content)


FIRST = "images_background/Alphabet_of_the_Magi/character01/0709_01.png"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("missing", r"images_evaluation\.zip is missing in .*set tasks\.root or DISTMETA_DATA"),
        ("truncated", r"images_background\.zip is damaged or truncated"),
        ("no zip", r"images_background\.zip is damaged or truncated"),
        ("crc", r"images_background\.zip is damaged: .*character01.* cannot be read \("),
        ("incomplete", r"images_background\.zip is incomplete: 21 of 19,280 images are missing"),
        ("wrong size", r"0709_01\.png' is 28 x 28 pixels instead of 105 x 105"),
    ],
)
def test_bad_archives_are_named_and_nothing_is_left(omniglot, tmp_path, own_cache, damage, message):
    root = tmp_path / "root"
    root.mkdir()
    good, bad = omniglot / ARCHIVES[0], root / ARCHIVES[0]
    if damage != "missing":
        (root / ARCHIVES[1]).symlink_to(omniglot / ARCHIVES[1])
    if damage == "missing":
        bad.symlink_to(good)
    elif damage == "truncated":
        bad.write_bytes(good.read_bytes()[:4_000_000])
    elif damage == "no zip":
        bad.write_bytes(b"<html>404</html>")
    elif damage == "crc":
        bad.write_bytes(good.read_bytes())
        _corrupt(bad, "Alphabet_of_the_Magi/character01/")
    elif damage == "incomplete":
        _rewrite(good, bad, drop=("Alphabet_of_the_Magi/character01/", "Greek/character07/0400_01"))
    elif damage == "wrong size":
        small = io.BytesIO()
        Image.new("1", (28, 28)).save(small, "PNG")
        _rewrite(good, bad, **{FIRST: small.getvalue()})
    before = sorted(file.name for file in root.iterdir())
    with pytest.raises(DataError, match=message):
        _open(root)
    with pytest.raises(DataError, match=message):
        build_omniglot(root, tmp_path / "out")
    assert _built(own_cache) == []
    assert _built(tmp_path / "out") == []
    assert sorted(file.name for file in root.iterdir()) == before


def test_an_interrupted_build_leaves_nothing(omniglot, tmp_path):
    seen: list[tuple[int, int]] = []

    def stop(done: int, total: int) -> None:
        seen.append((done, total))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_omniglot(omniglot, tmp_path / "out", stop)
    assert seen == [(20, 32460)]
    assert _built(tmp_path / "out") == []


@pytest.fixture
def site(tmp_path, omniglot, own_cache, monkeypatch):
    """A server on this machine in the official one's place, with the real archives."""
    folder = tmp_path / "site"
    folder.mkdir()
    for name in ARCHIVES:
        (folder / name).symlink_to(omniglot / name)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setattr(omniglot_source, "OFFICIAL", f"http://127.0.0.1:{server.server_port}/")
    yield folder
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_official_archives_are_downloaded_once(site, omniglot, own_cache, monkeypatch):
    for name in ARCHIVES:
        content = (omniglot / name).read_bytes()
        monkeypatch.setitem(omniglot_source.MD5, name, hashlib.md5(content).hexdigest())
    folder = omniglot_source.find_anywhere(None)
    assert set(_built(own_cache)) == set(ARCHIVES)
    given = omniglot_source.find_given(str(omniglot))
    assert fingerprint(folder) == fingerprint(given)
    for name in ARCHIVES:
        (site / name).unlink()
    assert omniglot_source.find_anywhere(None) == folder


def test_a_download_with_another_sum_is_refused(site, own_cache):
    with pytest.raises(DataError, match=r"not the official images_background\.zip \(MD5 differs\)"):
        _open()
    assert _built(own_cache) == []


def test_a_failed_download_says_what_was_tried(site, own_cache, tmp_path, monkeypatch):
    (site / ARCHIVES[0]).unlink()
    pattern = r"cannot find Omniglot; tried tasks.root \(not set\), DISTMETA_DATA \(not set\) and http://127"
    with pytest.raises(DataError, match=pattern):
        _open()
    monkeypatch.setattr(omniglot_source, "OFFICIAL", "http://127.0.0.1:9/")
    monkeypatch.setenv("DISTMETA_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"tmp.* holds no Omniglot\).*refused.*set tasks\.root or DISTMETA_DATA"):
        _open()
    assert _built(own_cache) == []


def test_a_masked_uri_is_opened_by_the_environment(
    bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As a run's configuration names its data after the run, and with the same advice as for a run's directory."""
    Storage.at(bucket.format("/data")).write_bytes(STORE, b"")
    masked = mask(bucket.format("/data"))
    assert "secret" not in masked
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(DataError, match=r"its secret was left out .*set AWS_ACCESS_KEY_ID .*tasks\.root=URI"):
        omniglot_source.find_given(masked)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    assert omniglot_source.find_given(masked).files == {STORE}
