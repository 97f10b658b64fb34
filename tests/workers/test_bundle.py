"""What another host gets of the driver's: each file once, checked by its hash."""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from image_files import class_folders
from users_parts import own_parts_settings

from distmeta import load_config
from distmeta.data.images import build as build_module
from distmeta.data.store import EpisodeStore
from distmeta.errors import ChangedError, DataError
from distmeta.storage.cache import cache_dir
from distmeta.tasks import open_family
from distmeta.workers import bundle as bundles
from distmeta.workers.bundle import Bundle, Content, check_code, pack, unpack, values_of
from distmeta.workers.ray.worker import FileServer

STORE = "omniglot-28.arrow"
BASE = {"tasks": {"kind": "omniglot", "root": "/nowhere"}, "model": {"kind": "conv4"}, "algorithm": {"name": "maml"}}


@pytest.fixture(autouse=True)
def _other_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTMETA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(bundles, "CHUNK", 1000)


class Driver:
    """Holds a file and counts what is read of it."""

    def __init__(self, folder: Path) -> None:
        self.data = bytes(range(256)) * 20
        path = folder / "store"
        path.write_bytes(self.data)
        content = Content(path, len(self.data), hashlib.sha256(self.data).hexdigest())
        self.bundle = Bundle({STORE: content})
        self.reads = 0

    def read(self, name: str, offset: int, length: int) -> bytes:
        self.reads += 1
        return self.data[offset : offset + length]


def test_a_file_arrives_once(tmp_path: Path) -> None:
    driver = Driver(tmp_path)
    config = load_config(BASE)
    first = unpack(driver.bundle, values_of(config), driver.read)
    assert driver.reads == 6
    root = Path(getattr(first.tasks, "root", ""))
    assert (root / STORE).read_bytes() == driver.data
    assert root.is_relative_to(cache_dir())
    assert unpack(driver.bundle, values_of(config), driver.read) == first
    assert driver.reads == 6
    assert config.tasks.model_dump()["root"] == "/nowhere"


def test_a_file_that_arrives_otherwise_is_refused_and_not_kept(tmp_path: Path) -> None:
    driver = Driver(tmp_path)
    whole = driver.data
    driver.data = whole[:-1] + b"?"
    with pytest.raises(DataError, match=r"omniglot-28.arrow did not arrive as it is on the driver's host"):
        unpack(driver.bundle, values_of(load_config(BASE)), driver.read)
    driver.data = whole
    moved = unpack(driver.bundle, values_of(load_config(BASE)), driver.read)
    assert Path(getattr(moved.tasks, "root", ""), STORE).read_bytes() == whole


def test_a_users_module_comes_with_what_it_imports_from_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bundle_parts").mkdir()
    (tmp_path / "bundle_parts" / "__init__.py").write_text("")
    (tmp_path / "bundle_parts" / "heads.py").write_text("from torch import nn\nHead = nn.Linear\n")
    (tmp_path / "bundle_model.py").write_text(
        "from bundle_parts.heads import Head\ndef make(outputs): return Head(1, outputs)\n"
    )
    (tmp_path / "unrelated.py").write_text("raise SystemExit\n")
    monkeypatch.chdir(tmp_path)
    config = load_config({"tasks": {"kind": "sinusoid"}, "algorithm": {"name": "maml"}}, MODULE)
    sent = pack(config)
    assert sorted(sent.modules) == ["bundle_model.py", "bundle_parts/__init__.py", "bundle_parts/heads.py"]
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert unpack(sent, values_of(config), lambda *_: b"") == config
    assert Path(sys.path[0]).is_relative_to(cache_dir())
    assert (Path(sys.path[0]) / "bundle_parts" / "heads.py").read_text().endswith("Head = nn.Linear\n")


MODULE = ["model={kind: 'module:bundle_model.make'}"]


def test_workers_that_read_the_users_code_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are opened only where it is as the run began; files that came beside it do not matter."""
    (tmp_path / "bundled_net.py").write_text("from bundled_size import size\n\ndef make():\n    pass\n")
    (tmp_path / "bundled_size.py").write_text("size = 3\n")
    monkeypatch.chdir(tmp_path)
    config = load_config({**BASE, "model": {"kind": "module:bundled_net.make"}})
    bundle = pack(config, elsewhere=False)
    assert sorted(bundle.code) == ["bundled_net.py", "bundled_size.py"]
    assert not bundle.modules
    (tmp_path / "bundled_other.py").write_text("")
    check_code(bundle, values_of(config))
    (tmp_path / "bundled_size.py").write_text("size = 4\n")
    with pytest.raises(ChangedError, match=r"^bundled_size.py changed after the run began"):
        check_code(bundle, values_of(config))
    (tmp_path / "bundled_size.py").unlink()
    with pytest.raises(ChangedError, match=r"^bundled_size.py changed after the run began"):
        check_code(bundle, values_of(config))
    check_code(pack(load_config(BASE), elsewhere=False), load_config(BASE))


def test_parts_of_the_users_own_come_before_the_configuration_that_names_them(tmp_path: Path) -> None:
    """A host that has none of them; its process is another one, in a folder of its own."""
    config = load_config(own_parts_settings())
    sent = tmp_path / "sent.pickle"
    sent.write_bytes(pickle.dumps((pack(config), values_of(config))))
    program = (
        "import pickle, sys\n"
        "from distmeta.workers.bundle import unpack\n"
        "bundle, values = pickle.loads(open(sys.argv[1], 'rb').read())\n"
        "config = unpack(bundle, values, None)\n"
        "print(type(config.tasks).__name__, type(config.outer).__name__, config.outer.rate, config.algorithm.share)\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", program, str(sent)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["TokenOptions", "SignOptions", "0.02", "0.25"]


def test_a_store_of_several_pieces_and_many_lists_arrives_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over the file server's own read, in pieces; the tasks there are the tasks here."""
    monkeypatch.setattr(build_module, "WHOLE", 0)
    monkeypatch.setattr(build_module, "PIECE", 10_000)
    folders = class_folders(tmp_path / "data", {f"c{number}": 4 for number in range(9)})
    splits = {}
    for at, split in enumerate(("train", "validation", "test")):
        splits[split] = str(tmp_path / f"{split}.txt")
        Path(splits[split]).write_text("".join(f"c{number}\n" for number in range(3 * at, 3 * at + 3)))
    tasks = {"kind": "images", "root": str(folders), "size": 20, "splits": splits, "ways": 3, "queries": 3}
    config = load_config({**BASE, "tasks": tasks, "model": {"kind": "conv4", "downsample": "pool"}})
    bundle = pack(config)
    assert sorted(bundle.files) == ["images.arrow", "split-test.txt", "split-train.txt", "split-validation.txt"]
    server = FileServer.__ray_metadata__.modified_class(bundle)
    monkeypatch.setenv("DISTMETA_CACHE", str(tmp_path / "elsewhere"))
    moved = unpack(bundle, values_of(config), server.read)
    for path in splits.values():
        Path(path).unlink()
    shutil.rmtree(folders)
    store = EpisodeStore.open(Path(moved.tasks.model_dump()["root"]))
    assert len(store.pieces) > 1
    store.verify()
    assert Path(moved.tasks.model_dump()["root"]).is_relative_to(tmp_path / "elsewhere")
    monkeypatch.setenv("DISTMETA_CACHE", str(tmp_path / "none"))
    batch = open_family(moved, torch.device("cpu")).sample("train", range(5))
    assert set(store.groups) == {""}
    assert batch.support["x"].shape == (5, 3, 3, 20, 20)
