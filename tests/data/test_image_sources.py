"""Image sources that are damaged, incomplete or made to harm: one message that names the thing, and nothing is left."""

from __future__ import annotations

import io
import os
import pickle
import struct
import tarfile
import zipfile
import zlib
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from image_files import class_folders, encoded, picture
from PIL import Image

from distmeta.data.images import build as build_module
from distmeta.data.images import files as files_module
from distmeta.data.images.build import StoreSettings, build_images, built_images
from distmeta.data.images.files import DataPlace
from distmeta.data.images.pickles import arrays_of
from distmeta.data.images.pixels import pixels
from distmeta.data.images.published import CIFAR_FS_HELD_OUT, CifarArchive, MiniPickles
from distmeta.data.images.sources import image_source
from distmeta.data.store import EpisodeStore
from distmeta.errors import DataError


def build(root: Path, **settings: object) -> EpisodeStore:
    """The store, beside the root; on an error nothing has to be there."""
    target = root.parent / "out" / "some.arrow"
    try:
        build_images(image_source(str(root)), target, StoreSettings(**settings))  # type: ignore[arg-type]
    except DataError:
        assert [path.name for path in (root.parent / "out").glob("*")] == []
        assert list((Path(os.environ["DISTMETA_CACHE"]) / "unpacked").glob("*")) == []
        raise
    return EpisodeStore.open(target)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTMETA_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return class_folders(tmp_path / "data", {"b": 3, "a": 2, "c/d": 4})


def test_classes_are_sorted_and_images_keep_the_order_of_their_names(root: Path) -> None:
    store = build(root)
    assert store.classes == ("a", "b", "c/d")
    assert store.counts.tolist() == [2, 3, 4]
    expected = [picture(number) for number in (3, 4, 0, 1, 2, 5, 6, 7, 8)]
    assert np.array_equal(store.images, np.stack([np.asarray(image) for image in expected]))
    store.verify()


def test_other_files_and_hidden_ones_are_left_out(root: Path) -> None:
    (root / "README.md").write_text("about")
    (root / "a" / ".hidden.png").write_bytes(b"no image")
    (root / "__MACOSX" / "a").mkdir(parents=True)
    (root / "__MACOSX" / "a" / "000.png").write_bytes(b"no image")
    (root / "a" / "003.JPG").write_bytes(encoded(1, form="JPEG"))
    assert build(root).counts.tolist() == [3, 3, 4]


def test_a_store_in_pieces_is_the_store_in_one(root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    whole = build(root)
    pixel_rows, content = whole.images.copy(), whole.content_hash
    monkeypatch.setattr(build_module, "WHOLE", 0)
    monkeypatch.setattr(build_module, "PIECE", 2 * 20 * 20 * 3)
    store = build(root)
    assert [len(piece) for piece in store.pieces] == [2, 2, 2, 2, 1]
    assert store.content_hash == content
    assert np.array_equal(store.images, pixel_rows)
    rows = np.array([8, 0, 3, 3, 5])
    assert np.array_equal(store.read(rows), pixel_rows[rows])
    store.verify()
    damaged = bytearray(store.path.read_bytes())
    damaged[damaged.index(pixel_rows[7].tobytes()) + 5] ^= 1
    store.path.write_bytes(damaged)
    with pytest.raises(DataError, match="does not match the hash"):
        EpisodeStore.open(store.path).verify()


def huge() -> bytes:
    """A PNG of a kilobyte that claims 30,000 x 30,000 pixels."""
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is no image of the types PNG"),
        (b"<html>404</html>", "it is no image of the types PNG"),
        (encoded(1)[:-30], "truncated|broken"),
        (encoded(1)[:60] + b"\0\0\0\0" + encoded(1)[64:], "truncated|broken"),
        (huge(), r"it claims far more than 67,108,864 pixels"),
    ],
    ids=["empty", "no image", "truncated", "damaged", "claims gigabytes"],
)
def test_a_damaged_image_is_named(root: Path, content: bytes, reason: str) -> None:
    (root / "b" / "001.png").write_bytes(content)
    with pytest.raises(DataError, match=rf"data: 'b/001\.png' cannot be read \(.*({reason}).*mend or remove it"):
        build(root, size=(8, 8))


def test_every_damaged_image_is_named_up_to_some(root: Path) -> None:
    for name in ("a/000", "b/002"):
        (root / f"{name}.png").write_bytes(b"no image")
    with pytest.raises(
        DataError, match=r"2 images cannot be used; mend or remove them:\n  'a/000.*\n  'b/002"
    ) as found:
        build(root, size=(8, 8))
    assert len(str(found.value).splitlines()) == 3
    for number in range(30):
        (root / "a" / f"bad-{number:02}.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"10 images \(and perhaps more\) cannot be used") as found:
        build(root, size=(8, 8))
    assert len(str(found.value).splitlines()) == 11


def test_mixed_sizes_are_named_where_no_size_is_set(root: Path) -> None:
    (root / "b" / "001.png").write_bytes(encoded(1, (30, 25)))
    with pytest.raises(DataError, match=r"'b/001\.png' is 30 x 25 pixels, others are 20 x 20: set tasks\.size"):
        build(root)
    assert build(root, size=(20, 20)).shape == (20, 20, 3)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "LA", "I;16"])
def test_every_mode_of_pixels(mode: str) -> None:
    stream = io.BytesIO()
    if mode == "I;16":
        image = Image.fromarray(np.arange(400, dtype=np.uint16).reshape(20, 20) * 164)
    else:
        image = picture(5).convert("L").convert(mode) if mode in ("I;16", "LA") else picture(5).convert(mode)
    image.save(stream, "TIFF" if mode == "CMYK" else "PNG")
    for channels, shape in ((1, (20, 20)), (3, (20, 20, 3))):
        found = pixels(stream.getvalue(), None, channels)
        assert found.shape == shape
        assert found.dtype == np.uint8
        assert found.std() > 5  # not cut to white
    if mode == "I;16":
        assert int(pixels(stream.getvalue(), None, 1)[-1, -1]) == 399 * 164 // 257


def test_an_upright_picture_stays_so() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned
    stream = io.BytesIO()
    picture(3, (10, 20)).save(stream, "PNG", exif=exif)
    assert pixels(stream.getvalue(), None, 3).shape == (10, 20, 3)


def test_names_that_differ_in_capitals(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class_folders(tmp_path / "data" / "train", {"Cat": 2, "dog": 2})
    class_folders(tmp_path / "data" / "test", {"cat": 2})
    with pytest.raises(DataError, match=r"'Cat' and 'cat', which differ only in capitals, stand in train and in test"):
        build(tmp_path / "data")
    class_folders(tmp_path / "letters", {"A": 2, "a": 2})
    assert build(tmp_path / "letters").classes == ("A", "a")
    assert "'A' and 'a' differ only in capitals" in caplog.text


def test_both_names_of_a_split(tmp_path: Path) -> None:
    for split in ("train", "val", "validation", "test"):
        class_folders(tmp_path / "data" / split, {f"{split}-x": 2})
    with pytest.raises(DataError, match=r"has the folders 'val' and 'validation' for one split"):
        build(tmp_path / "data")


def test_images_outside_of_class_folders(root: Path) -> None:
    (root / "x.png").write_bytes(encoded(1))
    with pytest.raises(DataError, match=r"'x\.png' lies in no class folder; expected CLASS/NAME"):
        build(root)


def test_nothing_there(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(DataError, match="holds no images in class folders"):
        build(tmp_path / "data")
    with pytest.raises(DataError, match="there is nothing; correct the path"):
        build(tmp_path / "none")
    (tmp_path / "some.txt").write_text("x")
    with pytest.raises(DataError, match=r"expected a folder of class folders, an archive of one .* or a built store"):
        build(tmp_path / "some.txt")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "file,label\n",
            r"has no column 'filename': expected filename, label in .*, found 'file', 'label'",
        ),
        ("", r"has no column 'filename'.* found nothing"),
        ("filename,label\n", "has no rows"),
        ("filename,label\na/000.png,x\nb/009.png,x\n", r"line 3: there is no file 'b/009\.png' in "),
        ("filename,label\nA/000.png,x\n", r"line 2: .*there is 'a/000\.png': capitals matter"),
        ("filename,label\na/000.png,\n", r"line 2: nothing stands under 'label'"),
        ("filename,label\na/000.png\n", r"line 2: nothing stands under 'label'"),
        ('filename,label\n"a/000.png,x\n', r"line \d: .*expected comma-separated values"),
        (b"filename,label\na/000.png,\xff\n", "is no text in UTF-8"),
    ],
)
def test_bad_lists(root: Path, text: str | bytes, message: str) -> None:
    data = text if isinstance(text, bytes) else text.encode()
    (root / "list.csv").write_bytes(data)
    target = root.parent / "out" / "some.arrow"
    with pytest.raises(DataError, match=rf"list\.csv,? ?{message}") as found:
        build_images(image_source(str(root / "list.csv")), target, StoreSettings())
    assert len(str(found.value).splitlines()) == 1
    assert not target.exists()


def test_a_list_says_what_split_values_there_are(root: Path) -> None:
    (root / "list.csv").write_text("filename,label,part\na/000.png,x,training\n")
    with pytest.raises(DataError, match=r"line 2: 'training' stands under 'part'; expected train, validation or test"):
        build_images(image_source(str(root / "list.csv"), "part"), root / "some.arrow", StoreSettings())


@pytest.mark.parametrize("name", ["../x/0.png", "/x/0.png", "a/../../0.png", "C:/x/0.png", "a\\0.png"])
def test_archives_with_members_that_lead_elsewhere(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a/1.png", encoded(1))
        archive.writestr(zipfile.ZipInfo(name), encoded(2))
    with pytest.raises(DataError, match=r"a\.zip has an unsafe member: .*pack it again"):
        build(tmp_path / "a.zip")
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        member = tarfile.TarInfo(name)
        member.size = len(encoded(2))
        tar.addfile(member, io.BytesIO(encoded(2)))
    with pytest.raises(DataError, match=r"a\.tar\.gz has an unsafe member"):
        build(tmp_path / "a.tar.gz")


def test_links_in_archives(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("a/link.png")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(DataError, match=r"unsafe member: 'a/link\.png' is a link"):
        build(tmp_path / "a.zip")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        member = tarfile.TarInfo("a/link.png")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(member)
    with pytest.raises(DataError, match=r"unsafe member: 'a/link\.png' is a link"):
        build(tmp_path / "a.tar")


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tar.xz"])
@pytest.mark.parametrize("keep", [0, 10, -100])
def test_truncated_archives(tmp_path: Path, root: Path, name: str, keep: int) -> None:
    target = tmp_path / name
    if name == "a.zip":
        with zipfile.ZipFile(target, "w") as archive:
            archive.write(root / "a" / "000.png", "a/000.png")
    else:
        with tarfile.open(target, "w:" + target.suffix.removeprefix(".").removeprefix("tar")) as tar:
            tar.add(root, "data")
    content = target.read_bytes()
    if name == "a.tar" and keep < 0:
        keep = 3000  # in the midst of a file
    target.write_bytes(content[:keep])
    with pytest.raises(DataError, match=rf"{name}:? .*(damaged or truncated|holds no images|the archive ends in)"):
        build(target)


def test_archives_that_unpack_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files_module, "LARGEST_IMAGE_FILE", 10_000)
    monkeypatch.setattr(files_module, "_LEAST", 100_000)
    monkeypatch.setattr(files_module, "_FACTOR", 2)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/1.png", bytes(10**6))
    with pytest.raises(DataError, match=r"'a/1\.png' cannot be read \(it unpacks to more than 10,000 bytes\)"):
        build(tmp_path / "a.zip", size=(8, 8))
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        member = tarfile.TarInfo("a/1.png")
        member.size = 10**6
        tar.addfile(member, io.BytesIO(bytes(10**6)))
    with pytest.raises(DataError, match=r"a\.tar\.gz unpacks to more than 100,000 bytes"):
        build(tmp_path / "a.tar.gz", size=(8, 8))


def test_an_interrupted_build_leaves_nothing(root: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_images(image_source(str(root)), root.parent / "out" / "x.arrow", StoreSettings(), stop)
    assert list((root.parent / "out").iterdir()) == []


def test_a_store_is_built_once_for_the_same_files_and_settings(root: Path) -> None:
    first = built_images(image_source(str(root)), StoreSettings((8, 8)))
    made = first.path.stat().st_mtime_ns
    again = built_images(image_source(str(root)), StoreSettings((8, 8)))
    assert again.path == first.path
    assert again.path.stat().st_mtime_ns == made
    assert built_images(image_source(str(root)), StoreSettings((9, 9))).path != first.path


def test_linked_folders_are_followed(root: Path, tmp_path: Path) -> None:
    (tmp_path / "linked").mkdir()
    for name in ("a", "b"):
        (tmp_path / "linked" / name).symlink_to(root / name)
    assert build(tmp_path / "linked").counts.tolist() == [2, 3]


def test_sources_at_a_uri(root: Path, tmp_path: Path, bucket: str) -> None:
    place = DataPlace.at(bucket.format("/images"))
    expected = build(root)
    for path in sorted(root.rglob("*.png")):
        target = f"{place.path}/{path.relative_to(root).as_posix()}"
        place.filesystem.create_dir(target.rsplit("/", 1)[0], recursive=True)
        with place.filesystem.open_output_stream(target) as stream:
            stream.write(path.read_bytes())
    found = built_images(image_source(bucket.format("/images")), StoreSettings())
    assert found.content_hash == expected.content_hash


class TestPublished:
    """Forms in which published data sets come."""

    def cifar(self, folder: Path) -> DataPlace:
        names = sorted({name for part in CIFAR_FS_HELD_OUT.values() for name in part} | {f"t{n}" for n in range(64)})
        rng = np.random.default_rng(0)
        parts = {"meta": {b"fine_label_names": [name.encode() for name in names]}}
        for part, count in (("train", 5), ("test", 1)):
            labels = list(range(100)) * count
            data = rng.integers(0, 256, (len(labels), 3072), dtype=np.uint8)
            parts[part] = {b"data": data, b"fine_labels": labels}
        with tarfile.open(folder / "cifar-100-python.tar.gz", "w:gz") as tar:
            for name, value in parts.items():
                content = pickle.dumps(value, protocol=2)
                member = tarfile.TarInfo(f"cifar-100-python/{name}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        self.pixels = parts["train"][b"data"]
        self.names = names
        return DataPlace.at(str(folder / "cifar-100-python.tar.gz"))

    def test_the_official_cifar(self, tmp_path: Path) -> None:
        source = CifarArchive(self.cifar(tmp_path))
        store = built_images(source, StoreSettings((32, 32)))
        groups = dict(zip(store.classes, store.groups, strict=True))
        assert [sum(group == split for group in store.groups) for split in ("train", "validation", "test")] == [
            64,
            16,
            20,
        ]
        assert (groups["whale"], groups["sea"], groups["t3"]) == ("test", "validation", "train")
        assert store.counts.tolist() == [6] * 100
        at = store.classes.index("whale")
        first = self.pixels[self.names.index("whale")].reshape(3, 32, 32).transpose(1, 2, 0)
        assert np.array_equal(store.images[store.first[at]], first)

    def test_mini_imagenet_pickles(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        for name in ("train", "val", "test"):
            images = rng.integers(0, 256, (12, 84, 84, 3), dtype=np.uint8)
            classes = {f"{name}-a": list(range(6)), f"{name}-b": list(range(6, 12))}
            content = pickle.dumps({"image_data": images, "class_dict": classes}, protocol=2)
            (tmp_path / f"mini-imagenet-cache-{name}.pkl").write_bytes(content)
        source = MiniPickles.found(DataPlace.at(str(tmp_path)))
        assert source is not None
        store = built_images(source, StoreSettings((84, 84)))
        assert store.groups == ("test", "test", "train", "train", "validation", "validation")
        at = store.classes.index("test-b")
        assert np.array_equal(store.images[store.first[at] : store.first[at] + 6], images[6:])

    def test_a_pickle_that_would_run_code(self, tmp_path: Path) -> None:
        class Evil:
            def __reduce__(self) -> tuple[object, tuple[str]]:
                return os.system, (f"touch {tmp_path}/ran",)

        with pytest.raises(DataError, match=r"some\.pkl cannot be read \(it names posix\.system, which could"):
            arrays_of(pickle.dumps({"image_data": Evil()}), "some.pkl")
        assert not (tmp_path / "ran").exists()
        for content in (b"", b"garbage", pickle.dumps([1]), pickle.dumps({"a": np.ones(3)})[:-10]):
            with pytest.raises(DataError, match=r"some\.pkl .*expected a pickled dictionary of NumPy arrays"):
                arrays_of(content, "some.pkl")

    def test_pickles_of_something_else(self, tmp_path: Path) -> None:
        for name in ("train", "val", "test"):
            (tmp_path / f"mini-imagenet-cache-{name}.pkl").write_bytes(pickle.dumps({"image_data": 3}))
        source = MiniPickles.found(DataPlace.at(str(tmp_path)))
        assert source is not None
        with ExitStack() as stack, pytest.raises(DataError, match=r"train\.pkl: expected a dictionary with image_data"):
            source.entries(stack)
