"""Checkpoints that were damaged, or written by somebody who means harm: refused by name, and left as they were."""

from __future__ import annotations

import enum
import json
import struct
import tempfile
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import torch
from fuzz_checkpoints import load, manifest_of, saved, sealed, small_checkpoint, small_run, state_of, write
from fuzz_helpers import damaged, fuzz, is_plain, mutated, plain_values, refusal, values
from hypothesis import strategies as st
from torch import Tensor

from distmeta.config.migrations import CONFIG_MIGRATIONS, newest
from distmeta.errors import StorageError
from distmeta.runs import checkpoint
from distmeta.runs.checkpoint import Snapshot
from distmeta.storage.files import Storage

NAMES = ["manifest.json", "params.safetensors", "meta.safetensors", "state.pt"]


def refused_or_whole(files: dict[str, bytes]) -> None:
    """A checkpoint loads, or is refused by name; what loads can be saved and is the same again."""
    loaded: list[Snapshot] = []
    error = refusal(lambda: loaded.append(load(files)))
    assert error is None or isinstance(error, StorageError)
    if loaded:
        assert_comes_back(loaded[0])


def assert_comes_back(snapshot: Snapshot) -> None:
    with tempfile.TemporaryDirectory() as folder:
        location = checkpoint.save(Storage.at(Path(folder)), snapshot)
        again = checkpoint.load(Storage.at(location))
    for name in Snapshot.__dataclass_fields__:
        assert_same(getattr(again, name), getattr(snapshot, name))


def assert_same(one: Any, other: Any) -> None:
    if isinstance(one, Tensor):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert bits(one) == bits(other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, (list, tuple)):
        assert (type(one), len(one)) == (type(other), len(other))
        for mine, its in zip(one, other, strict=True):
            assert_same(mine, its)
    else:
        assert one == other or (one != one and other != other)


def bits(tensor: Tensor) -> bytes:
    return bytes(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())


@fuzz(60, 1000, name=st.sampled_from(NAMES), data=st.data())
def test_damaged_files(name: str, data: Any) -> None:
    files = small_checkpoint()
    found = data.draw(damaged(st.just(files[name])))
    loaded: list[Snapshot] = []
    error = refusal(lambda: loaded.append(load({**files, name: found})))
    if name != "manifest.json" and found != files[name]:
        assert error is not None
        assert f"{name} is damaged" in str(error)


@fuzz(60, 1000, name=st.sampled_from(NAMES[1:]), data=st.data())
def test_damaged_files_with_the_right_hash(name: str, data: Any) -> None:
    files = small_checkpoint()
    refused_or_whole(sealed({**files, name: data.draw(damaged(st.just(files[name])))}))


def manifests() -> st.SearchStrategy[Any]:
    return st.deferred(lambda: mutated([manifest_of(small_checkpoint())], plain_values()))


@fuzz(60, 1500, manifest=manifests())
def test_other_values_in_the_manifest(manifest: Any) -> None:
    try:
        files = sealed(small_checkpoint(), manifest)
    except TypeError:  # keys that cannot be sorted: no manifest
        return
    refused_or_whole(files)


def tensors() -> st.SearchStrategy[Any]:
    return st.sampled_from(
        [
            *(torch.zeros(0), torch.zeros(2, 0), torch.ones(3).double(), torch.zeros(1).expand(10**12)),
            *(torch.zeros(3, 4).T, torch.ones(2).to(torch.complex64).conj(), torch.zeros(2).to_sparse()),
            *(torch.zeros(5, device="meta"), torch.nn.Parameter(torch.ones(2)), torch.tensor(float("nan"))),
            *(torch.zeros(2, dtype=torch.uint16), torch.ones(10)[2:4], torch.zeros(2, dtype=torch.bool)),
        ]
    )


def loop() -> list[Any]:
    """A list that holds itself."""
    made: list[Any] = []
    made.append(made)
    return made


def bomb() -> list[Any]:
    """A small list that stands for 10^40 values."""
    made: list[Any] = [1]
    for _ in range(40):
        made = [made] * 10
    return made


def deep() -> list[Any]:
    """A list within a list, many times."""
    made: list[Any] = []
    for _ in range(300):
        made = [made]
    return made


class Endless(enum.Enum):
    """Stands for a list of which nothing may be written down, as Hypothesis does with what it draws."""

    LOOP = "loop"
    BOMB = "bomb"
    DEEP = "deep"


def objects() -> st.SearchStrategy[Any]:
    odd = [torch.float32, torch.Size([2]), {1, 2}, OrderedDict(a=1), Counter("a"), bytearray(3), b"x", 1j]
    return values() | tensors() | st.sampled_from([*odd, (1,), {(1, 2): 3}, {1.5: 2}, *Endless])


def made(value: Any) -> Any:
    """A drawn value with the lists that stand for it in the place of their names."""
    if isinstance(value, Endless):
        return {"loop": loop, "bomb": bomb, "deep": deep}[value.value]()
    if type(value) is dict:
        return {key: made(item) for key, item in value.items()}
    return type(value)(made(item) for item in value) if type(value) in (list, tuple) else value


def states() -> st.SearchStrategy[Any]:
    return st.deferred(lambda: mutated([state_of(small_checkpoint())], objects()))


@fuzz(60, 1500, state=states())
def test_other_values_in_the_state(state: Any) -> None:
    refused_or_whole(sealed({**small_checkpoint(), "state.pt": saved(made(state))}))


@fuzz(10, 200, state=objects())
def test_states_of_anything(state: Any) -> None:
    error = refusal(lambda: load(sealed({**small_checkpoint(), "state.pt": saved(made(state))})))
    assert error is not None
    assert "state.pt is damaged" in str(error)


def headers(name: str) -> st.SearchStrategy[bytes]:
    """A safetensors file with other dtypes, shapes, offsets and names in its header."""

    def build(header: Any) -> bytes:
        text = json.dumps(header, skipkeys=True).encode()
        return struct.pack("<Q", len(text)) + text + body

    data = small_checkpoint()[name]
    (size,) = struct.unpack("<Q", data[:8])
    body = data[8 + size :]
    dtypes = st.sampled_from(["F64", "F16", "BF16", "I64", "U8", "BOOL", "F8_E4M3", "F4", "C64", "X", "f32"])
    return mutated([json.loads(data[8 : 8 + size])], dtypes | plain_values()).map(build)


@fuzz(60, 1000, name=st.sampled_from(NAMES[1:3]), data=st.data())
def test_other_headers_of_tensors(name: str, data: Any) -> None:
    refused_or_whole(sealed({**small_checkpoint(), name: data.draw(headers(name))}))


@fuzz(20, 300, name=st.sampled_from(NAMES), data=st.data())
def test_a_run_passes_over_what_is_damaged(name: str, data: Any) -> None:
    files = dict(small_run())
    place = f"checkpoints/step-00000002/{name}"
    files[place] = data.draw(damaged(st.just(files[place])))
    with tempfile.TemporaryDirectory() as folder:
        run = Storage.at(write(Path(folder), files))
        snapshot, messages = checkpoint.latest(run)
        assert snapshot is not None
        assert snapshot.step == (1 if messages else 2)
        checkpoint.prune(run, 1)
        assert snapshot.step in checkpoint.steps(run)
        assert checkpoint.load(run.child("checkpoints", f"step-{snapshot.step:08d}")).step == snapshot.step


# What is written comes back -----------------------------------------------------------------------------------------

DTYPES = ["float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]


@st.composite
def random_tensors(draw: st.DrawFn) -> Tensor:
    """Any bits, NaN with any payload among them, in any shape, empty ones too."""
    dtype = getattr(torch, draw(st.sampled_from(DTYPES)))
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    count = torch.Size(shape).numel() * torch.zeros(0, dtype=dtype).element_size()
    data = draw(st.binary(min_size=count, max_size=count))
    if dtype == torch.bool:
        data = bytes(byte % 2 for byte in data)
    if not count:
        return torch.zeros(shape, dtype=dtype)
    return torch.frombuffer(bytearray(data), dtype=dtype).reshape(shape)


def trees(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    keys = st.text(max_size=5) | st.integers(0, 9)
    return st.recursive(
        leaves | plain, lambda inner: st.dictionaries(keys, inner, max_size=3) | st.lists(inner, max_size=3)
    )


json_dicts = st.dictionaries(st.text(max_size=5), plain_values(), max_size=3)


@fuzz(
    30,
    600,
    module=st.dictionaries(st.from_regex(r"[a-z]{1,5}(\.[a-z]{1,5})?", fullmatch=True), random_tensors(), min_size=1),
    groups=st.dictionaries(st.sampled_from(["rates/a", "rates/b", "other/x.y"]), random_tensors()),
    optimizer=st.dictionaries(st.text(max_size=5), trees(random_tensors()), max_size=3),
    config=json_dicts.filter(is_plain).map(lambda config: {"schema": newest(CONFIG_MIGRATIONS), **config}),
    fingerprint=json_dicts,
    counters=st.dictionaries(st.text(max_size=5), st.integers(0, 10**9), max_size=2),
    step=st.integers(0, 2**40),
    seconds=st.floats(0, 1e300),
    value=st.floats(allow_nan=False, allow_infinity=False) | st.none(),
    own=st.booleans(),
)
def test_saved_is_loaded(module: Any, groups: Any, step: int, value: float | None, own: bool, **rest: Any) -> None:
    meta = {f"model/{name}": tensor.clone() for name, tensor in module.items()}
    if own:  # a meta-parameter that is not the module's
        meta = {name: torch.ones(2) for name in meta}
    best = None if value is None else {"step": step, "metric": "mse", "value": value}
    snapshot = Snapshot(
        step=step, tasks=step, meta={**meta, **groups}, module_state=module, best=best, plan={}, finished=own, **rest
    )
    assert_comes_back(snapshot)
