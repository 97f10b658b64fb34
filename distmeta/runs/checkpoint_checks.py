"""What a checkpoint's files may hold: their hashes are anybody's to recompute, so every value is checked before use."""

from __future__ import annotations

import io
import pickletools
import zipfile
from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import Field, NonNegativeInt
from torch import Tensor

from distmeta.core.layout import MODEL
from distmeta.core.quoting import shown
from distmeta.storage.manifests import PARAMS, Best, ExactValues, Step, check_values

_DEEPEST = 64
_MOST = 1_000_000
"""Values of ``state.pt``, those in several places counted as often as they stand there."""

_PICKLED = {"collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor_v3"}
"""What ``torch.save`` names in a pickle of tensors and plain values, beside storages and dtypes."""


class _State(ExactValues):
    step: Step
    tasks: Annotated[int, Field(ge=0, lt=2**63)]
    optimizer: dict[str, Any]
    best: Best | None
    counters: dict[str, NonNegativeInt]
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    finished: bool
    meta_in_params: list[str]
    meta: dict[str, Tensor]


def read_tensors(data: bytes) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        ValueError: it is none.
    """
    import safetensors.torch

    try:
        return dict(safetensors.torch.load(data))
    except Exception as error:  # safetensors' own, and a KeyError for a dtype that it does not know
        raise ValueError(f"it is no safetensors file ({_line(error)})") from None


def read_state(data: bytes, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The values of ``state.pt``, which agree with the manifest.

    Raises:
        ValueError: naming what is wrong.
    """
    try:
        _check_pickle(data)
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever zipfile, pickle and torch raise for what they do not read
        raise ValueError(f"it holds something else than tensors and plain values ({_line(error)})") from None
    _Walk().check(state, 0)
    check_values(_State, state)
    for name, number in (("seconds", state["seconds"]), ("best.value", (state["best"] or {}).get("value", 0.0))):
        if type(number) not in (int, float):  # pydantic takes a tensor of one element for a number
            raise ValueError(f"{name}: input should be a valid number, got {shown(number)}")
    for key in ("step", "tasks", "finished", "best"):
        if state[key] != manifest[key]:
            raise ValueError(f"{key} is {shown(state[key])}, but {shown(manifest[key])} in manifest.json")
    return dict(state)


def join_meta(
    state: Mapping[str, Any], module_state: Mapping[str, Tensor], groups: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """All meta-parameters, from the three files that hold them.

    Raises:
        ValueError: one is missing, or stands in two files.
    """
    names = state["meta_in_params"]
    missing = [name for name in names if not name.startswith(MODEL) or name.removeprefix(MODEL) not in module_state]
    if missing:
        raise ValueError(f"{shown(missing[0])} is missing in {PARAMS}")
    parts = [{name: module_state[name.removeprefix(MODEL)].clone() for name in names}, state["meta"], groups]
    joined = {name: tensor for part in parts for name, tensor in part.items()}
    if len(joined) != sum(map(len, parts)) or not joined:
        raise ValueError("meta-parameters stand in several files, or in none")
    return joined


def _check_pickle(data: bytes) -> None:
    """Only what :func:`torch.save` writes for tensors and plain values, and nothing that grows as it is unpacked."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = archive.infolist()
        if any(member.compress_type != zipfile.ZIP_STORED or member.file_size > len(data) for member in members):
            raise ValueError("it is compressed")
        pickled = next((m for m in members if m.filename.endswith("/data.pkl")), None)
        if pickled is None:
            raise ValueError("it has no data.pkl")
        for operation, argument, _ in pickletools.genops(archive.read(pickled)):
            if "GLOBAL" in operation.name and not _is_known(str(argument)):
                raise ValueError(f"it names {shown(argument)}")


def _is_known(name: str) -> bool:
    module, _, attribute = name.partition(" ")
    of_torch = module in ("torch", "torch.storage") and "." not in attribute
    is_type = attribute.endswith("Storage") or isinstance(getattr(torch, attribute, None), torch.dtype)
    return name in _PICKLED or (of_torch and is_type)


class _Walk:
    """Goes through what was unpickled: tensors that are what they seem, and plain values."""

    def __init__(self) -> None:
        self._left = _MOST

    def check(self, value: Any, depth: int) -> None:
        """Refuse anything else."""
        self._left -= 1
        if depth > _DEEPEST or self._left < 0:
            raise ValueError(f"it holds more than {_MOST:,} values, or is nested more than {_DEEPEST} deep")
        if type(value) is Tensor:
            whole = value.layout == torch.strided and value.device.type == "cpu" and value.is_contiguous()
            if not whole or value.is_quantized or value.is_conj() or value.is_neg() or value.requires_grad:
                raise ValueError("it holds a tensor that is not written out in full")
        elif type(value) is dict:
            for key, item in value.items():
                if type(key) not in (str, int):
                    raise ValueError(f"it holds the key {shown(key)}, which is no text and no number")
                self.check(item, depth + 1)
        elif type(value) in (list, tuple):
            for item in value:
                self.check(item, depth + 1)
        elif type(value) not in (bool, int, float, str, type(None)):
            raise ValueError(f"it holds something else than tensors and plain values: {type(value).__name__}")


def _line(error: Exception) -> str:
    return shown(" ".join(str(error).split()) or type(error).__name__)[1:-1]
