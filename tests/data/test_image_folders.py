"""Folders, archives and lists of images as people have them: splits, links, hidden files, names and rows."""

from __future__ import annotations

import io
import logging
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_files import class_folders, encoded, picture
from PIL import Image
from typer.testing import CliRunner

from distmeta.cli.main import app
from distmeta.data.images.build import StoreSettings, build_images
from distmeta.data.images.pixels import pixels
from distmeta.data.images.sources import image_source
from distmeta.data.store import EpisodeStore
from distmeta.errors import ConfigError, DataError
from distmeta.tasks.own_images import OwnImages

FRACTIONS = {"train": 0.5, "validation": 0.25, "test": 0.25}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTMETA_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return class_folders(tmp_path / "data", {"a": 2, "b": 3})


def build(root: Path, column: str = "", merged: bool = False) -> EpisodeStore:
    target = root.parent / "some.arrow"
    build_images(image_source(str(root), column), target, StoreSettings(merged=merged))
    return EpisodeStore.open(target)


def options(root: Path | str, **settings: Any) -> Any:
    return OwnImages.Options(kind="images", root=str(root), ways=2, queries=1, **settings)


@pytest.fixture(params=["val", "valid", "validation", "Valid"])
def split_root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    for at, split in enumerate(("train", request.param, "test")):
        class_folders(tmp_path / "split" / split, {"c": 2, "d": 2}, first=10 * at)
    return tmp_path / "split"


def test_every_name_of_a_split_joins_its_classes(split_root: Path) -> None:
    assert build(split_root, merged=True).classes == ("c", "d")
    (split_root.parent / "wrapped").mkdir()
    split_root.rename(split_root.parent / "wrapped" / "photos")
    assert build(split_root.parent / "wrapped", merged=True).classes == ("c", "d")


@pytest.mark.parametrize("stray", ["sheet.png", "train/sheet.png", "extra/x/1.png", "extra/1.png"])
@pytest.mark.parametrize("wrapper", ["", "photos/"])
def test_what_lies_beside_the_splits_is_refused(split_root: Path, stray: str, wrapper: str) -> None:
    (split_root / stray).parent.mkdir(parents=True, exist_ok=True)
    (split_root / stray).write_bytes(encoded(1))
    base = split_root
    if wrapper:
        base = split_root.parent / "outer"
        base.mkdir()
        split_root.rename(base / "photos")
    with pytest.raises(DataError, match=rf"'{wrapper}{stray}' lies in no class folder of a split, .*expected SPLIT/"):
        build(base, merged=True)


def test_the_archive_of_a_split_may_have_its_folder(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        class_folders(tmp_path / split / split, {f"{split}-c": 2, f"{split}-d": 2})
        shutil.make_archive(str(tmp_path / "data" / split), "zip", tmp_path / split)
    store = build(tmp_path / "data")
    assert store.classes == ("test-c", "test-d", "train-c", "train-d", "valid-c", "valid-d")
    assert store.groups[-1] == "validation"


@pytest.mark.parametrize("link", ["loop", "a/loop", "z", "b/z"])
def test_folders_are_read_once(root: Path, link: str, caplog: pytest.LogCaptureFixture) -> None:
    (root / link).symlink_to(root if "loop" in link else root / "a")
    (root / "none").symlink_to("none")
    (root / "b" / "gone.png").symlink_to("nowhere")
    assert build(root).counts.tolist() == [2, 3]
    assert f"'{link}' is left out: it leads to {'the folder itself' if 'loop' in link else repr('a')}" in caplog.text


def test_a_folder_around_the_root_leads_back(root: Path) -> None:
    (root / "up").symlink_to(root.parent)
    class_folders(root.parent, {"more": 2})
    assert build(root).classes == ("a", "b", "up/more")


def test_a_linked_image_is_read_once(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (root / "a" / "0-link.png").symlink_to(root / "a" / "000.png")
    (root / "b" / "also.png").symlink_to(root / "a" / "001.png")
    assert build(root).counts.tolist() == [2, 3]
    assert "'b/also.png' is left out: it leads to 'a/001.png', which is read already" in caplog.text


def test_a_list_may_name_links_once(root: Path) -> None:
    (root / "z").symlink_to(root / "a")
    (root / "b" / "also.png").symlink_to(root / "a" / "001.png")
    (root / "list.csv").write_text("filename,label\nz/000.png,x\nb/also.png,x\n")
    assert build(root / "list.csv").counts.tolist() == [2]
    (root / "list.csv").write_text("filename,label\nz/001.png,x\nb/also.png,y\n")
    with pytest.raises(DataError, match=r"line 3: 'a/001\.png', of the class 'y', is also in line 2, of the class 'x'"):
        build(root / "list.csv")


def test_names_that_are_not_utf8(root: Path) -> None:
    with tarfile.open(root.parent / "a.tar", "w", format=tarfile.GNU_FORMAT, encoding="latin-1") as archive:
        for name in ("a/1.png", "a/é.png"):
            member = tarfile.TarInfo(name)
            member.size = len(encoded(1))
            archive.addfile(member, io.BytesIO(encoded(1)))
    with pytest.raises(DataError, match=r"a\.tar: the name of the file 'a/\\udce9\.png' is not in UTF-8"):
        build(root.parent / "a.tar")
    Path(os.fsdecode(os.fsencode(root) + b"/b/\xe9.png")).write_bytes(encoded(1))
    for attempt in (lambda: build(root), lambda: image_source(str(root)).fingerprint()):
        with pytest.raises(DataError, match=r"data: the name of the file 'b/\\udce9\.png' is not in UTF-8; .* rename"):
            attempt()


def test_hidden_files_are_said(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    class_folders(root, {".thumbs": 2})
    (root / "a" / ".hid.png").write_bytes(encoded(1))
    assert build(root).counts.tolist() == [2, 3]
    assert "2 hidden files and folders are left out, such as '" in caplog.text
    (root / "list.csv").write_text("filename,label\na/000.png,x\na/.hid.png,x\n")
    with pytest.raises(DataError, match=r"line 3: 'a/\.hid\.png' is the name of a hidden file, .*; rename the file"):
        build(root / "list.csv")
    (root / "list.csv").write_text("filename,label\n.\\a\\000.png,x\n")
    with pytest.raises(DataError, match="line 2: there is no file"):
        build(root / "list.csv")


@pytest.mark.parametrize("other", ["x", "y"])
def test_a_list_names_a_file_once(root: Path, other: str) -> None:
    (root / "list.csv").write_text(f"filename,label\na/000.png,x\nb/000.png,y\n./a/000.png,{other}\n")
    with pytest.raises(
        DataError, match=rf"line 4: 'a/000\.png', of the class '{other}', is also in line 2, of the class 'x'"
    ):
        build(root / "list.csv")


def test_lists_of_splits_name_a_file_once(root: Path) -> None:
    for split in ("train", "val", "test"):
        (root / f"{split}.csv").write_text(f"filename,label\na/000.png,{split}\n")
    with pytest.raises(DataError, match=r"val\.csv, line 2: 'a/000\.png', .* is also in .*/train\.csv, line 2, of"):
        build(root)


def test_a_column_of_splits_where_there_is_none(root: Path, split_root: Path) -> None:
    for place in (root, split_root):
        with pytest.raises(ConfigError, match=r"tasks\.splits = \{column: part\}: .* is not a single list \(\.csv\)"):
            OwnImages.store(options(place, splits={"column": "part"}))
    assert OwnImages.store(options(split_root, splits=FRACTIONS)).classes == ("c", "d")


def test_a_list_with_a_column_of_splits(root: Path) -> None:
    rows = "a/000.png,x,train\na/001.png,y,val\nb/000.png,z,test\n"
    (root / "list.csv").write_text(f"filename,label,part\n{rows}b/001.png,X,test\n")
    with pytest.raises(
        DataError, match=r"line 5: 'part' has test for the class 'X', and train for 'x' in line 2; .*ro"
    ):
        OwnImages.store(options(root / "list.csv", splits={"column": "part"}))
    (root / "list.csv").write_text(f"filename,label,part\n{rows}")
    with pytest.raises(
        ConfigError, match=r"list\.csv does not say which are the splits of its 3 .* or \{column: NAME\}"
    ):
        OwnImages.classes(options(root / "list.csv"))
    (root / "list.csv").write_text(f"filename,label,part\n{rows}".replace("val", "test"))
    with pytest.raises(DataError, match=r"column: part\}: .* no class for the validation split there; set this"):
        OwnImages.classes(options(root / "list.csv", splits={"column": "part"}))


@pytest.mark.parametrize(
    "splits", ["{train: .5, validation: .25, test: .25}", "{train: [c0, c3], validation: [c1], test: [c2]}"]
)
def test_a_store_keeps_the_splits_that_it_is_built_with(tmp_path: Path, splits: str) -> None:
    root = class_folders(tmp_path / "data", {f"c{number}": 2 for number in range(8)})
    command = ["data", "build", "images", "--source", str(root), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, [*command, f"splits={splits}"])
    assert done.exit_code == 0, done.output
    import yaml

    built, classes = OwnImages.classes(options(tmp_path / "out" / "images.arrow"))
    again, expected = OwnImages.classes(options(root, splits=yaml.safe_load(splits)))
    named = [
        {split: [store.classes[at] for at in found[split]] for split in found}
        for store, found in ((built, classes), (again, expected))
    ]
    assert named[0] == named[1]
    assert "validation" in CliRunner().invoke(app, ["data", "check", str(built.path)]).output
    done = CliRunner().invoke(app, [*command, "rotations=true"])
    assert done.exit_code == 2
    assert "tasks.rotations: no setting of a store, which has size, channels, splits" in " ".join(done.output.split())


def test_check_counts_the_images_of_unlabelled_tasks(tmp_path: Path) -> None:
    for at, split in enumerate(("train", "val", "test")):
        class_folders(tmp_path / "data" / split, {f"{split}{n}": 4 for n in range(3)}, first=20 * at)
    (tmp_path / "config.yaml").write_text(
        f"tasks: {{kind: unlabelled, ways: 2, shots: 1, queries: 1, augment: {{flip: 0.5}}, "
        f"source: {{kind: images, root: {tmp_path / 'data'}}}}}\n"
        "model: {kind: conv4, filters: 4}\nalgorithm: {name: protonet}\n"
    )
    done = CliRunner().invoke(app, ["data", "check", str(tmp_path / "config.yaml")])
    assert done.exit_code == 0, done.output
    for split in ("train", "validation", "test"):
        row = next(line for line in done.output.splitlines() if f" {split} " in line)
        assert row.replace("│", " ").split()[1:] == ["3", "12", "4", "4"]


@pytest.mark.parametrize("largest", [1023, 65535])
@pytest.mark.parametrize("channels", [1, 3])
def test_grey_maps_of_more_than_8_bits(largest: int, channels: int) -> None:
    values = np.arange(108).reshape(12, 9) * largest // 107
    expected = np.round(values / largest * 255)
    packed = f"P5\n9 12\n{largest}\n".encode() + values.astype(">u2").tobytes()
    plain = f"P2\n9 12\n{largest}\n{' '.join(map(str, values.ravel()))}\n".encode()
    for content in (packed, plain):
        found = pixels(content, None, channels).reshape(12, 9, -1)[..., 0].astype(int)
        assert np.abs(found - expected).max() <= 1
        assert found[-1, -1] == 255
    floats = b"Pf\n9 12\n-1.0\n" + values.astype("<f4").tobytes()
    with pytest.raises(ValueError, match="of 32 bits"):
        pixels(floats, None, channels)


def test_lab_is_read_in_colour_and_grey() -> None:
    from PIL import ImageCms

    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    image = ImageCms.profileToProfile(picture(5), srgb, lab, outputMode="LAB")
    stream = io.BytesIO()
    image.save(stream, "TIFF")
    colour, grey = (pixels(stream.getvalue(), None, channels) for channels in (3, 1))
    assert np.array_equal(np.asarray(Image.fromarray(colour).convert("L")), grey)
