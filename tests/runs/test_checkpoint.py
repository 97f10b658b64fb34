from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from distmeta.config.migrations import newest
from distmeta.errors import StorageError
from distmeta.runs import checkpoint
from distmeta.runs.checkpoint import Snapshot
from distmeta.storage.files import Storage
from distmeta.storage.migrations import MANIFEST_MIGRATIONS

Make = Callable[..., Snapshot]


def assert_same(left: Any, right: Any) -> None:
    if isinstance(left, Tensor):
        assert left.dtype == right.dtype
        assert left.shape == right.shape
        assert bits(left) == bits(right)
    elif isinstance(left, dict):
        assert left.keys() == right.keys()
        for key, value in left.items():
            assert_same(value, right[key])
    elif isinstance(left, (list, tuple)):
        assert type(left) is type(right)
        assert len(left) == len(right)
        for one, other in zip(left, right, strict=True):
            assert_same(one, other)
    else:
        assert left == right


def bits(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def assert_same_snapshot(left: Snapshot, right: Snapshot) -> None:
    for field in dataclasses.fields(Snapshot):
        assert_same(getattr(left, field.name), getattr(right, field.name))


def folder(run: Storage, step: int) -> Storage:
    return run.child("checkpoints", f"step-{step:08d}")


def test_round_trip(storage: Storage, make_snapshot: Make) -> None:
    snapshot = make_snapshot(12, best=12, finished=True)
    location = checkpoint.save(storage, snapshot)
    assert location == folder(storage, 12).location
    assert_same_snapshot(checkpoint.load(folder(storage, 12)), snapshot)
    assert checkpoint.steps(storage) == [12]


def test_every_dtype_and_layout_is_bit_exact(tmp_path: Path, make_snapshot: Make) -> None:
    base = torch.randn(6, 8, dtype=torch.float64)
    odd = torch.tensor([float("nan"), float("inf"), -0.0, 1e-310], dtype=torch.float64)
    state = {
        "float64": odd,
        "float32": torch.randn(5),
        "bfloat16": torch.randn(7).bfloat16(),
        "float16": torch.randn(3).half(),
        "int64": torch.tensor([2**62 + 1, -1]),
        "bool": torch.tensor([True, False, True]),
        "scalar": torch.tensor(1.5, dtype=torch.bfloat16),
        "empty": torch.zeros(0, 3),
        "transposed": base.t(),
        "sliced": base[::2, 1::3],
        "expanded": torch.randn(1, 3).expand(4, 3),
        "tied": base,
        "tied_again": base,
        "parameter": nn.Parameter(torch.randn(2)),
    }
    meta = {f"model/{name}": tensor for name, tensor in state.items()}
    groups = {"rates/a": base.t(), "curvature/b": torch.randn(2, 2).bfloat16()}
    optimizer = {"state": {0: {"view": base.view(-1)[3:9], "t": base.t(), "n": torch.tensor(3)}}}
    snapshot = make_snapshot(1, module_state=state, meta={**meta, **groups}, optimizer=optimizer)
    run = Storage.at(tmp_path)
    checkpoint.save(run, snapshot)
    loaded = checkpoint.load(folder(run, 1))
    assert_same_snapshot(loaded, snapshot)
    assert all(tensor.is_contiguous() for tensor in loaded.meta.values())


def test_meta_that_the_module_does_not_hold_bit_for_bit_is_kept(tmp_path: Path, make_snapshot: Make) -> None:
    exact = torch.randn(4)
    meta = {"model/w": exact, "model/zero": torch.tensor([-0.0]), "model/unknown": torch.ones(2)}
    state = {"w": exact.bfloat16(), "zero": torch.tensor([0.0])}
    snapshot = make_snapshot(1, meta=meta, module_state=state)
    checkpoint.save(Storage.at(tmp_path), snapshot)
    assert_same_snapshot(checkpoint.load(folder(Storage.at(tmp_path), 1)), snapshot)
    assert not folder(Storage.at(tmp_path), 1).exists("meta.safetensors")


def test_files_are_as_documented(tmp_path: Path, make_snapshot: Make) -> None:
    snapshot = make_snapshot(7, best=3, size=100_000)
    location = Path(checkpoint.save(Storage.at(tmp_path), snapshot))
    assert location == tmp_path / "checkpoints" / "step-00000007"
    files = {"manifest.json", "meta.safetensors", "params.safetensors", "state.pt"}
    assert {path.name for path in location.iterdir()} == files
    assert_same(
        dict(sorted(safetensors.torch.load_file(location / "params.safetensors").items())),
        dict(sorted(snapshot.module_state.items())),
    )
    assert list(safetensors.torch.load_file(location / "meta.safetensors")) == ["rates/weight"]
    state = torch.load(location / "state.pt", weights_only=True)
    assert state["meta"] == {}  # the module's parameters are not written twice
    assert (location / "state.pt").stat().st_size < 1.2 * snapshot.module_state["weight"].nbytes
    manifest = json.loads((location / "manifest.json").read_text())
    assert manifest["files"].keys() == files - {"manifest.json"}
    assert {"distmeta", "torch", "python"} == manifest["versions"].keys()
    assert manifest["config"] == snapshot.config
    assert (manifest["step"], manifest["finished"], manifest["best"]["step"]) == (7, False, 3)


def test_a_real_optimizer_goes_on_from_its_state(tmp_path: Path, make_snapshot: Make) -> None:
    def trained(state: dict[str, Any] | None, start: Tensor, steps: int) -> tuple[Tensor, dict[str, Any]]:
        vector = nn.Parameter(start.clone())
        optimizer = torch.optim.AdamW([vector], lr=0.1)
        if state is not None:
            optimizer.load_state_dict(state)
        for _ in range(steps):
            vector.grad = vector.detach().sin()
            optimizer.step()
        return vector.detach(), optimizer.state_dict()

    whole, _ = trained(None, torch.ones(5), 7)
    half, state = trained(None, torch.ones(5), 3)
    snapshot = make_snapshot(3, optimizer=state, meta={"model/w": half}, module_state={"w": half})
    checkpoint.save(Storage.at(tmp_path), snapshot)
    loaded = checkpoint.load(folder(Storage.at(tmp_path), 3))
    resumed, _ = trained(loaded.optimizer, loaded.meta["model/w"], 4)
    assert torch.equal(resumed, whole)


def test_what_no_load_would_take_is_refused_at_once(tmp_path: Path, make_snapshot: Make) -> None:
    with pytest.raises(TypeError, match="plain Python values, not Fraction"):
        checkpoint.save(Storage.at(tmp_path), make_snapshot(1, optimizer={"x": Fraction(1, 2)}))
    wide = {"w": torch.zeros(2, dtype=torch.complex128)}
    with pytest.raises(StorageError, match="complex128"):
        checkpoint.save(Storage.at(tmp_path), make_snapshot(1, module_state=wide))
    assert checkpoint.steps(Storage.at(tmp_path)) == []


def flip(path: Path, where: float) -> None:
    data = bytearray(path.read_bytes())
    data[min(int(len(data) * where), len(data) - 1)] ^= 1
    path.write_bytes(data)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "a flipped bit at the start": lambda path: flip(path, 0),
    "a flipped bit in the middle": lambda path: flip(path, 0.5),
    "a flipped bit at the end": lambda path: flip(path, 1),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-7]),
    "empty": lambda path: path.write_bytes(b""),
    "deleted": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", ["params.safetensors", "meta.safetensors", "state.pt", "manifest.json"])
def test_damage_is_seen_said_and_passed_over(file: str, damage: str, tmp_path: Path, make_snapshot: Make) -> None:
    run = Storage.at(tmp_path)
    for step in (10, 20):
        checkpoint.save(run, make_snapshot(step))
    DAMAGES[damage](tmp_path / "checkpoints" / "step-00000020" / file)
    with pytest.raises(StorageError, match=rf"step-00000020/{file} is damaged: "):
        checkpoint.load(folder(run, 20))
    snapshot, messages = checkpoint.latest(run)
    assert snapshot is not None
    assert_same_snapshot(snapshot, make_snapshot(10))
    if (file, damage) == ("manifest.json", "deleted"):
        assert (checkpoint.steps(run), messages) == ([10], [])
    else:
        assert len(messages) == 1
        assert f"step-00000020/{file}" in messages[0]


def test_every_byte_of_the_manifest_counts_or_means_nothing(tmp_path: Path, make_snapshot: Make) -> None:
    path = Path(checkpoint.save(Storage.at(tmp_path), make_snapshot(1, best=1))) / "manifest.json"
    original = path.read_bytes()
    messages = []
    for index in range(len(original)):
        path.write_bytes(original[:index] + bytes([original[index] ^ 1]) + original[index + 1 :])
        try:  # the last digit of a float may change without changing the float
            assert_same_snapshot(checkpoint.load(folder(Storage.at(tmp_path), 1)), make_snapshot(1, best=1))
        except StorageError as error:
            messages.append(str(error))
    assert all("manifest.json is damaged" in message for message in messages)
    assert len(messages) > 0.99 * len(original)


def test_a_newer_format_is_not_damage(tmp_path: Path, make_snapshot: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as future:
        future.setitem(MANIFEST_MIGRATIONS, newest(MANIFEST_MIGRATIONS), dict)
        checkpoint.save(Storage.at(tmp_path), make_snapshot(1))
    with pytest.raises(StorageError, match="newer format"):
        checkpoint.latest(Storage.at(tmp_path))


def test_latest_of_nothing(storage: Storage) -> None:
    assert checkpoint.latest(storage) == (None, [])
    assert checkpoint.best(storage) == (None, [])
    checkpoint.prune(storage, keep=1)


def test_best_then_last(storage: Storage, make_snapshot: Make) -> None:
    def best_step() -> int:
        snapshot, _ = checkpoint.best(storage)
        assert snapshot is not None
        return snapshot.step

    checkpoint.save(storage, make_snapshot(1))
    assert best_step() == 1
    for step in (2, 3, 4):
        checkpoint.save(storage, make_snapshot(step, best=2))
    assert best_step() == 2
    storage.child("checkpoints", "step-00000002").write_bytes("state.pt", b"")
    snapshot, messages = checkpoint.best(storage)
    assert snapshot is not None
    assert snapshot.step == 4
    assert "step-00000002/state.pt" in messages[0]
    storage.child("checkpoints").delete("step-00000002")
    assert best_step() == 4


def test_prune_keeps_newest_and_best(storage: Storage, make_snapshot: Make) -> None:
    for step in range(1, 8):
        checkpoint.save(storage, make_snapshot(step, best=min(step, 3)))
        checkpoint.prune(storage, keep=2)
    assert checkpoint.steps(storage) == [3, 6, 7]
    assert storage.child("checkpoints").list() == [f"step-{step:08d}" for step in (3, 6, 7)]


def test_prune_keeps_the_only_good_one(storage: Storage, make_snapshot: Make) -> None:
    for step in (1, 2, 3, 4):
        checkpoint.save(storage, make_snapshot(step))
    for step in (3, 4):
        folder(storage, step).write_bytes("state.pt", b"")
    checkpoint.prune(storage, keep=1)
    assert checkpoint.steps(storage) == [2, 4]
    folder(storage, 2).write_bytes("state.pt", b"")
    checkpoint.prune(storage, keep=1)
    assert checkpoint.steps(storage) == [2, 4]


def test_folders_without_a_manifest_are_no_checkpoints_and_are_swept(
    remote_storage: Storage, make_snapshot: Make
) -> None:
    folder(remote_storage, 1).write_bytes("params.safetensors", b"half")
    assert checkpoint.latest(remote_storage) == (None, [])
    checkpoint.save(remote_storage, make_snapshot(2))
    checkpoint.prune(remote_storage, keep=1)
    assert remote_storage.child("checkpoints").list() == ["step-00000002"]


def test_resolve(tmp_path: Path, make_snapshot: Make) -> None:
    run = Storage.at(tmp_path / "run")
    for step in (1, 2, 3):
        location = checkpoint.save(run, make_snapshot(step, best=2))
    assert checkpoint.resolve(tmp_path / "run")[0].step == 2
    assert checkpoint.resolve(f"file://{tmp_path}/run")[0].step == 2
    assert checkpoint.resolve(location)[0].step == 3
    (Path(location) / "manifest.json").unlink()
    with pytest.raises(StorageError, match=r"manifest.json is damaged: it is missing"):
        checkpoint.resolve(location)


def test_resolve_says_what_is_wrong(tmp_path: Path, make_snapshot: Make) -> None:
    with pytest.raises(StorageError, match=r"nowhere is neither .* is missing or empty"):
        checkpoint.resolve(tmp_path / "nowhere")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("")
    with pytest.raises(StorageError, match=r"other is neither .* holds no checkpoints"):
        checkpoint.resolve(tmp_path / "other")
    (tmp_path / "other" / "config.yaml").write_text("")
    with pytest.raises(StorageError, match=r"other has no checkpoint yet"):
        checkpoint.resolve(tmp_path / "other")
    checkpoint.save(Storage.at(tmp_path / "other"), make_snapshot(1))
    folder(Storage.at(tmp_path / "other"), 1).write_bytes("state.pt", b"")
    with pytest.raises(StorageError, match=r"no checkpoint of .*other can be used:\n .*state.pt is damaged"):
        checkpoint.resolve(tmp_path / "other")


def test_full_disk_keeps_the_previous_checkpoint(small_disk: Path, make_snapshot: Make) -> None:
    run = Storage.at(small_disk)
    checkpoint.save(run, make_snapshot(1))
    for step in (1, 2):
        with pytest.raises(StorageError, match=rf"step-0000000{step}: no space is left there"):
            checkpoint.save(run, make_snapshot(step, size=100_000))
    snapshot, messages = checkpoint.latest(run)
    assert snapshot is not None
    assert_same_snapshot(snapshot, make_snapshot(1))
    assert messages == []
