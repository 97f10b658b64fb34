"""A resumed run notices that its data, code or frozen weights are others, and says which; moved data is the same."""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from integration_helpers import (
    assert_same,
    configure,
    flip_a_byte,
    invoke,
    parameters,
    train,
    train_until,
    write_config,
)
from trust_helpers import NET, OWN_SMALL, SMALL, forget, manifest, new_process, write_own

import distmeta
from distmeta.data.omniglot_build import ALPHABETS, CHARACTERS, DRAWINGS, IMAGE_SIZE
from distmeta.data.store import write_store
from distmeta.errors import ChangedError, ConfigError, DataError
from distmeta.runs import checkpoint
from distmeta.runs.identity import changes, identify
from distmeta.storage.files import Storage

FROZEN = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, outputs, shift=0.0):
        super().__init__()
        self.body = nn.Linear(1, 3).requires_grad_(False)
        self.head = nn.Linear(3, outputs)
        self.register_buffer("mask", torch.ones(3))
        self.register_buffer("scale", torch.full((3,), 1.0), persistent=False)

    def forward(self, x):
        return self.head(torch.tanh(self.body(x)) * self.mask * self.scale)
"""


@pytest.fixture(name="work")
def _work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    write_own(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    with new_process():
        yield tmp_path


def begin(run: Path, base: dict[str, Any], *overrides: str) -> None:
    """The first half of a run, by a process that then ends."""
    train_until(2, run, base, *overrides)
    forget()


def test_code(work: Path) -> None:
    """Each file by its name: changed, gone, new; what is refused changes nothing, what is accepted is recorded."""
    begin(work / "run", OWN_SMALL)
    assert sorted(manifest(work / "run")["identity"]["code"]) == ["own_helper.py", "own_net.py"]
    (work / "own_net.py").write_text("import own_more\n" + NET.replace("own_helper", "own_helped"))
    (work / "own_helper.py").rename(work / "own_helped.py")
    (work / "own_more.py").write_text("")
    file = write_config(work, OWN_SMALL)
    before = {path: path.read_bytes() for path in (work / "run").rglob("*") if path.is_file()}
    invoke("train", file, "--run-dir", work / "run", "--resume").refused(
        "has changed since step 2",
        "code: own_helper.py is gone",
        "code: own_net.py has changed",
        "code: own_more.py is new",
        "code: own_helped.py is new",
        "--accept-changes",
    )
    assert {path: path.read_bytes() for path in before} == before
    forget()
    done = invoke("train", file, "--run-dir", work / "run", "--resume", "--accept-changes").succeeded()
    assert "accepted at step 2: code: own_net.py has changed" in done.err
    identity = manifest(work / "run")["identity"]
    assert sorted(identity["code"]) == ["own_helped.py", "own_more.py", "own_net.py"]
    assert [each["step"] for each in identity["accepted"]] == [2]
    assert "code: own_net.py has changed" in identity["accepted"][0]["changes"]
    assert '{"step": 2, "accepted_changes": ["code: ' in (work / "run" / "metrics.jsonl").read_text()
    train(work / "run", OWN_SMALL, "run.steps=5", resume=True)  # from now on it is this code's run
    assert manifest(work / "run")["identity"]["accepted"] == identity["accepted"]


def test_what_is_no_change(work: Path) -> None:
    """Other files, what this process has loaded besides, another folder, and a touched file."""
    begin(work / "run", OWN_SMALL)
    (work / "own_other.py").write_text("")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(work)
        __import__("own_other")
    (work / "own_net.py").touch()
    train(work / "run", OWN_SMALL, "run.steps=3", resume=True)
    forget()
    moved = work / "moved"
    moved.mkdir()
    for name in ("own_net.py", "own_helper.py", "run"):
        shutil.move(work / name, moved)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(moved)
        train(moved / "run", OWN_SMALL, resume=True)
    forget()
    write_own(work)
    train(work / "whole", OWN_SMALL)
    assert_same(parameters(moved / "run", 4), parameters(work / "whole", 4))


def test_imports_within_forward(work: Path) -> None:
    """Of a file beside the network's, which is not on the path of an installed command; a script's own do not count."""
    (work / "own_late.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Linear):\n"
        "    def __init__(self, outputs):\n"
        "        super().__init__(1, outputs)\n"
        "    def forward(self, x):\n"
        "        from own_act import act\n"
        "        return act(super().forward(x))\n"
    )
    (work / "own_act.py").write_text("from torch import tanh as act\n")
    (work / "own_other.py").write_text("")
    train(work / "run", {**SMALL, "model": {"kind": "module:own_late.Net"}})
    assert str(work) not in sys.path
    assert sorted(manifest(work / "run")["identity"]["code"]) == ["own_act.py", "own_late.py"]
    with pytest.raises(ModuleNotFoundError):
        __import__("own_other")


def test_frozen_weights(work: Path) -> None:
    (work / "own_frozen.py").write_text(FROZEN)
    (work / "weights.txt").write_text("1.0")
    base = {**SMALL, "model": {"kind": "module:own_frozen.Net"}}
    begin(work / "run", base)
    assert sorted(manifest(work / "run")["identity"]["frozen"]) == ["body.bias", "body.weight", "mask", "scale"]
    # As if they were read from a file that is another one now.
    (work / "own_frozen.py").write_text(FROZEN.replace("torch.full((3,), 1.0)", "torch.full((3,), 2.0)"))
    with pytest.raises(ChangedError, match="frozen weights: scale has changed") as refused:
        train(work / "run", base, resume=True)
    assert "body" not in str(refused.value)


@pytest.fixture(name="images", scope="module")
def _images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store as large as Omniglot's, of noise."""
    folder = tmp_path_factory.mktemp("images")
    write_images(folder, 0)
    return folder


def write_images(folder: Path, seed: int) -> None:
    names, groups = [], []
    for part, characters in CHARACTERS.items():
        for number in range(characters):
            names += [f"{part}-{number:04d}"] * DRAWINGS
            groups += [f"{part}/{number % ALPHABETS[part]}"] * DRAWINGS
    pixels = np.random.default_rng(seed).integers(0, 256, (len(names), IMAGE_SIZE, IMAGE_SIZE), np.uint8)
    write_store(folder / "omniglot-28.arrow", pixels, names, groups)


def on_images(folder: Path) -> dict[str, Any]:
    tasks = {"kind": "omniglot", "root": str(folder), "ways": 2, "shots": 1, "queries": 1}
    model = {"kind": "mlp", "hidden": [4]}
    return {**SMALL, "tasks": tasks, "model": model, "engine": {"compile": "none"}}


def test_data(images: Path, tmp_path: Path) -> None:
    """Moved it is the same, to the bit; another content is refused, wherever it lies; a damaged one too."""
    run, here, there = tmp_path / "run", tmp_path / "here", tmp_path / "there"
    shutil.copytree(images, here)
    begin(run, on_images(here))
    shutil.copytree(run, tmp_path / "other")
    here.rename(there)
    train(run, on_images(there), resume=True)
    train(tmp_path / "whole", on_images(there))
    assert_same(parameters(run, 4), parameters(tmp_path / "whole", 4))
    assert "accepted" not in manifest(run)["identity"]

    write_images(there, 1)
    for folder in (here, there):
        with pytest.raises(ChangedError, match="has changed since step 2:\n  data: omniglot has changed"):
            train(tmp_path / "other", on_images(there), resume=True)
        if folder == here:
            shutil.copytree(there, here)
    list(distmeta.train(configure(on_images(there)), tmp_path / "other", resume=True, accept_changes=True))
    assert manifest(tmp_path / "other")["identity"]["accepted"] == [
        {"step": 2, "changes": ["data: omniglot has changed"]}
    ]
    flip_a_byte(there / "omniglot-28.arrow")
    with pytest.raises(DataError, match=r"omniglot-28.arrow is damaged"):
        train(tmp_path / "other", on_images(there), "run.steps=5", resume=True)


def test_checkpoints_of_older_versions(work: Path, images: Path, caplog: pytest.LogCaptureFixture) -> None:
    """They are resumed as before, which is said; but nobody can know that moved data is the same."""
    begin(work / "run", OWN_SMALL)
    begin(work / "images", on_images(images))
    for run in (work / "run", work / "images"):
        storage = Storage.at(run)
        for step in checkpoint.steps(storage):
            found = checkpoint.load(storage.child("checkpoints", f"step-{step:08d}"))
            checkpoint.save(storage, replace(found, identity={}))
    (work / "own_net.py").write_text(NET.replace("Tanh", "ReLU"))
    with caplog.at_level(logging.INFO, "distmeta"):
        train(work / "run", OWN_SMALL, resume=True)
    assert "of an older version, which kept no hashes" in caplog.text
    assert manifest(work / "run")["identity"]["code"]
    shutil.copytree(images, work / "moved")
    with pytest.raises(ConfigError, match=r"tasks.root: was"):
        train(work / "images", on_images(work / "moved"), resume=True)
    list(distmeta.train(configure(on_images(work / "moved")), work / "images", resume=True, accept_changes=True))


def test_evaluated_with_other_weights_or_data(
    work: Path, images: Path, tmp_path_factory: pytest.TempPathFactory, caplog: pytest.LogCaptureFixture
) -> None:
    """That is nobody's fault, but it is said."""
    (work / "own_frozen.py").write_text(FROZEN)
    base = {**SMALL, "model": {"kind": "module:own_frozen.Net"}}
    train(work / "run", base)
    forget()
    (work / "own_frozen.py").write_text(FROZEN.replace("torch.ones(3)", "torch.zeros(3)"))
    distmeta.evaluate(work / "run", trust_code=True)
    assert "frozen weights: mask has changed" in caplog.text
    caplog.clear()
    forget()
    distmeta.load(work / "run", trust_code=True)
    assert "frozen weights: mask has changed" in caplog.text
    caplog.clear()
    train(work / "images", on_images(images))
    distmeta.evaluate(work / "images")
    assert "has changed" not in caplog.text
    write_images(work, 1)
    distmeta.evaluate(work / "images", [f"tasks.root={work}"])
    assert "data: omniglot has changed" in caplog.text


def test_many_changes_are_counted() -> None:
    lines = changes({"frozen": {f"layer.{number}": "a" for number in range(20)}}, {})
    assert lines[0] == "frozen weights: layer.0 is gone"
    assert lines[-1] == "frozen weights: 12 more"


def test_glyphs_and_sinusoids(tmp_path: Path) -> None:
    glyphs = configure({**SMALL, "tasks": {"kind": "glyphs"}})
    assert list(identify(glyphs)["data"]) == ["glyphs"]
    assert identify(configure(SMALL)) == {"data": {}, "frozen": {}, "code": {}}
